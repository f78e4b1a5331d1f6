"""Connect and log in with paramiko. `shell` documents the interface."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable

import paramiko

from bootloader.exceptions import ShellBusy, ShellRefused, ShellUnavailable
from bootloader.providers.base import Login
from bootloader.providers.ssh import address_limits, tls_pipe
from bootloader.providers.ssh.errors import error_text, name_of
from bootloader.providers.ssh.paramiko_shell import SshShell
from bootloader.providers.ssh.private_keys import read_key

_KEEPALIVE_SECONDS = 15
_KEY_EXCHANGE_SECONDS = 5.0
_RSA = ("rsa-sha2-512", "rsa-sha2-256")
Stage = Callable[[str], contextlib.AbstractContextManager[object]]


def _unobserved(_name: str) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext()


def connect(login: Login, timeout: float, stage: Stage = _unobserved) -> SshShell:
    """Connect, negotiate encryption, check the host key and log in.

    The last two happen in `stage("host key")` and `stage("login")`.
    """
    end = time.monotonic() + timeout
    key = read_key(login.private_key)
    through = connect(login.jump, timeout) if login.jump else None
    try:
        with address_limits.opening(login, end):
            left = max(0.1, end - time.monotonic())
            sock = through.open_forward(login, end) if through else open_socket(login, left)
            return _log_in(sock, login, key, end, timeout, through, stage)
    except BaseException:
        if through:
            through.close()
        raise


def _log_in(
    sock: socket.socket | paramiko.Channel,
    login: Login,
    key: paramiko.PKey,
    end: float,
    timeout: float,
    through: SshShell | None,
    stage: Stage,
) -> SshShell:
    try:
        transport = paramiko.Transport(sock)
        # How long a write may wait for an exchange of keys; others wait behind it.
        transport.clear_to_send_timeout = _KEY_EXCHANGE_SECONDS
    except (paramiko.SSHException, OSError) as error:
        sock.close()
        raise ShellUnavailable(error_text(login, error)) from None
    try:
        with stage("host key"):
            host_key = _handshake(transport, login, end, timeout)
        with stage("login"):
            _authenticate(transport, login, key, end)
        if login.host_key is None and login.keep is not None:
            login.keep(host_key)
    except BaseException:
        transport.close()
        raise
    pause = login.keepalive_seconds
    transport.set_keepalive(_KEEPALIVE_SECONDS if pause is None else pause)
    return SshShell(transport, login, host_key, through)


def open_socket(login: Login, timeout: float) -> socket.socket:
    """Connect to a machine that is reached directly, in TLS if it wants that.

    Raise ShellUnavailable, ShellRefused.
    """
    try:
        if login.tls_name:
            trust = _trust(login)
            return tls_pipe.open_pipe(login.host, login.port, login.tls_name, trust, timeout)
        sock = socket.create_connection((login.host, login.port), timeout)
        tls_pipe.enable_keepalive(sock)
    except ssl.SSLCertVerificationError as error:
        text = f"{login.tls_name} shows no certificate that we trust: {error.verify_message}"
        raise ShellRefused(text) from None
    except (OSError, UnicodeError) as error:
        raise ShellUnavailable(error_text(login, error)) from None
    return sock


def _trust(login: Login) -> ssl.SSLContext:
    try:
        return tls_pipe.trust_context(login.trust)
    except OSError as error:
        words = error.strerror or "no certificates in it"
        raise ShellRefused(f"The file of CA certificates {login.trust}: {words}") from None


def _handshake(transport: paramiko.Transport, login: Login, end: float, timeout: float) -> str:
    """Negotiate encryption and return the host key as one line."""
    known = login.host_key.split()[:2] if login.host_key else []
    if known:
        # A host has several keys: request the kind that we know.
        kinds = _RSA if known[0] == "ssh-rsa" else known[:1]
        try:
            transport.get_security_options().key_types = kinds
        except ValueError:
            text = f"The host key that is kept for {name_of(login)} is of no kind that we know"
            raise ShellRefused(text) from None
    transport.banner_timeout = transport.handshake_timeout = max(0.1, end - time.monotonic())
    try:
        transport.start_client(timeout=max(0.1, end - time.monotonic()))
        shown = transport.get_remote_server_key()
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise ShellRefused(f"{name_of(login)} has another host key than before ({error})") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        if time.monotonic() >= end - 0.2:
            text = f"{name_of(login)} did not answer by SSH within {timeout:g} s"
            raise ShellUnavailable(text) from None
        if _is_busy(transport, error):
            text = f"{name_of(login)} hung up before its SSH greeting; it may be busy"
            raise ShellBusy(text) from None
        raise ShellUnavailable(error_text(login, error)) from None
    line = f"{shown.get_name()} {shown.get_base64()}"
    if known and line.split() != known:
        raise ShellRefused(f"{name_of(login)} has another host key than before")
    return line


def _is_busy(transport: paramiko.Transport, error: BaseException) -> bool:
    """Return whether the server hung up before its greeting, as sshd does beyond MaxStartups.

    Newer servers first send a line of text with the reason (PerSourcePenalties).
    """
    throttled = re.search(r"MaxStartups|Not allowed at this time", str(error))
    greeted = "Indecipherable" in str(error) or transport.remote_version
    return bool(throttled) or not greeted


def _authenticate(
    transport: paramiko.Transport, login: Login, key: paramiko.PKey, end: float
) -> None:
    transport.auth_timeout = max(0.1, end - time.monotonic())
    try:
        further = transport.auth_publickey(login.user, key)
    except paramiko.BadAuthenticationType as error:
        offers = ", ".join(error.allowed_types) or "nothing"
        text = f"{name_of(login)} does not let {login.user} in with a key; it offers: {offers}"
        raise ShellRefused(text) from None
    except paramiko.AuthenticationException as error:
        if not transport.is_active() or "timeout" in str(error).lower():
            raise ShellUnavailable(error_text(login, error)) from None
        raise ShellRefused(f"{name_of(login)} does not let {login.user} in with our key") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise ShellUnavailable(error_text(login, error)) from None
    if further:
        raise ShellRefused(f"{name_of(login)} wants more than a key: {', '.join(further)}")
