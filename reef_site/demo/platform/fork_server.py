"""A small process with one thread that forks the first process of each VM.

The emulator starts it once. Orders and reports are lines of JSON on its standard streams. A VM is
two processes: an outer one, which waits, and the VM's own process 1 in namespaces of its own, which
mounts the disk, starts sshd and reaps orphans. The kernel kills all of them when this process ends,
and it ends when its standard input does, so nothing outlives the emulator.
Standard library only, no threads.

Orders:  {"id", "cwd", "root", "mounts": [{"at", "lower", "upper", "work"}], "hostname", "remove",
          "files": [{"path", "text", "mode", "mark"}], "argv", "env", "log"}
         A file with a `mark` keeps its old lines except those that contain the mark. A hostname
         of "" is read from the disk.
Reports: {"id", "pid"} once process 1 exists, {"id", "ready": true} when its sshd has been started,
         {"id", "error"} if the boot failed, {"id", "ended": true} when the VM has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import stat
import time
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x4000, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}


def raise_on_error(result: int, what: str) -> None:
    """Raise OSError with the message of the C library if `result` is an error."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(filesystem: str, at: str, flags: int = 0, options: str = "", source: str = "") -> None:
    """Call mount(2)."""
    args = [(source or filesystem).encode(), at.encode(), filesystem.encode() or None]
    raise_on_error(
        libc.mount(*args, ctypes.c_ulong(flags), options.encode() or None), f"mount {at}"
    )


# -- the VM's process 1


def mount_root(order: dict[str, Any]) -> None:
    """Mount the VM's root disk, and the file systems that Linux programs expect."""
    root = order["root"]
    mount("", "/", MS_REC | MS_PRIVATE, source="none")
    for each in order["mounts"]:
        options = f"lowerdir={each['lower']},upperdir={each['upper']},workdir={each['work']}"
        at = os.path.join(root, each["at"]) if each["at"] else root
        mount_overlay(at, f"{options},index=off,metacopy=off")
    mount("proc", f"{root}/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    make_devices(f"{root}/dev")


def mount_overlay(at: str, options: str) -> None:
    """Mount an overlay, without syncing to the real disk if the kernel supports that."""
    try:
        mount("overlay", at, 0, f"{options},volatile")
    except OSError:
        mount("overlay", at, 0, options)


def make_devices(dev: str) -> None:
    """Create a minimal /dev with its own terminals."""
    mount("tmpfs", dev, MS_NOSUID, "mode=755,size=64k")
    os.umask(0)
    for name, (major, minor) in {**DEVICES, "tty": (5, 0)}.items():
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    os.umask(0o022)
    os.mkdir(f"{dev}/pts")
    os.mkdir(f"{dev}/shm")
    mount("devpts", f"{dev}/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    mount("tmpfs", f"{dev}/shm", MS_NOSUID | MS_NODEV, "mode=1777")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))}
    for name, target in links.items():
        os.symlink(target, f"{dev}/{name}")


def pivot_root(root: str) -> None:
    """Make `root` the root of this process's mount namespace and detach the old root."""
    os.chdir(root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    raise_on_error(libc.syscall(number, b".", b"."), "pivot_root")
    raise_on_error(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def write_files(files: list[dict[str, Any]]) -> None:
    """Write the files that the platform manages: identity, keys, name servers."""
    for each in files:
        path = Path(each["path"])
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = each["text"]
        if each["mark"] and path.exists():
            kept = [line for line in path.read_text().splitlines() if each["mark"] not in line]
            text = "".join(f"{line}\n" for line in kept) + text
        # resolv.conf is often a link: replace it instead of writing to its target.
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, each["mode"])
        with os.fdopen(handle, "w") as file:
            file.write(text)
        path.chmod(each["mode"])


def start(argv: list[str], env: dict[str, str], log: int) -> int:
    """Start sshd and return its pid."""
    null = os.open("/dev/null", os.O_RDWR)
    pipes = [(os.POSIX_SPAWN_DUP2, null, 0)]
    pipes += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    try:
        return os.posix_spawn(argv[0], argv, env, file_actions=pipes, setsid=True)
    finally:
        os.close(null)


def run_init(order: dict[str, Any], report: int, log: int) -> None:
    """Run as process 1 of a VM. It never returns."""
    libc.prctl(PR_SET_NAME, b"vm-init", 0, 0, 0)
    try:
        mount_root(order)
        pivot_root(order["root"])
        for pattern in order["remove"]:
            for old in Path("/").glob(pattern):
                old.unlink()
        write_files(order["files"])
        host = (order["hostname"] or Path("/etc/hostname").read_text().strip()).encode()
        raise_on_error(libc.sethostname(host, len(host)), "sethostname")
        sshd = start(order["argv"], order["env"], log)
    except (OSError, KeyError) as error:
        os.write(report, json.dumps({"id": order["id"], "error": str(error)}).encode() + b"\n")
        os._exit(1)
    os.write(report, json.dumps({"id": order["id"], "ready": True}).encode() + b"\n")
    while True:
        try:
            ended, _ = os.wait()
        except ChildProcessError:
            ended = sshd
        if ended == sshd:
            time.sleep(0.2)
            sshd = start(order["argv"], order["env"], log)


# -- the fork server


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent dies."""
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def fork_vm(order: dict[str, Any]) -> tuple[int, int]:
    """Fork the two processes of a VM. Return the outer one's pid and the pipe of their reports."""
    reports, report = os.pipe()
    fork_server_pid = os.getpid()
    outer = os.fork()
    if outer:
        os.close(report)
        os.set_blocking(reports, False)
        return outer, reports
    try:
        die_with_parent(fork_server_pid)
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        keep = {report, log}
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in os.listdir("/proc/self/fd"):
            if int(number) > 2 and int(number) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(number))
        os.chdir(order["cwd"])
        raise_on_error(libc.unshare(NAMESPACES), "unshare")
        inner = os.fork()
        if inner == 0:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            run_init(order, report, log)
        os.write(report, json.dumps({"id": order["id"], "pid": inner}).encode() + b"\n")
        os.waitpid(inner, 0)
    except (OSError, KeyError) as error:
        os.write(report, json.dumps({"id": order["id"], "error": str(error)}).encode() + b"\n")
    finally:
        os._exit(0)


def send_report(facts: dict[str, Any]) -> None:
    """Send a line to the emulator."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def main() -> None:
    """Execute orders and forward reports until standard input is closed."""
    libc.prctl(PR_SET_NAME, b"vm-fork-server", 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watcher = selectors.DefaultSelector()
    watcher.register(0, selectors.EVENT_READ)
    orders = b""
    vms: dict[int, tuple[str, int]] = {}
    while True:
        for key, _ in watcher.select():
            data = os.read(key.fd, 1 << 16)
            if key.fd == 0:
                if not data:
                    os._exit(0)
                *lines, orders = (orders + data).split(b"\n")
                for line in lines:
                    order = json.loads(line)
                    outer, reports = fork_vm(order)
                    vms[reports] = (order["id"], outer)
                    watcher.register(reports, selectors.EVENT_READ)
            elif data:
                os.write(1, data)
            else:
                name, outer = vms.pop(key.fd)
                watcher.unregister(key.fd)
                os.close(key.fd)
                os.waitpid(outer, 0)
                send_report({"id": name, "ended": True})


if __name__ == "__main__":
    main()
