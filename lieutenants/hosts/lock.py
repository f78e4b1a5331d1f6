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

RETRY_SECONDS = 1.0
REPORT_SECONDS = 5.0
REPLY_TIMEOUT_SECONDS = 1.0
MAX_PATH_BYTES = 4096


@contextlib.contextmanager
def hold_identity_lock(stopping: threading.Event) -> Iterator[bool]:
    """Hold the lock of this data folder's identity; yield False if stopped while waiting."""
    lock: socket.socket | None = None
    reported_at = -REPORT_SECONDS
    while not stopping.is_set() and (lock := _bind()) is None:
        if time.monotonic() - reported_at >= REPORT_SECONDS:
            _report_rival(lock_holder(), is_news=reported_at < 0)
            reported_at = time.monotonic()
        stopping.wait(RETRY_SECONDS)
    if lock is None:
        yield False
        return
    with lock:
        args = [lock, str(settings.DATA_DIR)]
        threading.Thread(target=_send_path, args=args, name="reef-identity", daemon=True).start()
        yield True
        # Without the shutdown, the thread would keep waiting on the socket.
        with contextlib.suppress(OSError):
            lock.shutdown(socket.SHUT_RDWR)


def lock_holder() -> str:
    """Return the data folder that holds the lock; empty if none does, or one of another user."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as peer:
        peer.settimeout(REPLY_TIMEOUT_SECONDS)
        try:
            peer.connect(_socket_name())
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _ = struct.unpack("3i", credentials)
            if uid not in (0, os.geteuid()):
                return ""
            return peer.recv(MAX_PATH_BYTES).decode("utf-8", "replace") or f"process {pid}"
        except TimeoutError:
            return "a process that does not answer"
        except OSError:
            return ""


def not_followed_text(other: str) -> str:
    """Return why this folder is not followed while another one has its identity."""
    return (
        f"the data folder {settings.DATA_DIR} has the identity of {other}, which is in use, so it "
        "is not followed; if it is a copy, remove its file `identity`"
    )


def _socket_name() -> str:
    return f"\0reef-identity-{os.geteuid()}-{settings.DATA_FOLDER_ID}"


def _bind() -> socket.socket | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(_socket_name())
        lock.listen(8)
    except OSError:
        lock.close()
        return None
    return lock


def _send_path(lock: socket.socket, folder: str) -> None:
    """Send the path of this data folder to every process that connects."""
    while True:
        try:
            peer, _ = lock.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), peer:
            peer.sendall(folder.encode())


def _report_rival(other: str, *, is_news: bool) -> None:
    if other == str(settings.DATA_DIR):
        return  # our own previous worker, which is about to end
    text = not_followed_text(other or "another one")
    if is_news:
        logger.warning("%s", text)
    try:
        services.record_rival(text)
    except DatabaseError as error:
        logger.warning("cannot keep that in the database: %s", type(error).__name__)
    finally:
        connections.close_all()
