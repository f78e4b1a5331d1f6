"""Encryption of stored secrets, with keys that lie outside the database.

The keys come from REEF_CONFIG_KEYS and from a file of mode 0600 in the data folder (one a line),
which is created if there are none. The first key encrypts, all of them decrypt. Both sources are
read each time, so that all processes notice a rotation at once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from reef_site.common import locks
from reef_site.common.hooks import Hook
from versconfig.exceptions import Unreadable

encrypted_row_checks: Hook[Callable[[], bool]] = Hook(
    "config.encrypted_row_checks",
    "Return whether there are encrypted rows; asked before a first config key is made.",
)


def seal(name: str, text: str) -> str:
    """Encrypt the text; it can be decrypted only with our keys and under this name."""
    box = _fernet(keys() or [_first_key()])
    return box.encrypt(f"{name}\0{text}".encode()).decode()


def unseal(name: str, sealed: str) -> str:
    """Decrypt the text. Raises Unreadable."""
    known = keys()
    try:
        found = _fernet(known).decrypt(sealed.encode()).decode() if known else ""
    except InvalidToken:
        found = ""
    sealed_for, sign, text = found.partition("\0")
    if not sign or sealed_for != name:
        raise Unreadable(f"{name}: what is stored cannot be decrypted with the keys at hand")
    return text


def keys() -> list[str]:
    """Return all keys, the encrypting one first; the environment's before those of the file."""
    return [*settings.CONFIG_KEYS, *(key for key in kept() if key not in settings.CONFIG_KEYS)]


def kept() -> list[str]:
    """Return the keys of the file. Raises Unreadable."""
    try:
        with key_file().open() as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                # For example after a copy from a backup.
                os.fchmod(file.fileno(), 0o600)
            text = file.read()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{key_file()}: cannot be read ({type(error).__name__})") from None
    found = text.split()
    if not all(_is_key(each) for each in found):
        raise Unreadable(f"{key_file()}: has a line that is no key")
    return found


def key_file() -> Path:
    """Return the file with the keys that are not in the environment."""
    return settings.CONFIG_KEYS_FILE


def add_first_key() -> str:
    """Create a new key and put it first in the file."""
    fresh = Fernet.generate_key().decode()
    with _locked():
        _write_keys([fresh, *kept()])
    return fresh


def remove_keys(removed: list[str]) -> None:
    """Remove these keys from the file."""
    with _locked():
        _write_keys([key for key in kept() if key not in removed])


def _first_key() -> str:
    """Return the file's first key; create it if there is none.

    Raises Unreadable if anything is encrypted already: then the key is lost, or on another host.
    """
    with _locked():
        if not kept():
            if any(has_rows() for has_rows in encrypted_row_checks):
                raise Unreadable(
                    "what is stored was sealed with a key that is not here: bring back "
                    f"{key_file()}, set REEF_CONFIG_KEYS, or run `manage.py rotate_config_key`"
                )
            _write_keys([Fernet.generate_key().decode()])
        return kept()[0]


def _write_keys(keys: list[str]) -> None:
    """Write exactly these keys, atomically even in a power cut."""
    file = key_file()
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write("".join(f"{key}\n" for key in keys))
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Lock the file against other processes."""
    lock = key_file().with_name(f".{key_file().name}.lock")
    with locks.held(lock):
        yield


def _fernet(known: list[str]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in known])


def _is_key(word: str) -> bool:
    try:
        Fernet(word)
    except ValueError:
        return False
    return True
