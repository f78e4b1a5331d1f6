"""Keepers on this machine: started as processes, reached by their Unix sockets."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lieutenants.agents.base import Outgoing
from lieutenants.exceptions import NotConnected, TransportError, Unreachable
from lieutenants.supervision.keeper import processes, run_files
from lieutenants.supervision.keeper.program import local_file
from lieutenants.supervision.transports import scopes
from lieutenants.supervision.transports.base import Handle, Launch
from reef_site.common import locks

_START_SECONDS = 30
_ANSWER_SECONDS = 5.0
_FINAL_COMMAND_SECONDS = 3
# How often and how long to wait for a keeper that is about to end, or to write its handle.
_MAX_ATTEMPTS, _ATTEMPT_SECONDS = 20, 0.1

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
_PAGE = 4096


class LocalTransport:
    """See `base.Transport`."""

    is_remote = False

    def start(self, launch: Launch) -> Handle:
        """Run the keeper's `start`; the agent's environment goes through a pipe, never argv."""
        spec = json.dumps(launch.spec()).encode()
        scope = scopes.manager()
        done = _run_keeper(spec, scope.prefix(launch.run) if scope else [], scope)
        answer = _parse(done.stdout)
        if scope and not answer:
            # Either it ran nothing, or the keeper failed silently and will do so again.
            scopes.refuse(done.stderr.decode("utf-8", "replace").strip()[-300:])
            done = _run_keeper(spec, [], None)
            answer = _parse(done.stdout)
        answer = answer or {"error": done.stderr.decode("utf-8", "replace")[-500:]}
        if not answer.get("ok"):
            raise TransportError(str(answer.get("error") or "The supervisor did not start"))
        return _handle(answer)

    def find(self, directory: str) -> Handle | None:
        """Read the keeper's own file."""
        try:
            facts = _parse(Path(directory, "keeper.json").read_bytes())
        except OSError:
            return None
        return _handle(facts) if facts.get("keeper_pid") else None

    def send(self, directory: str, commands: Sequence[Outgoing]) -> None:
        """Send all commands over one connection, each after the reply to the previous one."""
        with _request_channel(directory) as ask:
            for command in commands:
                answer = ask({"op": "send", "id": command.id, "line": command.line})
                if not answer.get("ok"):
                    raise TransportError(f"The supervisor refused: {answer.get('error')}")

    def can_read(self, directory: str, begin: int, end: int) -> bool:
        """Return True: the file is here."""
        return True

    def read(self, directory: str, offset: int, limit: int) -> bytes:
        """Read the journal, after checking its size, since usually there is nothing new."""
        path = os.path.join(directory, "journal.jsonl")
        try:
            if os.stat(path).st_size <= offset:
                return b""
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise TransportError(f"The journal cannot be read: {error.strerror}") from error
        try:
            return os.pread(file, limit, offset)
        except OSError as error:
            raise TransportError(f"The journal cannot be read: {error.strerror}") from error
        finally:
            os.close(file)

    def shorten(self, directory: str, offset: int) -> None:
        """Punch a hole; where the file system cannot, the journal keeps its size."""
        end = offset // _PAGE * _PAGE
        try:
            file = os.open(os.path.join(directory, "journal.jsonl"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise TransportError(f"The journal cannot be shortened: {error.strerror}") from error
        try:
            if _fallocate(file, _PUNCH_HOLE | _KEEP_SIZE, 0, end) and end:
                number = ctypes.get_errno()
                if number not in _CANNOT_PUNCH:
                    why = os.strerror(number)
                    raise TransportError(f"The journal cannot be shortened: {why}")
        finally:
            os.close(file)

    def skip_gap(self, directory: str, offset: int) -> int:
        """Return the offset of the first complete record after the hole."""
        try:
            with open(os.path.join(directory, "journal.jsonl"), "rb") as file:
                file.seek(os.lseek(file.fileno(), offset, os.SEEK_DATA))
                file.readline()
                return file.tell()
        except OSError as error:
            raise TransportError(f"The journal cannot be read: {error.strerror}") from error

    def alive(self, handle: Handle, directory: str = "") -> bool:
        """Return whether the pid with that start time is a live keeper.

        After a reboot both numbers may belong to another process, but then the boot id differs.
        Also, a keeper has its run's folder locked until it ends.
        """
        booted = handle.get("boot_id")
        if booted and booted != boot_id():
            return False
        if not _is_running(handle.get("keeper_pid"), handle.get("keeper_started")):
            return False
        return not (directory and _is_deserted(directory))

    def unreachable(self, handle: Handle, directory: str) -> str:
        """Check its files and the state of its process."""
        for name, what in (("control.sock", "socket"), ("journal.jsonl", "journal")):
            if not os.path.exists(f"{directory}/{name}"):
                has_folder = os.path.isdir(directory)
                return f"its {what} is gone" if has_folder else "the folder of its run is gone"
        if _state_of(handle.get("keeper_pid")) in (b"T", b"t"):
            return "its process is suspended"
        return ""

    def silent_seconds(self) -> None:
        """Return None: there is no connection."""

    def withdraw(self, directory: str) -> Handle | None:
        """Lock the folder like a keeper, and leave a file there that makes later keepers refuse."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A keeper that has just refused its start holds the lock for a moment.
            for _ in range(_MAX_ATTEMPTS):
                if _is_locked(folder):
                    note = Path(directory, "keeper.json")
                    if not note.exists():
                        note.write_text(json.dumps({"ok": False, "withdrawn": True}) + "\n")
                    return None
                if handle := self.find(directory):
                    return handle
                time.sleep(_ATTEMPT_SECONDS)
        finally:
            os.close(folder)
        raise TransportError("A supervisor is still starting there")

    def end(self, directory: str, handle: Handle, *, keeper: bool) -> None:
        """Signal processes with the lieutenant's tag; the keeper only if identified for sure."""
        _sweep(directory, handle)
        pid, started = handle.get("keeper_pid"), handle.get("keeper_started")
        if not isinstance(pid, int) or not handle.get("boot_id"):
            return
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return
        try:
            # The descriptor stays with the process that was checked, even if its pid is reused.
            if self.alive(handle) and _is_running(pid, started):
                signal.pidfd_send_signal(process, signal.SIGCONT)
                if keeper:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            os.close(process)

    def stop(self, directory: str, handle: Handle, final_command: Outgoing | None) -> None:
        """Ask the keeper to stop; if it is gone, end the processes that it left."""
        if not self.alive(handle, directory):
            _sweep(directory, handle)
            return
        request = {
            "op": "stop",
            "farewell": final_command.line if final_command else None,
            "farewell_wait": _FINAL_COMMAND_SECONDS,
        }
        with _request_channel(directory) as ask:
            ask(request)

    def release(self, directory: str) -> None:
        """Nothing is kept open between two reads."""

    def clean(self, directory: str) -> None:
        """Remove the journal and leftover files; the rows have everything."""
        if Path(directory).name and Path(directory, "keeper.json").exists():
            shutil.rmtree(directory, ignore_errors=True)


def _fallocate(file: int, mode: int, start: int, length: int) -> int:
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    result: int = call(file, mode, start, length)
    return result


def _run_keeper(
    spec: bytes, prefix: list[str], scope: scopes.Manager | None
) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(
            [*prefix, sys.executable, "-I", "-S", str(local_file()), "start"],
            input=spec,
            capture_output=True,
            timeout=_START_SECONDS,
            env={**env, **(scope.env if scope else {})},
            cwd="/",
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(f"The supervisor did not start: {type(error).__name__}") from error


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _handle(answer: dict[str, Any]) -> Handle:
    keys = ("keeper_pid", "keeper_started", "agent_pid", "agent_started", "boot_id")
    return {key: answer.get(key) for key in (*keys, "isolation", "own_user")}


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of this boot; empty where it is unknown."""
    return processes.boot_id()


def _sweep(directory: str, handle: Handle) -> None:
    lieutenants = str(Path(directory).parents[2])
    user = int(handle.get("own_user") or 0)
    processes.sweep(_tag(directory), user=user, lieutenants=lieutenants)


def _is_locked(folder: int) -> bool:
    """Lock a folder like its keeper; return False if another process has the lock."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_deserted(directory: str) -> bool:
    """Return whether no process has this run's folder locked and none answers at its socket."""
    try:
        if locks.is_held(directory, strict=True):
            return False
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # unknown
    try:
        _connect(folder).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    finally:
        os.close(folder)
    return False


@contextlib.contextmanager
def _request_channel(directory: str) -> Iterator[Any]:
    """Yield a function that sends the keeper one request.

    Its socket's path may be too long for connect().
    """
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotConnected(f"The run's folder is gone: {error.strerror}") from error
    try:
        try:
            key = run_files.read_key(folder)
            link = _connect(folder)
        except OSError as error:
            raise NotConnected(f"The supervisor does not answer: {error}") from error
        with link, link.makefile("rwb") as lines:

            def ask(request: dict[str, Any]) -> dict[str, Any]:
                lines.write(json.dumps({**request, "key": key}).encode() + b"\n")
                lines.flush()
                return _parse(lines.readline())

            yield ask
    except OSError as error:
        raise Unreachable(f"The supervisor does not answer: {error}") from error
    finally:
        os.close(folder)


def _connect(folder: int) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(_ANSWER_SECONDS)
        link.connect(f"/proc/self/fd/{folder}/control.sock")
    except OSError:
        link.close()
        raise
    return link


def _is_running(pid: Any, started: Any) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X") and int(fields[19]) == started


def _state_of(pid: Any) -> bytes:
    fields = _stat(pid)
    return fields[0] if fields else b""


def _stat(pid: Any) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat after the name; empty if there is no such process."""
    if not isinstance(pid, int):
        return []
    # Each keeper is checked every second, and a file object costs twice as much.
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(file, 4096).rpartition(b")")[2].split()
    except OSError:
        return []
    finally:
        os.close(file)


def _tag(directory: str) -> str:
    """Return the environment entry that marks the processes of this run's lieutenant."""
    return f"REEF_LIEUTENANT={Path(directory).parent.parent.name}"
