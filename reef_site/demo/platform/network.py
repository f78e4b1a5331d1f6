"""The VMs' network: a bridge, a veth pair for each VM, and NAT.

All interfaces (by name) and rules (by comment) carry the emulator's tag, so that the next start can
remove exactly those that a killed emulator left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# State shared by all emulators of this machine: locks, and whether forwarding was off before.
SHARED_DIR = Path("/run/vm-emulators")
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FIRST, LAST = 10, 250


class NetworkError(Exception):
    """The kernel or our rights do not allow a network for VMs."""


def _environment() -> dict[str, str]:
    """Return our environment with root's PATH, where `ip` and `iptables` may be."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"}


def run(*argv: str, text: str = "", check: bool = True) -> str:
    """Run a command and return its output. Raises NetworkError with its error message."""
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{argv[0]}: {error}") from None
    if check and done.returncode:
        raise NetworkError(f"{' '.join(argv[:4])}: {done.stderr.strip()}")
    return done.stdout


async def run_async(*argv: str, text: str = "") -> None:
    """Run a command like `run`, but asynchronously."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    _, errors = await process.communicate(text.encode())
    if process.returncode:
        raise NetworkError(f"{' '.join(argv[:4])}: {errors.decode(errors='replace').strip()}")


class Network:
    """The bridge of one emulator. `tag` is its unique prefix of six hexadecimal digits."""

    def __init__(self, tag: str, prefix_file: Path) -> None:
        self.tag = tag
        # Keeps the choice of addresses, so that it is the same after a restart.
        self._prefix_file = prefix_file
        self.bridge = f"rb{tag}"
        self.prefix = ""
        self.ula = f"fd{tag[:2]}:{tag[2:]}"
        self.mtu = 1500
        self._users: int | None = None

    @property
    def address(self) -> str:
        """Return the address of the bridge, at which VMs reach this machine."""
        return f"{self.prefix}.1"

    def ip(self, number: int) -> str:
        """Return the IPv4 address of a VM."""
        return f"{self.prefix}.{number}"

    def ip6(self, number: int) -> str:
        """Return the IPv6 address of a VM; it is not routed beyond this machine."""
        return f"{self.ula}::{number:x}"

    def open(self) -> None:
        """Create the bridge and the rules."""
        with _exclusive():
            self._register()
            self.mtu = _outer_mtu()
            previous = self._prefix_file.read_text() if self._prefix_file.exists() else ""
            self.prefix = _free_prefix(previous, int(self.tag, 16))
            self._prefix_file.write_text(self.prefix)
            lines = [
                f"link add {self.bridge} mtu {self.mtu} type bridge",
                f"addr add {self.address}/24 dev {self.bridge}",
                f"link set {self.bridge} up",
            ]
            run("ip", "-batch", "-", text="\n".join(lines))
            run("ip", "addr", "add", f"{self.ip6(1)}/64", "dev", self.bridge, "nodad", check=False)
            if IP_FORWARD.read_text().strip() == "0":
                (SHARED_DIR / "was-off").touch()
                IP_FORWARD.write_text("1")
        for rule in self._rules():
            run("iptables", "-w", *rule)

    def close(self) -> None:
        """Remove all interfaces and rules with our tag, including leftovers."""
        listing = run("ip", "-o", "link", check=False).splitlines()
        names = [line.split(":")[1].strip().split("@")[0] for line in listing]
        leftover = [
            each for each in names if each == self.bridge or each.startswith(f"rv{self.tag}-")
        ]
        if leftover:
            orders = "\n".join(f"link del {name}" for name in leftover)
            run("ip", "-force", "-batch", "-", text=orders, check=False)
        try:
            self._remove_rules()
        finally:
            self._deregister()

    async def plug(self, number: int, pid: int) -> None:
        """Connect the VM whose process 1 is `pid`."""
        inner, outer = f"rw{self.tag}-{number}", f"rv{self.tag}-{number}"
        lines = [
            f"link add {outer} mtu {self.mtu} type veth"
            f" peer name {inner} mtu {self.mtu} address {self._mac(number)}",
            f"link set {inner} netns {pid} name eth0",
            f"link set {outer} master {self.bridge} up",
        ]
        await run_async("ip", "-batch", "-", text="\n".join(lines))
        lines = [
            "link set lo up",
            f"addr add {self.ip(number)}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {self.address}",
            f"addr add {self.ip6(number)}/64 dev eth0 nodad",
        ]
        # The last line fails on machines without IPv6, which is acceptable.
        await run_async(
            *("nsenter", "--target", str(pid), "--net", "ip", "-force", "-batch", "-"),
            text="\n".join(lines),
        )

    def _mac(self, number: int) -> str:
        """Return the MAC address of a number. It never changes, so no ARP cache becomes stale."""
        digits = f"02{self.tag}00{number:02x}"
        return ":".join(digits[at : at + 2] for at in range(0, 12, 2))

    async def unplug(self, number: int) -> None:
        """Remove the network interface of the VM."""
        with contextlib.suppress(NetworkError):
            await run_async("ip", "link", "del", f"rv{self.tag}-{number}")

    async def set_cable(self, number: int, *, up: bool) -> None:
        """Disconnect the VM's network cable, or connect it again."""
        await run_async("ip", "link", "set", f"rv{self.tag}-{number}", "up" if up else "down")

    # -- rules

    def _rules(self) -> list[Sequence[str]]:
        subnet, mark = f"{self.prefix}.0/24", ("-m", "comment", "--comment", self._comment)
        nat = ("-t", "nat", "-A", "POSTROUTING", "-s", subnet, "!", "-d", subnet)
        return [
            (*nat, *mark, "-j", "MASQUERADE"),
            ("-I", "FORWARD", "-s", subnet, *mark, "-j", "ACCEPT"),
            ("-I", "FORWARD", "-d", subnet, *mark, "-j", "ACCEPT"),
        ]

    @property
    def _comment(self) -> str:
        return f"vm-emulator-{self.tag}"

    def _remove_rules(self) -> None:
        for table in ("nat", "filter"):
            listing = run("iptables", "-w", "-t", table, "-S", check=False)
            for line in listing.splitlines():
                argv = line.replace('"', "").split()
                if self._comment in argv:
                    run("iptables", "-w", "-t", table, "-D", *argv[1:], check=False)

    # -- state shared by all emulators of this machine

    def _register(self) -> None:
        self._users = os.open(SHARED_DIR / "users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _deregister(self) -> None:
        """Restore the forwarding setting if no other emulator runs."""
        if self._users is None:
            return
        with _exclusive():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pass
            else:
                if (SHARED_DIR / "was-off").exists():
                    IP_FORWARD.write_text("0")
                shutil.rmtree(SHARED_DIR, ignore_errors=True)
            os.close(self._users)
            self._users = None


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Hold the lock that all emulators of this machine share."""
    while True:
        SHARED_DIR.mkdir(mode=0o700, exist_ok=True)
        try:
            handle = os.open(SHARED_DIR / "turn", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # the last emulator has removed the folder
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        # The folder may have been removed while we waited for the lock.
        with contextlib.suppress(FileNotFoundError):
            if (SHARED_DIR / "turn").stat().st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _free_prefix(previous: str, seed: int) -> str:
    """Return the first three numbers of an unused /24 network, the previous ones if possible."""
    routes: list[dict[str, Any]] = json.loads(
        run("ip", "-j", "-4", "route", "show", "table", "all")
    )
    taken = {".".join(str(each.get("dst", "")).split(".")[:3]) for each in routes}
    if previous and previous not in taken:
        return previous
    for step in range(250 * 50):
        number = (seed + step) % (250 * 50)
        prefix = f"10.{200 + number // 250}.{number % 250}"
        if prefix not in taken:
            return prefix
    raise NetworkError("no free network in 10.200.0.0/16 and above")


def _outer_mtu() -> int:
    """Return the MTU of the default route, so that packets of VMs are never too large for it."""
    routes: list[dict[str, Any]] = json.loads(run("ip", "-j", "-4", "route", "show", "default"))
    if not routes:
        return 1500
    return int(Path(f"/sys/class/net/{routes[0]['dev']}/mtu").read_text())
