"""The keeper as one file, for this machine and others. Not a part of that file."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import time
from pathlib import Path

from django.conf import settings

from reef_site.common import archives

logger = logging.getLogger(__name__)

_HERE = Path(__file__)
# Files of other versions are removed when they were not used for this long.
_KEEP_SECONDS = 86_400.0


def program() -> bytes:
    """Return the keeper as one file that needs nothing else than Python 3.8 or newer.

    Its name ends in `.pyz`; `python3 -I -S FILE start` and the like run it. The first start by
    another version of Python than ours adds a copy beside it, with bytecode for that version.
    """
    return archives.build(_sources(), "keeper.launcher")


def local_file() -> Path:
    """Return the file for this machine, in the data folder; build it if it is missing.

    Its name contains a digest of the sources, and its content never changes. A running keeper does
    not need its file any more. Raises OSError.
    """
    path = Path(settings.DATA_DIR) / "keeper" / f"keeper-{_digest()}.pyz"
    try:
        os.utime(path)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        archives.write(str(path), program())
        _remove_old(path)
    return path


def _sources() -> dict[str, bytes]:
    """Return the modules by their path in the file."""
    folder = _HERE.parent
    paths = sorted(path for path in folder.rglob("*.py") if path != _HERE)
    return {f"keeper/{path.relative_to(folder)}": path.read_bytes() for path in paths}


@functools.cache
def _digest() -> str:
    found = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for name, source in {"": Path(archives.__file__).read_bytes(), **_sources()}.items():
        found.update(f"{name} {len(source)}\n".encode() + source)
    return found.hexdigest()[:12]


def _remove_old(newest: Path) -> None:
    for path in newest.parent.glob("keeper-*"):
        try:
            if path != newest and time.time() - path.stat().st_mtime > _KEEP_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # another process has removed it
        except OSError as error:
            logger.warning("cannot remove %s: %s", path, error)
