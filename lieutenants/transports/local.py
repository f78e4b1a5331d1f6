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

from lieutenants import keeper
from lieutenants.exceptions import NotConnected, TransportError, Unreachable
from lieutenants.rpc import Outgoing
from lieutenants.transports import scopes
from lieutenants.transports.base import Handle, Launch
from reef_site.common import locks

_KEEPER = str(Path(keeper.__file__).resolve())
_START_SECONDS = 30
_ANSWER_SECONDS = 5.0
_FAREWELL_SECONDS = 3
_GRACE_SECONDS = 3
# How long is waited for a keeper that is about to end, or to say who it is.
_LOOKS, _LOOK_SECONDS = 20, 0.1

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
_PAGE = 4096


class LocalTransport:
    """See `base.Transport`."""

    def start(self, launch: Launch) -> Handle:
        """Run `keeper.py start`; the agent's environment goes through a pipe, never argv."""
        spec = json.dumps(launch.spec()).encode()
        scope = scopes.manager()
        done = _run_keeper(spec, scope.prefix(launch.run) if scope else [], scope)
        answer = _parse(done.stdout)
        if scope and not answer:
            # It ran nothing, or the keeper failed without a word: then it does so again.
            scopes.refuse(done.stderr.decode("utf-8", "replace").strip()[-300:])
            done = _run_keeper(spec, [], None)
            answer = _parse(done.stdout)
        answer = answer or {"error": done.stderr.decode("utf-8", "replace")[-500:]}
        if not answer.get("ok"):
            raise TransportError(str(answer.get("error") or "The supervisor did not start"))
        return _handle(answer)

    def find(self, directory: str) -> Handle | None:
        """Read what the keeper wrote about itself."""
        try:
            facts = _parse(Path(directory, "keeper.json").read_bytes())
        except OSError:
            return None
        return _handle(facts) if facts.get("keeper_pid") else None

    def send(self, directory: str, commands: Sequence[Outgoing]) -> None:
        """One connection for all of them; each is answered before the next goes out."""
        with _connected(directory) as ask:
            for command in commands:
                answer = ask({"op": "send", "id": command.id, "line": command.line})
                if not answer.get("ok"):
                    raise TransportError(f"The supervisor refused: {answer.get('error')}")

    def read(self, directory: str, offset: int, limit: int) -> bytes:
        """Bytes of the journal; looks at its size first, since mostly there is nothing new."""
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
        finally:
            os.close(file)

    def shorten(self, directory: str, offset: int) -> None:
        """Punch a hole; where the file system cannot, the journal keeps its length."""
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
        """The first whole record after the hole."""
        try:
            with open(os.path.join(directory, "journal.jsonl"), "rb") as file:
                file.seek(os.lseek(file.fileno(), offset, os.SEEK_DATA))
                file.readline()
                return file.tell()
        except OSError as error:
            raise TransportError(f"The journal cannot be read: {error.strerror}") from error

    def alive(self, handle: Handle, directory: str = "") -> bool:
        """Whether the pid with that start time is there and no zombie, and is a keeper.

        After a restart of the machine both numbers may be somebody else's: then the kernel has
        another boot id. And a keeper has its run's folder locked until it ends.
        """
        booted = handle.get("boot_id")
        if booted and booted != boot_id():
            return False
        if not _is_running(handle.get("keeper_pid"), handle.get("keeper_started")):
            return False
        return not (directory and _is_deserted(directory))

    def unreachable(self, handle: Handle, directory: str) -> str:
        """Look at its files and at the state of its process."""
        for name, what in (("control.sock", "socket"), ("journal.jsonl", "journal")):
            if not os.path.exists(f"{directory}/{name}"):
                has_folder = os.path.isdir(directory)
                return f"its {what} is gone" if has_folder else "the folder of its run is gone"
        if _state_of(handle.get("keeper_pid")) in (b"T", b"t"):
            return "its process is suspended"
        return ""

    def withdraw(self, directory: str) -> Handle | None:
        """Lock the folder as a keeper would, and leave a file there that refuses each later one."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # One that has just refused its start holds the folder for a moment.
            for _ in range(_LOOKS):
                if _is_locked(folder):
                    note = Path(directory, "keeper.json")
                    if not note.exists():
                        note.write_text(json.dumps({"ok": False, "withdrawn": True}) + "\n")
                    return None
                if handle := self.find(directory):
                    return handle
                time.sleep(_LOOK_SECONDS)
        finally:
            os.close(folder)
        raise TransportError("A supervisor is still starting there")

    def end(self, directory: str, handle: Handle, *, keeper: bool) -> None:
        """Signal what wears the lieutenant's tag; the keeper only if it is that for sure."""
        _sweep(directory, handle)
        pid, started = handle.get("keeper_pid"), handle.get("keeper_started")
        if not isinstance(pid, int) or not handle.get("boot_id"):
            return
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return
        try:
            # The descriptor stays with the process that was looked at, whatever becomes of the pid.
            if self.alive(handle) and _is_running(pid, started):
                signal.pidfd_send_signal(process, signal.SIGCONT)
                if keeper:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            os.close(process)

    def stop(self, directory: str, handle: Handle, farewell: Outgoing | None) -> None:
        """Ask the keeper; when it is gone, end what it left behind."""
        if not self.alive(handle, directory):
            _sweep(directory, handle)
            return
        request = {
            "op": "stop",
            "grace": _GRACE_SECONDS,
            "farewell": farewell.line if farewell else None,
            "farewell_wait": _FAREWELL_SECONDS,
        }
        with _connected(directory) as ask:
            ask(request)

    def clean(self, directory: str) -> None:
        """Remove journal and leftovers; the rows have it all."""
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
            [*prefix, sys.executable, "-I", "-S", _KEEPER, "start"],
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
    """Return what the kernel calls this run of the machine; empty where it does not tell."""
    return keeper.boot_id()


def _sweep(directory: str, handle: Handle) -> None:
    lieutenants = str(Path(directory).parents[2])
    user = int(handle.get("own_user") or 0)
    keeper.sweep(_tag(directory), user=user, lieutenants=lieutenants)


def _is_locked(folder: int) -> bool:
    """Lock a folder as its keeper does; False if somebody has it."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_deserted(directory: str) -> bool:
    """Whether nobody has this run's folder locked, and nobody answers at its socket."""
    try:
        if locks.is_held(directory, strict=True):
            return False
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # then nothing can be said
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
def _connected(directory: str) -> Iterator[Any]:
    """A function that asks the keeper one thing. Its socket's path may be too long to name."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotConnected(f"The run's folder is gone: {error.strerror}") from error
    try:
        try:
            key = keeper.read_key(folder)
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
    """The fields of /proc/<pid>/stat behind the name; none if there is no such process."""
    if not isinstance(pid, int):
        return []
    # Each keeper is looked at each second, and a file object costs twice as much.
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
    """What the agents of this run's lieutenant wear, and all that they started."""
    return f"REEF_LIEUTENANT={Path(directory).parent.parent.name}"
