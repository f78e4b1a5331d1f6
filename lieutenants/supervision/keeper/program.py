"""The keeper as one file, for this machine and others. Not a part of that file."""

from __future__ import annotations

from pathlib import Path

from reef_site.common import archives

_MODULES = ("keeper.py", "sandbox.py")


def program() -> bytes:
    """Return the keeper as one file that needs nothing else than Python 3.8 or newer.

    Its name ends in `.pyz`; `python3 -I -S FILE start` and the like run it. The first start by
    another version of Python than ours adds a copy beside it, with bytecode for that version.
    """
    folder = Path(__file__).parent
    return archives.build({name: (folder / name).read_bytes() for name in _MODULES}, "keeper")
