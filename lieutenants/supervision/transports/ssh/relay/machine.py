"""Files, processes and keepers of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MB = 1 << 20
ANSWER_SECONDS = 5.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME = os.path.expanduser("~")
ROOT = os.path.join(HOME, ".reef-agents")


class Refused(Exception):
    """A request that failed; `kind` is the name of the error on reef's side.

    With the kind `Overtaken`, `generation` is the one of the newer follower.
    """

    def __init__(self, text: str, kind: str = "TransportError", generation: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.generation = generation


def expand(path: Any) -> str:
    if not isinstance(path, str) or not path.startswith(("~/", "/")):
        raise Refused(f"not a path: {path!r}")
    return os.path.join(HOME, path[2:]) if path.startswith("~/") else path


def parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8", "replace"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_file(path: str, limit: int = MB) -> bytes:
    """Return the head of a file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def write_file(path: str, data: bytes) -> None:
    """Write a file atomically, for this user only. Raises Refused with the reason."""
    draft = f"{path}.{os.getpid()}.new"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except OSError as trouble:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise Refused(f"cannot write {path}: {trouble.strerror}") from None


def search_path() -> str:
    """Return PATH with the folders that a non-interactive login often lacks."""
    own = [os.path.join(HOME, ".local", "bin"), os.path.join(HOME, "bin")]
    known = os.environ.get("PATH", "").split(":") + SYSTEM_PATH.split(":") + own
    return ":".join(dict.fromkeys(each for each in known if each))


def free_memory() -> int | None:
    """Return how many MiB new programs can have; None if the kernel does not say."""
    for line in read_file("/proc/meminfo", 8192).splitlines():
        if line.startswith(b"MemAvailable:"):
            return int(line.split()[1]) // 1024
    return None


def boot_id() -> str:
    return read_file("/proc/sys/kernel/random/boot_id").decode().strip()


def stat_fields(pid: Any) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat after the name; empty if there is no such process."""
    if type(pid) is not int:
        return []
    return read_file(f"/proc/{pid}/stat", 4096).rpartition(b")")[2].split()


def is_running(pid: Any, started: Any) -> bool:
    fields = stat_fields(pid)
    return len(fields) > 19 and fields[0] not in (b"Z", b"X") and int(fields[19]) == started


def handle_of(directory: str) -> dict[str, Any] | None:
    facts = parse_object(read_file(os.path.join(directory, "keeper.json")))
    return facts if facts.get("keeper_pid") else None


def generation_of(directory: str) -> int:
    """Return the generation of the newest follower that a run's keeper has seen."""
    text = read_file(os.path.join(directory, "generation"), 20)
    return int(text) if text.isdigit() else 0


def check_generation(directory: str, request: dict[str, Any]) -> None:
    """Raise Refused if the request comes from an older follower than the keeper has seen."""
    given, seen = request.get("generation"), generation_of(directory)
    if type(given) is int and given < seen:
        raise Refused("another follower has taken this agent over", "Overtaken", seen)


def is_alive(handle: dict[str, Any]) -> bool:
    if handle.get("boot_id") and handle["boot_id"] != boot_id():
        return False
    return is_running(handle.get("keeper_pid"), handle.get("keeper_started"))


def why_unreachable(directory: str, handle: dict[str, Any]) -> str:
    for name, what in (("control.sock", "socket"), ("journal.jsonl", "journal")):
        if not os.path.exists(os.path.join(directory, name)):
            return f"its {what} is gone"
    fields = stat_fields(handle.get("keeper_pid"))
    return "its process is suspended" if fields and fields[0] in (b"T", b"t") else ""


class Control:
    """A connection to the control socket of a run's keeper. Use as a context manager."""

    def __init__(self, directory: str) -> None:
        try:
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as trouble:
            text = f"the run's folder is gone: {trouble.strerror}"
            raise Refused(text, "NotConnected") from None
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(ANSWER_SECONDS)
        try:
            # The path of the socket may be too long for connect().
            self.connection.connect(f"/proc/self/fd/{folder}/control.sock")
        except OSError as trouble:
            self.connection.close()
            raise Refused(f"no supervisor answers: {trouble}", "NotConnected") from None
        finally:
            os.close(folder)
        self.key = read_file(os.path.join(directory, "control.key")).decode()
        self.lines = self.connection.makefile("rwb")

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.lines.close()
        self.connection.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the keeper's answer. Raises Refused, also if the keeper refuses."""
        try:
            self.lines.write(json.dumps({**request, "key": self.key}).encode() + b"\n")
            self.lines.flush()
            answer = parse_object(self.lines.readline())
        except OSError as trouble:
            raise Refused(f"the supervisor does not answer: {trouble}", "Unreachable") from None
        if not answer.get("ok"):
            text = "the supervisor refused: {}".format(answer.get("error"))
            if type(answer.get("generation")) is int:
                raise Refused(text, "Overtaken", answer["generation"])
            raise Refused(text)
        return answer
