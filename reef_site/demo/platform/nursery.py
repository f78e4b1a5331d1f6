"""A small process with one thread that forks the first process of each VM.

Started once by the emulator and told by JSON lines what to do; it answers with JSON lines. A VM is
two processes: an outer one, which waits, and the VM's own process 1 in namespaces of its own, which
puts the disk together, starts sshd and collects the dead. All of them are killed by the kernel when
this process ends, and it ends when its standard input does: so nothing outlives the emulator.
Standard library only, no threads.

Asked:   {"id", "cwd", "root", "mounts": [{"at", "lower", "upper", "work"}], "hostname", "remove",
          "files": [{"path", "text", "mode", "mark"}], "argv", "env", "log"}
         A file with a `mark` keeps its old lines but those that hold the mark. A hostname of ""
         is read from the disk.
Answers: {"id", "pid"} once it is there, {"id", "ready": true} when its sshd has been started,
         {"id", "error"} when that failed, {"id", "ended": true} when it is gone.
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


def check(result: int, what: str) -> None:
    """Raise what the C library says went wrong."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(kind: str, at: str, flags: int = 0, options: str = "", source: str = "") -> None:
    """mount(2)."""
    words = [(source or kind).encode(), at.encode(), kind.encode() or None]
    check(libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount {at}")


# -- the VM's process 1


def put_disk_together(order: dict[str, Any]) -> None:
    """Mount the VM's root and what a Linux expects there."""
    root = order["root"]
    mount("", "/", MS_REC | MS_PRIVATE, source="none")
    for each in order["mounts"]:
        options = f"lowerdir={each['lower']},upperdir={each['upper']},workdir={each['work']}"
        at = os.path.join(root, each["at"]) if each["at"] else root
        mount_disk(at, f"{options},index=off,metacopy=off")
    mount("proc", f"{root}/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    make_devices(f"{root}/dev")


def mount_disk(at: str, options: str) -> None:
    """Without waiting for the real disk, ever, where the kernel knows how."""
    try:
        mount("overlay", at, 0, f"{options},volatile")
    except OSError:
        mount("overlay", at, 0, options)


def make_devices(dev: str) -> None:
    """A small /dev with terminals of its own."""
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


def enter(root: str) -> None:
    """Make `root` the root of this process's namespace and let go of the old one."""
    os.chdir(root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    check(libc.syscall(number, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def write_files(files: list[dict[str, Any]]) -> None:
    """Files that the platform owns: identity, keys, name servers."""
    for each in files:
        path = Path(each["path"])
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = each["text"]
        if each["mark"] and path.exists():
            kept = [line for line in path.read_text().splitlines() if each["mark"] not in line]
            text = "".join(f"{line}\n" for line in kept) + text
        # A link, as resolv.conf often is, is replaced and not followed.
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, each["mode"])
        with os.fdopen(handle, "w") as file:
            file.write(text)
        path.chmod(each["mode"])


def start(argv: list[str], env: dict[str, str], log: int) -> int:
    """Start sshd; its pid."""
    null = os.open("/dev/null", os.O_RDWR)
    pipes = [(os.POSIX_SPAWN_DUP2, null, 0)]
    pipes += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    try:
        return os.posix_spawn(argv[0], argv, env, file_actions=pipes, setsid=True)
    finally:
        os.close(null)


def be_first(order: dict[str, Any], report: int, log: int) -> None:
    """The life of a VM's process 1: it never returns."""
    libc.prctl(PR_SET_NAME, b"vm-init", 0, 0, 0)
    try:
        put_disk_together(order)
        enter(order["root"])
        for pattern in order["remove"]:
            for old in Path("/").glob(pattern):
                old.unlink()
        write_files(order["files"])
        host = (order["hostname"] or Path("/etc/hostname").read_text().strip()).encode()
        check(libc.sethostname(host, len(host)), "sethostname")
        sshd = start(order["argv"], order["env"], log)
    except (OSError, KeyError) as error:
        os.write(report, json.dumps({"id": order["id"], "error": str(error)}).encode() + b"\n")
        os._exit(1)
    os.write(report, json.dumps({"id": order["id"], "ready": True}).encode() + b"\n")
    while True:
        try:
            gone, _ = os.wait()
        except ChildProcessError:
            gone = sshd
        if gone == sshd:
            time.sleep(0.2)
            sshd = start(order["argv"], order["env"], log)


# -- the nursery


def stay_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def bear(order: dict[str, Any]) -> tuple[int, int]:
    """Fork the two processes of a VM; the outer one's pid and the pipe on which both report."""
    told, report = os.pipe()
    nursery = os.getpid()
    outer = os.fork()
    if outer:
        os.close(report)
        os.set_blocking(told, False)
        return outer, told
    try:
        stay_with(nursery)
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
        check(libc.unshare(NAMESPACES), "unshare")
        inner = os.fork()
        if inner == 0:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            be_first(order, report, log)
        os.write(report, json.dumps({"id": order["id"], "pid": inner}).encode() + b"\n")
        os.waitpid(inner, 0)
    except (OSError, KeyError) as error:
        os.write(report, json.dumps({"id": order["id"], "error": str(error)}).encode() + b"\n")
    finally:
        os._exit(0)


def say(facts: dict[str, Any]) -> None:
    """Send a line to the emulator."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def main() -> None:
    """Take orders and pass reports on, until nobody gives orders any longer."""
    libc.prctl(PR_SET_NAME, b"vm-nursery", 0, 0, 0)
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
                    outer, told = bear(order)
                    vms[told] = (order["id"], outer)
                    watcher.register(told, selectors.EVENT_READ)
            elif data:
                os.write(1, data)
            else:
                name, outer = vms.pop(key.fd)
                watcher.unregister(key.fd)
                os.close(key.fd)
                os.waitpid(outer, 0)
                say({"id": name, "ended": True})


if __name__ == "__main__":
    main()
