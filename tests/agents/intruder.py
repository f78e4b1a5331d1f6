"""A hostile agent. It prints a JSON object with the result of each attempt, or "refused: why".

It reads its targets from the JSON object in argv[1]: "files" to read, "folders" to list, "writes"
to create or append to, "pids" to inspect and signal, "sockets" to connect to (path to a request).
Standard library only; signals are SIGCONT, which is harmless.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def read(path: str) -> str:
    with open(path, "rb") as file:
        return f"read {len(file.read(64))} bytes"


def list_folder(path: str) -> str:
    return f"listed {os.listdir(path)}"


def write(path: str) -> str:
    with open(path, "ab") as file:
        return f"opened {file.name} for writing"


def connect(path: str, request: str) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(path)
        link.sendall(request.encode())
        answer = link.recv(4096).decode("utf-8", "replace")
    refusals = ("NOAUTH", "403", "does not carry the key")
    if any(word in answer for word in refusals):
        raise PermissionError(answer[:80])
    return "answer: " + answer[:80]


def attach_debugger(pid: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.ptrace(PTRACE_DETACH, pid, None, None)
    return "attached"


def send_signal(pid: int) -> str:
    os.kill(pid, signal.SIGCONT)
    return "sent"


def attempts(targets: dict[str, Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    for path in targets.get("files", []):
        yield "read " + path, partial(read, path)
    for path in targets.get("folders", []):
        yield "list " + path, partial(list_folder, path)
    for path in targets.get("writes", []):
        yield "write " + path, partial(write, path)
    for path, request in targets.get("sockets", {}).items():
        yield "connect " + path, partial(connect, path, request)
    for pid in targets.get("pids", []):
        for name in ("environ", "mem", "maps"):
            path = f"/proc/{pid}/{name}"
            yield "read " + path, partial(read, path)
        for name in ("fd/0", "fd/1", "cwd", "root", "exe"):
            path = f"/proc/{pid}/{name}"
            yield "follow " + path, partial(os.readlink, path)
        yield f"signal {pid}", partial(send_signal, pid)
        yield f"ptrace {pid}", partial(attach_debugger, pid)


def outcome(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except OSError as error:
        return f"refused: {error}"


print(json.dumps({name: outcome(attempt) for name, attempt in attempts(json.loads(sys.argv[1]))}))
