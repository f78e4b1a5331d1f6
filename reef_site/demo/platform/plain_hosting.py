"""VMs without namespaces, for machines that do not allow them: an SSH server on loopback for each.

Each VM has a folder in place of a disk, with its home in it, and shares everything else with this
machine, including the network. That is sufficient for the API, SSH and programs that run in a home
folder; a program that installs packages would change this machine. VMs run as the emulator's user.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from reef_site.demo.platform import guest, processes
from reef_site.demo.platform.fork_server import write_files
from reef_site.demo.platform.hosting_base import Boot, HostingError
from reef_site.demo.platform.store import Vm

LOOPBACK = "127.0.0.1"
VM_TAG = "VM_EMULATOR_VM"
EXTRA_PATH = "/usr/sbin:/usr/local/sbin"
SFTP = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/sftp-server")
BOOT_SECONDS = 10.0


class Plain:
    """Hosting without root. `state` holds the VMs' folders, `tag` marks our processes."""

    mode = "plain"
    address = LOOPBACK

    def __init__(self, state: Path, tag: str) -> None:
        self.state, self.tag = state, tag
        self.user = getpass.getuser()
        self.on_vm_ended: Callable[[str], None] = lambda _: None
        self._sshd = ""
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}

    def clear(self) -> None:
        # sshd overwrites its environment, so it is found by its pid file.
        for file in (self.state / "vms").glob("*/pid"):
            for pid in processes.with_descendants(processes.read_pid_file(file)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        processes.kill_tagged(self.tag)
        shutil.rmtree(self.state / "vms", ignore_errors=True)

    async def open(self) -> None:
        found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{EXTRA_PATH}")
        if not found:
            raise HostingError("there is no sshd")
        self._sshd = found
        (self.state / "layers").mkdir(exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)

    async def close(self) -> None:
        for vm_id in list(self._servers):
            await self.kill(vm_id)
        await asyncio.to_thread(self.clear)

    # -- life cycle of a VM

    async def boot(self, boot: Boot) -> None:
        vm, folder = boot.vm, self._folder(boot.vm.vm_id)
        folder.parent.mkdir(parents=True)
        if vm.layers:
            await _copy(self.state / "layers" / vm.layers[0], folder)
        for name in ("root", "tmp", "etc"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        files = [{**file.as_dict(), "path": f"{folder}{file.path}"} for file in boot.files]
        await asyncio.to_thread(write_files, files)
        for _ in range(3):
            port = self._ports[vm.vm_id] = _free_port()
            server = self._servers[vm.vm_id] = self._start(vm, port)
            processes.write_pid_file(server.pid, folder.parent / "pid")
            if await self._accepts_connections(vm.vm_id):
                return
        await self.kill(vm.vm_id)
        log = (folder.parent / "log").read_text()[-300:]
        raise HostingError(f"sshd did not come up: {log}")

    def _start(self, vm: Vm, port: int) -> subprocess.Popen[bytes]:
        folder = self._folder(vm.vm_id)
        enter = folder.parent / "enter"
        enter.write_text(_login_script(f"{folder}/root"))
        enter.chmod(0o700)
        env = {
            **guest.mirror_environment(),
            "HOME": f"{folder}/root",
            "TMPDIR": f"{folder}/tmp",
            VM_TAG: vm.vm_id,
            processes.TAG: self.tag,
        }
        lines = [
            f"Port {port}",
            f"ListenAddress {LOOPBACK}",
            f"HostKey {folder}/etc/ssh/ssh_host_ed25519_key",
            f"AuthorizedKeysFile {folder}/root/.ssh/authorized_keys",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "UsePAM no",
            "UseDNS no",
            "PidFile none",
            "MaxStartups 200:30:400",
            "MaxSessions 200",
            f"Subsystem sftp {next((each for each in SFTP if Path(each).exists()), SFTP[0])}",
            f"ForceCommand {enter}",
            "SetEnv " + " ".join(f'"{key}={value}"' for key, value in env.items()),
        ]
        settings = folder.parent / "sshd_config"
        settings.write_text("\n".join(lines) + "\n")
        with (folder.parent / "log").open("ab") as log:
            return subprocess.Popen(
                [self._sshd, "-D", "-e", "-f", str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": guest.ROOT_PATH, VM_TAG: vm.vm_id, processes.TAG: self.tag},
                start_new_session=True,
            )

    async def _accepts_connections(self, vm_id: str) -> bool:
        """Return whether the VM's server accepts connections; False if it has ended."""
        end = asyncio.get_running_loop().time() + BOOT_SECONDS
        while asyncio.get_running_loop().time() < end and self._servers[vm_id].poll() is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(LOOPBACK, self._ports[vm_id])
                writer.close()
                return True
            await asyncio.sleep(0.01)
        return False

    def crash(self, vm_id: str) -> None:
        self._signal(vm_id, signal.SIGKILL)
        self.on_vm_ended(vm_id)

    async def kill(self, vm_id: str) -> None:
        while self._signal(vm_id, signal.SIGKILL):
            await asyncio.sleep(0.01)
        if server := self._servers.pop(vm_id, None):
            await asyncio.to_thread(server.wait)
        self._ports.pop(vm_id, None)
        await asyncio.to_thread(shutil.rmtree, self.state / "vms" / vm_id, ignore_errors=True)

    async def freeze(self, vm_id: str) -> None:
        # Twice, because a process may have forked during the first pass.
        for _ in range(2):
            self._signal(vm_id, signal.SIGSTOP)

    async def thaw(self, vm_id: str) -> None:
        self._signal(vm_id, signal.SIGCONT)

    def _signal(self, vm_id: str, number: signal.Signals) -> int:
        """Signal all processes of a VM and return their number."""
        own = [self._servers[vm_id].pid] if vm_id in self._servers else []
        found = processes.with_descendants([*own, *processes.pids_with_variable(VM_TAG, vm_id)])
        found = [pid for pid in found if processes.start_time(pid)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(found)

    async def save(self, vm_id: str, layer: str, *, lose_unsynced: bool) -> None:
        await _copy(self._folder(vm_id), self.state / "layers" / layer)

    def remove_layer(self, layer: str) -> None:
        shutil.rmtree(self.state / "layers" / layer, ignore_errors=True)

    # -- access

    def endpoint(self, vm_id: str, port: int) -> tuple[str, int]:
        return LOOPBACK, self._ports.get(vm_id, 0) if port == 22 else port

    def ip(self, vm: Vm) -> str:
        return "::1"

    def command_inside(self, vm_id: str, argv: list[str]) -> list[str]:
        home = shlex.quote(self.path(vm_id, "/root"))
        marks = [f"{VM_TAG}={vm_id}", f"{processes.TAG}={self.tag}"]
        return ["env", *marks, "sh", "-c", f'cd {home} && exec "$@"', "sh", *argv]

    def path(self, vm_id: str, path: str) -> str:
        return f"{self._folder(vm_id)}{path}"

    def environment_file(self, vm_id: str) -> str:
        return (self._folder(vm_id) / "etc/environment").read_text()

    async def set_cable(self, vm_id: str, *, up: bool) -> None:
        raise HostingError("a VM without namespaces has no cable of its own")

    def _folder(self, vm_id: str) -> Path:
        return self.state / "vms" / vm_id / "disk"


def _login_script(home: str) -> str:
    """Return the script that every login runs: the requested command, or a shell, in the home."""
    return f"""#!/bin/sh
cd {shlex.quote(home)} || exit 1
if [ -n "$SSH_ORIGINAL_COMMAND" ]; then
    exec "${{SHELL:-/bin/sh}}" -c "$SSH_ORIGINAL_COMMAND"
fi
exec "${{SHELL:-/bin/sh}}" -i
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


async def _copy(source: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec("cp", "-a", str(source), str(target))
    if await process.wait():
        raise HostingError("the disk could not be copied")
