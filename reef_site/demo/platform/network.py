"""The VMs' network: a bridge of the emulator's own, a pair of interfaces a VM, and a way out.

Everything here carries the emulator's tag in its name (interfaces) or comment (rules), so that the
next start can take away what a killed one left, and nothing else.
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

# Shared by all emulators of this machine: who is there, and whether packets were forwarded before.
COMMON = Path("/run/vm-emulators")
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FIRST, LAST = 10, 250


class NetworkError(Exception):
    """The kernel or our rights do not allow a network for VMs."""


def _environment() -> dict[str, str]:
    """Ours; `ip` and `iptables` may lie where only root's path leads."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"}


def run(*words: str, text: str = "", check: bool = True) -> str:
    """A command's output; raises NetworkError with what it complained about."""
    try:
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{words[0]}: {error}") from None
    if check and done.returncode:
        raise NetworkError(f"{' '.join(words[:4])}: {done.stderr.strip()}")
    return done.stdout


async def run_soon(*words: str, text: str = "") -> None:
    """The same without holding up others."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    _, errors = await process.communicate(text.encode())
    if process.returncode:
        raise NetworkError(f"{' '.join(words[:4])}: {errors.decode(errors='replace').strip()}")


class Network:
    """One emulator's bridge. `tag` is six hexadecimal digits that are its own."""

    def __init__(self, tag: str, kept: Path) -> None:
        self.tag = tag
        # Where the choice of addresses is kept: clients would rather not see it change.
        self._kept = kept
        self.bridge = f"rb{tag}"
        self.prefix = ""
        self.ula = f"fd{tag[:2]}:{tag[2:]}"
        self.mtu = 1500
        self._users: int | None = None

    @property
    def address(self) -> str:
        """The bridge's own address, at which VMs reach this machine."""
        return f"{self.prefix}.1"

    def ip(self, number: int) -> str:
        """A VM's IPv4 address."""
        return f"{self.prefix}.{number}"

    def ip6(self, number: int) -> str:
        """A VM's IPv6 address; not routed beyond this machine."""
        return f"{self.ula}::{number:x}"

    def open(self) -> None:
        """Make the bridge and the rules."""
        with _together():
            self._join()
            self.mtu = _outer_mtu()
            before = self._kept.read_text() if self._kept.exists() else ""
            self.prefix = _free_prefix(before, int(self.tag, 16))
            self._kept.write_text(self.prefix)
            lines = [
                f"link add {self.bridge} mtu {self.mtu} type bridge",
                f"addr add {self.address}/24 dev {self.bridge}",
                f"link set {self.bridge} up",
            ]
            run("ip", "-batch", "-", text="\n".join(lines))
            run("ip", "addr", "add", f"{self.ip6(1)}/64", "dev", self.bridge, "nodad", check=False)
            if FORWARD.read_text().strip() == "0":
                (COMMON / "was-off").touch()
                FORWARD.write_text("1")
        for rule in self._rules():
            run("iptables", "-w", *rule)

    def close(self) -> None:
        """Take away everything that carries our tag, however it came to be left."""
        listing = run("ip", "-o", "link", check=False).splitlines()
        names = [line.split(":")[1].strip().split("@")[0] for line in listing]
        ours = [each for each in names if each == self.bridge or each.startswith(f"rv{self.tag}-")]
        if ours:
            orders = "\n".join(f"link del {name}" for name in ours)
            run("ip", "-force", "-batch", "-", text=orders, check=False)
        try:
            self._remove_rules()
        finally:
            self._leave()

    async def plug(self, number: int, pid: int) -> None:
        """Connect the VM whose process 1 is `pid`."""
        inner, outer = f"rw{self.tag}-{number}", f"rv{self.tag}-{number}"
        lines = [
            f"link add {outer} mtu {self.mtu} type veth"
            f" peer name {inner} mtu {self.mtu} address {self._mac(number)}",
            f"link set {inner} netns {pid} name eth0",
            f"link set {outer} master {self.bridge} up",
        ]
        await run_soon("ip", "-batch", "-", text="\n".join(lines))
        lines = [
            "link set lo up",
            f"addr add {self.ip(number)}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {self.address}",
            f"addr add {self.ip6(number)}/64 dev eth0 nodad",
        ]
        # The last line fails where there is no IPv6, and may.
        await run_soon(
            *("nsenter", "--target", str(pid), "--net", "ip", "-force", "-batch", "-"),
            text="\n".join(lines),
        )

    def _mac(self, number: int) -> str:
        """The same for all VMs that ever have this address: nobody must learn a new one."""
        digits = f"02{self.tag}00{number:02x}"
        return ":".join(digits[at : at + 2] for at in range(0, 12, 2))

    async def unplug(self, number: int) -> None:
        """Take the VM's cable away for good."""
        with contextlib.suppress(NetworkError):
            await run_soon("ip", "link", "del", f"rv{self.tag}-{number}")

    async def cable(self, number: int, *, up: bool) -> None:
        """Pull the VM's cable, or put it back."""
        await run_soon("ip", "link", "set", f"rv{self.tag}-{number}", "up" if up else "down")

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
                words = line.replace('"', "").split()
                if self._comment in words:
                    run("iptables", "-w", "-t", table, "-D", *words[1:], check=False)

    # -- what belongs to all emulators of this machine

    def _join(self) -> None:
        self._users = os.open(COMMON / "users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _leave(self) -> None:
        """The last one out puts forwarding back as it was."""
        if self._users is None:
            return
        with _together():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pass
            else:
                if (COMMON / "was-off").exists():
                    FORWARD.write_text("0")
                shutil.rmtree(COMMON, ignore_errors=True)
            os.close(self._users)
            self._users = None


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Let one emulator of this machine at a time run the block."""
    while True:
        COMMON.mkdir(mode=0o700, exist_ok=True)
        try:
            handle = os.open(COMMON / "turn", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # the last one out took the folder along
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        # The folder may have gone while we waited.
        with contextlib.suppress(FileNotFoundError):
            if (COMMON / "turn").stat().st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _free_prefix(before: str, seed: int) -> str:
    """The first three numbers of a /24 that nobody here uses, those from before if possible."""
    routes: list[dict[str, Any]] = json.loads(
        run("ip", "-j", "-4", "route", "show", "table", "all")
    )
    taken = {".".join(str(each.get("dst", "")).split(".")[:3]) for each in routes}
    if before and before not in taken:
        return before
    for step in range(250 * 50):
        number = (seed + step) % (250 * 50)
        prefix = f"10.{200 + number // 250}.{number % 250}"
        if prefix not in taken:
            return prefix
    raise NetworkError("no free network in 10.200.0.0/16 and above")


def _outer_mtu() -> int:
    """The packet size of the way out, so that nothing from a VM is too large for it."""
    routes: list[dict[str, Any]] = json.loads(run("ip", "-j", "-4", "route", "show", "default"))
    if not routes:
        return 1500
    return int(Path(f"/sys/class/net/{routes[0]['dev']}/mtu").read_text())
