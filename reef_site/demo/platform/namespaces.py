"""VMs in namespaces: root disk, processes, host name and network of their own. They need root.

A VM's disk is an overlay: this machine's programs and settings, read-only, below a writable layer.
Homes and temporary files are empty at first. A saved disk is one more layer. Memory is not saved: a
copy has the files that its parent had written (including sockets, pipes and incomplete files), but
none of its processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reef_site.demo.platform import guest, hosting_base, keys, processes
from reef_site.demo.platform.hosting_base import Boot, HostingError
from reef_site.demo.platform.network import Network, NetworkError
from reef_site.demo.platform.store import Vm, new_id

SSHD = "/usr/sbin/sshd"
# Folders that VMs share with this machine, and folders that are empty at first.
SHARED = ("usr", "etc", "opt", "var/lib", "var/cache")
LEGACY_SHARED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
EMPTY = ["boot", "dev", "home", "media", "mnt", "proc", "run/lock", "run/sshd", "srv", "sys"]
EMPTY += ["var/backups", "var/local", "var/log/apt", "var/mail", "var/opt", "var/spool"]
BOOT_SECONDS = 30.0
# Limit for removing disks at the end, because a supervisor kills what does not stop soon.
CLOSE_SECONDS = 2.0


class Namespaces:
    """Hosting in namespaces. `state` is the folder of the disks, `tag` marks what belongs to us."""

    mode = "namespaces"
    user = "root"

    def __init__(self, state: Path, tag: str) -> None:
        self.state, self.tag = state, tag
        self.network = Network(tag, state / "network")
        self.on_vm_ended: Callable[[str], None] = lambda _: None
        self._fork_server: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pids: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._pid_futures: dict[str, asyncio.Future[int]] = {}
        self._ready_futures: dict[str, asyncio.Future[None]] = {}
        self._ended_events: dict[str, asyncio.Event] = {}

    @property
    def address(self) -> str:
        return self.network.address

    # -- start and stop

    def clear(self, timeout: float = 0.0) -> None:
        processes.kill_tagged(self.tag)
        # Without the programs or the rights for a network, there is nothing to remove.
        with contextlib.suppress(NetworkError):
            self.network.close()
        processes.remove_in_background(self.state / "vms", timeout)

    async def open(self) -> None:
        if os.geteuid() != 0 or not Path(SSHD).exists() or sys.platform != "linux":
            raise HostingError("this needs root, Linux and openssh-server")
        try:
            await asyncio.to_thread(self.network.open)
        except (NetworkError, OSError) as error:
            raise HostingError(str(error)) from None
        (self.state / "vms").mkdir(exist_ok=True)
        (self.state / "layers").mkdir(exist_ok=True)
        self._make_skeleton()
        await self._start_fork_server()
        await self._boot_trial_vm()

    async def _boot_trial_vm(self) -> None:
        """Boot and kill a VM, because only that shows whether this machine allows it."""
        vm = Vm(new_id(), "", "", number=254)
        files = guest.first_boot(vm.vm_id, keys.ssh_pair("trial"))
        await self.boot(Boot(vm, files, guest.HOST_FILES))
        await self.kill(vm.vm_id)

    async def close(self) -> None:
        if self._fork_server:
            assert self._fork_server.stdin
            self._fork_server.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._fork_server.wait(), 5)
        if self._reader:
            self._reader.cancel()
        await asyncio.to_thread(self.clear, CLOSE_SECONDS)

    def _make_skeleton(self) -> None:
        """Create the lowest layer, with the folders that are not shared with this machine."""
        skeleton = self.state / "skeleton"
        if skeleton.exists():
            return
        draft = self.state / "skeleton.new"
        shutil.rmtree(draft, ignore_errors=True)
        for name in (*SHARED, *EMPTY):
            (draft / name).mkdir(parents=True)
        for name in LEGACY_SHARED:
            if (here := Path("/") / name).is_symlink():
                (draft / name).symlink_to(here.readlink())
            elif here.is_dir():
                (draft / name).mkdir()
        for name in ("tmp", "var/tmp"):
            (draft / name).mkdir()
            (draft / name).chmod(0o1777)
        (draft / "var/run").symlink_to("/run")
        home = draft / "root"
        shutil.copytree("/etc/skel", home) if Path("/etc/skel").is_dir() else home.mkdir()
        home.chmod(0o700)
        for name in guest.MIRROR_FILES:
            if (mine := Path.home() / name).is_file():
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(mine, home / name)
        draft.rename(skeleton)

    # -- life cycle of a VM

    async def boot(self, boot: Boot) -> None:
        vm, loop = boot.vm, asyncio.get_running_loop()
        self._pid_futures[vm.vm_id], self._ready_futures[vm.vm_id] = (
            loop.create_future(),
            loop.create_future(),
        )
        self._ended_events[vm.vm_id] = asyncio.Event()
        self._numbers[vm.vm_id] = vm.number
        await self._send_order(self._boot_order(boot))
        try:
            async with asyncio.timeout(BOOT_SECONDS):
                pid = await self._pid_futures[vm.vm_id]
                self._pids[vm.vm_id] = pid
                await self.network.plug(vm.number, pid)
                await self._ready_futures[vm.vm_id]
                await hosting_base.wait_for_connection(*self.endpoint(vm.vm_id, 22))
        except (NetworkError, TimeoutError, HostingError) as error:
            await self.kill(vm.vm_id)
            raise HostingError(str(error) or "the VM did not come up in time") from None

    def _boot_order(self, boot: Boot) -> dict[str, Any]:
        vm, folder = boot.vm, f"vms/{boot.vm.vm_id}"
        (self.state / folder / "root").mkdir(parents=True)
        mounts = []
        for part in ("", *SHARED, *self._legacy_shared()):
            name = part.replace("/", "-") or "base"
            upper, work = f"{folder}/disk/{name}", f"{folder}/work/{name}"
            lower = [f"layers/{layer}/{name}" for layer in vm.layers]
            lower.append(f"/{part}" if part else "skeleton")
            source = Path(f"/{part}") if part else self.state / "skeleton"
            for path in (upper, work):
                (self.state / path).mkdir(parents=True)
            shutil.copystat(source, self.state / upper)
            mounts.append({"at": part, "lower": ":".join(lower), "upper": upper, "work": work})
        return {
            "id": vm.vm_id,
            "cwd": str(self.state),
            "root": str(self.state / folder / "root"),
            "mounts": mounts,
            "hostname": "" if vm.restored else f"vm-{vm.vm_id[:8]}",
            "remove": boot.remove,
            "files": [file.as_dict() for file in boot.files],
            "argv": [SSHD, "-D", "-e"],
            "env": {"PATH": guest.ROOT_PATH, "HOME": "/root"},
            "log": f"{self.state}/{folder}/log",
        }

    @staticmethod
    def _legacy_shared() -> list[str]:
        places = [(name, Path("/") / name) for name in LEGACY_SHARED]
        return [name for name, path in places if path.is_dir() and not path.is_symlink()]

    def crash(self, vm_id: str) -> None:
        os.kill(self._pid(vm_id), signal.SIGKILL)

    async def kill(self, vm_id: str) -> None:
        if pid := self._pids.get(vm_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if ended_event := self._ended_events.get(vm_id):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended_event.wait(), 10)
        if vm_id in self._numbers:
            await self.network.unplug(self._numbers[vm_id])
        for table in (
            self._pids,
            self._numbers,
            self._pid_futures,
            self._ready_futures,
            self._ended_events,
        ):
            table.pop(vm_id, None)
        await asyncio.to_thread(processes.remove_folder, self.state / "vms" / vm_id)

    async def freeze(self, vm_id: str) -> None:
        await self._signal_all(vm_id, "STOP")

    async def thaw(self, vm_id: str) -> None:
        await self._signal_all(vm_id, "CONT")

    async def _signal_all(self, vm_id: str, name: str) -> None:
        """Signal all processes of a VM except process 1, which is what -1 means inside its
        namespace.
        """
        prefix = ("nsenter", "--target", str(self._pid(vm_id)), "--pid", "--")
        process = await asyncio.create_subprocess_exec(
            *prefix, "sh", "-c", f"kill -{name} -1", stderr=asyncio.subprocess.DEVNULL
        )
        await process.wait()

    async def save(self, vm_id: str, layer: str, *, lose_unsynced: bool) -> None:
        source, target = self.state / "vms" / vm_id / "disk", self.state / "layers" / layer
        process = await asyncio.create_subprocess_exec(
            *("cp", "-a", "--reflink=auto", str(source), str(target)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        if process.returncode:
            self.remove_layer(layer)
            raise HostingError(errors.decode(errors="replace").strip()[-200:])
        if lose_unsynced:
            await asyncio.to_thread(_zero_unsynced, target)

    def remove_layer(self, layer: str) -> None:
        processes.remove_folder(self.state / "layers" / layer)

    # -- access

    def endpoint(self, vm_id: str, port: int) -> tuple[str, int]:
        return self.network.ip(self._numbers[vm_id]), port

    def ip(self, vm: Vm) -> str:
        return self.network.ip6(vm.number)

    def command_inside(self, vm_id: str, argv: list[str]) -> list[str]:
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
        return ["nsenter", "--target", str(self._pid(vm_id)), *spaces, "--", *argv]

    def path(self, vm_id: str, path: str) -> str:
        return path

    def environment_file(self, vm_id: str) -> str:
        return Path(f"/proc/{self._pid(vm_id)}/root/etc/environment").read_text()

    async def set_cable(self, vm_id: str, *, up: bool) -> None:
        await self.network.set_cable(self._numbers[vm_id], up=up)

    def _pid(self, vm_id: str) -> int:
        if vm_id not in self._pids:
            raise HostingError("the VM has no processes")
        return self._pids[vm_id]

    # -- the fork server

    async def _start_fork_server(self) -> None:
        if self._reader:
            await self._reader  # the remaining reports of the previous fork server
        self._fork_server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(__file__).with_name("fork_server.py"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={processes.TAG: self.tag, "PATH": guest.ROOT_PATH},
            cwd=self.state,
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read_reports())

    async def _send_order(self, order: dict[str, Any]) -> None:
        assert self._fork_server
        if self._fork_server.returncode is not None:
            await self._start_fork_server()
        assert self._fork_server.stdin
        self._fork_server.stdin.write(json.dumps(order).encode() + b"\n")
        await self._fork_server.stdin.drain()

    async def _read_reports(self) -> None:
        assert self._fork_server
        assert self._fork_server.stdout
        while line := await self._fork_server.stdout.readline():
            self._handle_report(json.loads(line))
        for name in list(self._ended_events):
            self._fail_pending(name, "the fork server ended")
            self._ended_events[name].set()

    def _handle_report(self, report: dict[str, Any]) -> None:
        name = report["id"]
        if name not in self._ended_events:
            return
        if "pid" in report:
            self._pid_futures[name].set_result(report["pid"])
        elif "ready" in report:
            self._ready_futures[name].set_result(None)
        else:
            self._fail_pending(name, report.get("error", "the VM's first process ended"))
            if "ended" in report:
                self._ended_events[name].set()

    def _fail_pending(self, name: str, why: str) -> None:
        waiting = [
            each for each in (self._pid_futures[name], self._ready_futures[name]) if not each.done()
        ]
        for each in waiting:
            each.set_exception(HostingError(why))
            each.exception()  # prevents a warning if nobody awaits this one
        if not waiting:
            self.on_vm_ended(name)


def _zero_unsynced(layer: Path) -> None:
    """Overwrite files that were written after the last `sync` with zeros of the same length."""
    marker = layer / "base/run/.synced"
    synced = marker.stat().st_mtime if marker.exists() else 0.0
    for folder, _, names in os.walk(layer):
        for name in names:
            path = Path(folder) / name
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and facts.st_mtime > synced and facts.st_size:
                path.write_bytes(bytes(facts.st_size))
