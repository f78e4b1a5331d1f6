"""Lock that lets one data folder of an identity be followed on this machine, even among copies.

The lock is the name of an abstract Unix socket: there is no file to be deleted by mistake, and the
kernel releases it when the process ends. A process that connects receives the path of the folder
that holds the lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connections

from lieutenants.hosts import services

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
NOTE_SECONDS = 5.0
ANSWER_SECONDS = 1.0
MAX_PATH_BYTES = 4096


@contextlib.contextmanager
def one_folder(stopping: threading.Event) -> Iterator[bool]:
    """Hold the lock of this data folder's identity; yield False if stopped while waiting."""
    held: socket.socket | None = None
    noted = -NOTE_SECONDS
    while not stopping.is_set() and (held := _take()) is None:
        if time.monotonic() - noted >= NOTE_SECONDS:
            _yield_to(holder(), is_news=noted < 0)
            noted = time.monotonic()
        stopping.wait(AGAIN_SECONDS)
    if held is None:
        yield False
        return
    with held:
        told = [held, str(settings.DATA_DIR)]
        threading.Thread(target=_tell, args=told, name="reef-identity", daemon=True).start()
        yield True
        # Without the shutdown, the thread would keep waiting on the socket.
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)


def holder() -> str:
    """Return the data folder that holds the lock; empty if none does, or one of another user."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as link:
        link.settimeout(ANSWER_SECONDS)
        try:
            link.connect(_name())
            credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _ = struct.unpack("3i", credentials)
            if uid not in (0, os.geteuid()):
                return ""
            return link.recv(MAX_PATH_BYTES).decode("utf-8", "replace") or f"process {pid}"
        except TimeoutError:
            return "a process that does not answer"
        except OSError:
            return ""


def sentence(other: str) -> str:
    """Return why this folder is not followed while another one has its identity."""
    return (
        f"the data folder {settings.DATA_DIR} has the identity of {other}, which is in use, so it "
        "is not followed; if it is a copy, remove its file `identity`"
    )


def _name() -> str:
    return f"\0reef-identity-{os.geteuid()}-{settings.DATA_FOLDER_ID}"


def _take() -> socket.socket | None:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(_name())
        held.listen(8)
    except OSError:
        held.close()
        return None
    return held


def _tell(held: socket.socket, folder: str) -> None:
    """Send the path of this data folder to every process that connects."""
    while True:
        try:
            link, _ = held.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), link:
            link.sendall(folder.encode())


def _yield_to(other: str, *, is_news: bool) -> None:
    if other == str(settings.DATA_DIR):
        return  # our own previous worker, which is about to end
    text = sentence(other or "another one")
    if is_news:
        logger.warning("%s", text)
    try:
        services.note_rival(text)
    except DatabaseError as error:
        logger.warning("cannot keep that in the database: %s", type(error).__name__)
    finally:
        connections.close_all()
