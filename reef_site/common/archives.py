"""Programs in one file: a ZIP archive of a package's sources and their bytecode.

Standard library only, Python 3.8 or newer. `build` puts this module into each archive, since a
Python other than the one that built it ignores the bytecode, and would compile the sources at each
start: `compiled` makes a copy for it, once.

Members are not compressed, and bytecode is not checked against its source: so Python reads them as
quickly as files.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAIN = """import sys

import archives
from {module} import main

sys.exit(main(sys.argv[1:], archives.compiled(sys.argv[0])))
"""
_UNCHECKED = 1  # the flag of bytecode that is valid whatever its source


def build(modules: Mapping[str, bytes], module: str) -> bytes:
    """Return an archive of these sources by their path in it, like `keeper/journal.py`.

    It calls `main` of `module` with its arguments and its path, and exits with what that returns.
    The result is the same for the same sources and the same Python.
    """
    with open(__file__, "rb") as file:
        own = file.read()
    main = _MAIN.format(module=module).encode()
    return _pack({"__main__.py": main, "archives.py": own, **modules})


def compiled(path: str) -> str:
    """Return the path of an archive with bytecode for this Python.

    That is `path` itself if this module was loaded from bytecode, else a copy beside it, which is
    made if it is missing; or `path` if that is impossible.
    """
    if __file__.endswith(".pyc"):
        return path
    import binascii

    try:
        with open(path, "rb") as file:
            data = file.read()
        tag = sys.implementation.cache_tag
        copy = "{}.{}-{:08x}".format(path, tag, binascii.crc32(data))
        if not os.path.exists(copy):
            write(copy, _pack(_sources(path)))
    except OSError:
        return path
    return copy


def write(path: str, data: bytes) -> None:
    """Write a file that is complete at once. A file that exists is kept: somebody may read it."""
    import contextlib
    import tempfile

    folder, name = os.path.split(os.path.abspath(path))
    descriptor, draft = tempfile.mkstemp(prefix=name + ".", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # other users may run it too
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:  # some file systems have no links
            os.rename(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _sources(path: str) -> dict[str, bytes]:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        return {name: archive.read(name) for name in names}


def _pack(modules: Mapping[str, bytes]) -> bytes:
    import io
    import zipfile

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(modules):
            for member, data in (
                (name + "c", _bytecode(name, modules[name])),
                (name, modules[name]),
            ):
                archive.writestr(zipfile.ZipInfo(member), data)
    return target.getvalue()


def _bytecode(name: str, source: bytes) -> bytes:
    """Return the contents of a .pyc file (PEP 552)."""
    import importlib.util
    import marshal

    code = compile(source, name, "exec", dont_inherit=True)
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED.to_bytes(4, "little")
    return head + importlib.util.source_hash(source) + marshal.dumps(code)
