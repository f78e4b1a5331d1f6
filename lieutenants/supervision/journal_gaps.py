"""Parts of a journal that are gone: released while the database was newer than it is now."""

from __future__ import annotations

import logging
from typing import Any

from lieutenants.models import Process
from lieutenants.supervision.transports import transport_of

logger = logging.getLogger(__name__)

# Released space is read as zeros, which no record contains.
_HOLE = b"\0"


def begins_with_gap(data: bytes) -> bool:
    """Return whether bytes of a journal begin with a missing part."""
    return data.startswith(_HOLE)


def skip_gap(process: Process) -> tuple[list[list[Any]], int]:
    """Return a record about the missing part at the process' offset, and its size in bytes.

    Raises TransportError.
    """
    end = transport_of(process).skip_gap(process.directory, process.offset)
    size = end - process.offset
    logger.warning("%s: %s bytes of its journal are gone", process, size)
    return [["gap", 0, size]], size
