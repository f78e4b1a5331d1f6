"""Files that the agent reads and writes through its client: only those in its working folder."""

from __future__ import annotations

import os
import stat

from .output import count_of, text_of

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

NONE, READ, WRITE = "none", "read", "write"
MAX_BYTES = 16 << 20


class Refused(Exception):
    """The request is not granted; the message says why."""


def capabilities(access: str) -> dict[str, bool]:
    """Return what the client offers to the agent."""
    return {"readTextFile": access in (READ, WRITE), "writeTextFile": access == WRITE}


def read(folder: str, params: dict[str, Any]) -> dict[str, str]:
    """Answer `fs/read_text_file`. Raises Refused, OSError."""
    path = inside(folder, text_of(params, "path"))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
            raise Refused(f"path: must be a file of at most {MAX_BYTES} bytes")
        text = file.read(MAX_BYTES).decode("utf-8", "replace")
    first, limit = count_of(params, "line"), count_of(params, "limit")
    if first or limit:
        begin = max(0, first - 1)
        end = begin + limit if limit else None
        text = "".join(text.splitlines(keepends=True)[begin:end])
    return {"content": text}


def write(folder: str, params: dict[str, Any]) -> None:
    """Answer `fs/write_text_file`. Raises Refused, OSError."""
    path, content = inside(folder, text_of(params, "path")), text_of(params, "content")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o644), "wb") as file:
        file.write(content.encode("utf-8", "replace"))


def inside(folder: str, path: str, *, also_root: bool = False) -> str:
    """Return the real path, which is inside the folder, or the folder itself. Raises Refused."""
    if not os.path.isabs(path) or "\0" in path:
        raise Refused("path: must be absolute")
    root, real = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([root, real]) != root or (real == root and not also_root):
        raise Refused("path: must be inside the working folder")
    return real
