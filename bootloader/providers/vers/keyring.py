"""Cached SSH keys and host keys of the platform's VMs: files of mode 0600, by full id."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Container
from pathlib import Path

from django.conf import settings


def key_of(vm_id: str) -> str | None:
    """Return the VM's private key, if it is cached."""
    return _read(_file(vm_id, "key"))


def keep_key(vm_id: str, text: str) -> None:
    """Store the private key, replacing the previous one."""
    _draft(_file(vm_id, "key"), text).replace(_file(vm_id, "key"))


def host_key_of(vm_id: str) -> str | None:
    """Return the first host key shown, as one line."""
    return _read(_file(vm_id, "host"))


def keep_host_key(vm_id: str, line: str) -> None:
    """Store the host key unless one is stored already."""
    draft = _draft(_file(vm_id, "host"), line)
    with contextlib.suppress(FileExistsError):
        os.link(draft, _file(vm_id, "host"))
    draft.unlink()


def forget(vm_id: str) -> None:
    """Delete the keys of a VM."""
    for kind in ("key", "host"):
        _file(vm_id, kind).unlink(missing_ok=True)


def sweep(listed: Container[str], seconds: float = 86_400.0) -> None:
    """Delete keys of unlisted VMs that have not changed for this many seconds."""
    old = time.time() - seconds
    for file in _folder().iterdir():
        vm_id = file.name.lstrip(".").partition(".")[0]
        with contextlib.suppress(FileNotFoundError):
            if vm_id not in listed and file.stat().st_mtime < old:
                file.unlink()


def _folder() -> Path:
    folder: Path = settings.DATA_DIR / "vers-ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _file(vm_id: str, kind: str) -> Path:
    return _folder() / f"{vm_id}.{kind}"


def _read(file: Path) -> str | None:
    try:
        return file.read_text() or None
    except FileNotFoundError:
        return None


def _draft(file: Path, text: str) -> Path:
    """Write a private temporary file beside the target."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    return draft
