"""Texts of connection errors."""

from __future__ import annotations

from bootloader.exceptions import CommandTimeout
from bootloader.providers.base import Login


def timeout_error(timeout: float) -> CommandTimeout:
    """Return the error of a command that took too long."""
    return CommandTimeout(f"The command did not end within {timeout:g} s")


def name_of(login: Login) -> str:
    """Return a machine's name for people."""
    return login.tls_name or f"{login.host}:{login.port}"


def error_text(login: Login, error: BaseException) -> str:
    """Return that a machine cannot be reached, with the cause."""
    # paramiko says nothing when the other side hangs up.
    reason = str(error).strip() or "it ended the connection"
    return f"{name_of(login)} cannot be reached by SSH: {reason}"
