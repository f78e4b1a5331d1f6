"""Write small CD images (ISO 9660): a few files in one folder. Pure: names and bytes in, bytes out.

Enough for a NoCloud seed, which hypervisors attach as a CD. Names are stored in capitals, as the
format requires; Linux shows them in lower case.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

SECTOR = 2048
_FIRST_FILE = 21
_NAME = re.compile(r"[a-z0-9-]{1,27}")
_NO_DATE = b"0" * 16 + b"\0"


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """Return an image with this label, of at most 32 characters, and these files in its only
    folder.
    """
    if wrong := [name for name in files if not _NAME.fullmatch(name)]:
        raise ValueError(f"{wrong[0]!r} cannot be a file's name here")
    records, contents, at = [], [], _FIRST_FILE
    for name, content in sorted(files.items()):
        records.append(_record(f"{name.upper()}.;1".encode(), at, len(content)))
        contents.append(_padded(content))
        at += len(contents[-1]) // SECTOR
    folder = _record(b"\0", 20, SECTOR, folder=True) + _record(b"\1", 20, SECTOR, folder=True)
    folder += b"".join(records)
    if len(folder) > SECTOR:
        raise ValueError("these are too many files")
    sectors = [
        bytes(16 * SECTOR),
        _padded(_descriptor(label, at)),
        _padded(b"\xffCD001\x01"),
        _padded(struct.pack("<BBIHBB", 1, 0, 20, 1, 0, 0)),
        _padded(struct.pack(">BBIHBB", 1, 0, 20, 1, 0, 0)),
        _padded(folder),
        *contents,
    ]
    return b"".join(sectors)


def _descriptor(label: str, sectors: int) -> bytes:
    """Return the primary volume descriptor of an image with this number of sectors."""
    parts = [
        b"\x01CD001\x01\0",
        b" " * 32,
        label.encode("ascii").ljust(32),
        bytes(8),
        _both32(sectors),
        bytes(32),
        *(_both16(1), _both16(1), _both16(SECTOR)),
        _both32(10),  # the path table, in sectors 18 and 19
        *(struct.pack("<II", 18, 0), struct.pack(">II", 19, 0)),
        _record(b"\0", 20, SECTOR, folder=True),
        b" " * (4 * 128 + 3 * 37),
        _NO_DATE * 4,
        b"\x01\0",
    ]
    return b"".join(parts)


def _record(name: bytes, sector: int, size: int, *, folder: bool = False) -> bytes:
    """Return a directory record for a file or for the folder itself."""
    length = 33 + len(name)
    length += length % 2
    head = struct.pack("BB", length, 0) + _both32(sector) + _both32(size) + bytes(7)
    head += struct.pack("BBB", 2 if folder else 0, 0, 0) + _both16(1) + bytes([len(name)])
    return (head + name).ljust(length, b"\0")


def _both16(number: int) -> bytes:
    return struct.pack("<H", number) + struct.pack(">H", number)


def _both32(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR)
