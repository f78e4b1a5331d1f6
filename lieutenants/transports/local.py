"""Keepers on this machine: started as processes, reached by their Unix sockets."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lieutenants import keeper
from lieutenants.exceptions import TransportError
from lieutenants.rpc import Outgoing
from lieutenants.transports.base import Handle, Launch

_KEEPER = str(Path(keeper.__file__).resolve())
_START_SECONDS = 30
_ANSWER_SECONDS = 5.0
_FAREWELL_SECONDS = 3
_GRACE_SECONDS = 3

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
_PAGE = 4096


class LocalTransport:
    """See `base.Transport`."""

    def start(self, launch: Launch) -> Handle:
        """Run `keeper.py start`; the agent's environment goes through a pipe, never argv."""
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", _KEEPER, "start"],
                input=json.dumps(launch.spec()).encode(),
                capture_output=True,
                timeout=_START_SECONDS,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TransportError(f"The keeper did not start: {type(error).__name__}") from error
        answer = _parse(done.stdout) or {"error": done.stderr.decode("utf-8", "replace")[-500:]}
        if not answer.get("ok"):
            raise TransportError(str(answer.get("error") or "The keeper did not start"))
        return _handle(answer)

    def find(self, directory: str) -> Handle | None:
        """Read what the keeper wrote about itself."""
        try:
            facts = _parse(Path(directory, "keeper.json").read_bytes())
        except OSError:
            return None
        return _handle(facts) if facts else None

    def send(self, directory: str, commands: Sequence[Outgoing]) -> None:
        """One connection for all of them; each is answered before the next goes out."""
        with _connected(directory) as ask:
            for command in commands:
                answer = ask({"op": "send", "id": command.id, "line": command.line})
                if not answer.get("ok"):
                    raise TransportError(f"The keeper refused: {answer.get('error')}")

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

    def alive(self, handle: Handle) -> bool:
        """Whether the pid with that start time is there and no zombie."""
        return _is_running(handle.get("keeper_pid"), handle.get("keeper_started"))

    def stop(self, directory: str, handle: Handle, farewell: Outgoing | None) -> None:
        """Ask the keeper; when it is gone, end what it left behind."""
        if not self.alive(handle):
            lieutenants = str(Path(directory).parents[2])
            user = int(handle.get("own_user") or 0)
            keeper.sweep(_tag(directory), user=user, lieutenants=lieutenants)
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


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _handle(answer: dict[str, Any]) -> Handle:
    keys = ("keeper_pid", "keeper_started", "agent_pid", "agent_started", "isolation", "own_user")
    return {key: answer.get(key) for key in keys}


@contextlib.contextmanager
def _connected(directory: str) -> Iterator[Any]:
    """A function that asks the keeper one thing. Its socket's path may be too long to name."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TransportError(f"The run's folder is gone: {error.strerror}") from error
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_ANSWER_SECONDS)
            key = keeper.read_key(folder)
            link.connect(f"/proc/self/fd/{folder}/control.sock")
            with link.makefile("rwb") as lines:

                def ask(request: dict[str, Any]) -> dict[str, Any]:
                    lines.write(json.dumps({**request, "key": key}).encode() + b"\n")
                    lines.flush()
                    return _parse(lines.readline())

                yield ask
    except OSError as error:
        raise TransportError(f"The keeper does not answer: {error}") from error
    finally:
        os.close(folder)


def _is_running(pid: Any, started: Any) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == started


def _tag(directory: str) -> str:
    """What the agents of this run's lieutenant wear, and all that they started."""
    return f"REEF_LIEUTENANT={Path(directory).parent.parent.name}"
