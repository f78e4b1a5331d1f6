"""The run's directory: its locks, its socket, the key, and keeper.json."""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import os
import socket
import time

from .journal import log_problem
from .json_lines import parse_object
from .limits import CALL_SECONDS, CONNECT_BACKLOG, FILE_CHECK_SECONDS, LOCK_SECONDS
from .spec import KeeperError

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


class RunFiles:
    """Restores our socket, its key and keeper.json when they are removed.

    The kernel sends SIGIO when something is deleted from our directory, so an idle keeper can
    sleep. (dnotify needs none of the few inotify instances that the agents' own programs want.)
    """

    def __init__(self, key: str, listener: socket.socket) -> None:
        self.listener = listener
        self._key = key
        self._facts = b""
        self._identity = _identity("control.sock")
        self.due: float | None = None
        try:
            directory = os.open(".", os.O_RDONLY)
            fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_MULTISHOT)
        except OSError:
            self.due = time.monotonic() + FILE_CHECK_SECONDS

    def remember_facts(self, facts: bytes) -> None:
        """Remember the contents of keeper.json, once it is written."""
        self._facts = facts

    def restore(self) -> socket.socket | None:
        """Restore missing files; return the previous socket if it was bound again."""
        if _identity("control.key") is None:
            log_problem("control.key was removed; writing it again")
            write_key(self._key)
        if self._facts and _identity("keeper.json") is None:
            write_file("keeper.json", self._facts)
        if _identity("control.sock") == self._identity:
            return None
        log_problem("control.sock was removed; binding it again")
        old, self.listener = self.listener, listen()
        self._identity = _identity("control.sock")
        return old


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class AlreadyRunningError(Exception):
    """Another keeper runs in this directory; the argument is its own reply."""


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keeper_json() -> dict[str, Any] | None:
    try:
        with open("keeper.json", "rb") as file:
            return parse_object(file.read())
    except FileNotFoundError:
        return None


def claim_directory(path: str) -> None:
    """Enter the run directory and lock it for our lifetime.

    Raises AlreadyRunningError, or KeeperError if the run is over or its keeper does not get ready.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chdir(path)
    directory = os.open(".", os.O_RDONLY)
    until = time.monotonic() + CALL_SECONDS
    while not _try_lock(directory):
        known = _keeper_json()
        if known is not None:
            raise AlreadyRunningError({**known, "already": True})
        if time.monotonic() > until:
            raise KeeperError("another supervisor is starting in this run directory, for too long")
        time.sleep(0.02)
    if _keeper_json() is not None:
        raise KeeperError("this run has been started before and is over")


def lock_session(path: str) -> None:
    """Lock the session's file for our lifetime, or raise KeeperError."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        session = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        # Only a file that is still at its path excludes a keeper that opens it after us.
        if _try_lock(session) and _is_at(session, path):
            return
        os.close(session)
        if time.monotonic() > until:
            raise KeeperError("another supervisor holds this session")
        time.sleep(0.02)


def _is_at(opened: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except FileNotFoundError:
        return False


def listen() -> socket.socket:
    """Return the control socket in the current directory: a relative path is never too long."""
    remove("control.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("control.sock")
    listener.listen(CONNECT_BACKLOG)
    listener.setblocking(False)
    return listener


def make_key() -> str:
    """Return a secret that only processes that may read our directory can send."""
    key = binascii.hexlify(os.urandom(24)).decode()
    write_key(key)
    return key


def write_key(key: str) -> None:
    """Write the key to a file, for the senders of requests."""
    remove("control.key")
    with open(os.open("control.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)


def read_key(directory: int) -> str:
    """Return the key of the run directory behind this descriptor; empty for a run without one."""
    try:
        with open(os.open("control.key", os.O_RDONLY, dir_fd=directory)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def write_file(path: str, data: bytes) -> None:
    """Write a file atomically."""
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)
