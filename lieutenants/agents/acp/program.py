"""The bridge as one file, for VMs."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from django.conf import settings

from reef_site.common import archives

START = Path(__file__).with_name("start.py")
_FOLDER = START.with_name("bridge")


def remote_file() -> Path:
    """Return a file that needs only Python 3.8 or newer; build it if it is missing.

    Its name contains a digest of the sources, and its content never changes. Raises OSError.
    """
    path = Path(settings.DATA_DIR) / "keeper" / f"acp-bridge-{_digest()}.pyz"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        archives.write(str(path), archives.build(_sources(), "bridge.main"))
    return path


def _sources() -> dict[str, bytes]:
    """Return the modules by their path in the file."""
    return {f"bridge/{path.name}": path.read_bytes() for path in sorted(_FOLDER.glob("*.py"))}


@functools.cache
def _digest() -> str:
    found = hashlib.sha256()
    for name, source in _sources().items():
        found.update(f"{name} {len(source)}\n".encode() + source)
    return found.hexdigest()[:12]
