"""The paramiko implementation of `shell`, which documents the interface."""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import shlex
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bootloader.exceptions import (
    CommandTimeout,
    ShellBusy,
    ShellError,
    ShellRefused,
    ShellUnavailable,
)
from bootloader.providers.base import Login
from bootloader.providers.ssh import tls_pipe
from bootloader.providers.ssh.protocol import CommandResult
from bootloader.providers.ssh.remote_script import COMMAND, FramedScript, printable
from bootloader.providers.ssh.stream import ScriptStream
from reef_site.common.text import clip_start

_KEEPALIVE_SECONDS = 15
_KEY_EXCHANGE_SECONDS = 5.0
# Output beyond this is discarded; `on_output` still gets it.
MAX_OUTPUT = 16 << 20
# How long to keep reading after a command's end, if a child process holds the output open.
_LINGER_SECONDS = 1.0
_CHUNKS = 32
# How long the thread of a connection with an open script waits for its socket at a time.
_QUIET_SECONDS = 5.0
# Matches the beginning of a public key.
_PUBLIC_KEY = re.compile(
    r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA|-----BEGIN (RSA )?PUBLIC KEY|---- BEGIN SSH2 PUBLIC KEY"
)
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
        sock = through.open_forward(login, end) if through else open_socket(login, timeout)
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
        raise ShellUnavailable(_error_text(login, error)) from None
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
    transport.set_keepalive(_KEEPALIVE_SECONDS)
    return SshShell(transport, login, host_key, through)


def read_key(text: str) -> paramiko.PKey:
    """Parse a private key (OpenSSH or PEM, no passphrase). Raise ShellRefused."""
    if _PUBLIC_KEY.match(text.strip()):
        raise ShellRefused("This is a public key; give the private one that belongs to it")
    # The parsers' own messages are never shown: they may quote the key.
    try:
        text = text.replace("\r\n", "\n").strip() + "\n"
        raw = text.encode()
        loaded: object
        try:
            loaded = serialization.load_ssh_private_key(raw, None)
        except ValueError:
            loaded = serialization.load_pem_private_key(raw, None)
        kind: type[paramiko.PKey] | None = None
        if isinstance(loaded, ed25519.Ed25519PrivateKey):
            kind = paramiko.Ed25519Key
        elif isinstance(loaded, rsa.RSAPrivateKey):
            kind = paramiko.RSAKey
        elif isinstance(loaded, ec.EllipticCurvePrivateKey):
            kind = paramiko.ECDSAKey
        if kind is not None:
            return kind.from_private_key(io.StringIO(text))
    except (ValueError, TypeError, UnsupportedAlgorithm, paramiko.SSHException):
        pass
    raise ShellRefused("The private SSH key cannot be read: damaged, or with a passphrase")


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
        raise ShellUnavailable(_error_text(login, error)) from None
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
            text = f"The host key that is kept for {_name(login)} is of no kind that we know"
            raise ShellRefused(text) from None
    transport.banner_timeout = transport.handshake_timeout = max(0.1, end - time.monotonic())
    try:
        transport.start_client(timeout=max(0.1, end - time.monotonic()))
        shown = transport.get_remote_server_key()
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise ShellRefused(f"{_name(login)} has another host key than before ({error})") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        if time.monotonic() >= end - 0.2:
            text = f"{_name(login)} did not answer by SSH within {timeout:g} s"
            raise ShellUnavailable(text) from None
        if _is_busy(transport, error):
            text = f"{_name(login)} hung up before its SSH greeting; it may be busy"
            raise ShellBusy(text) from None
        raise ShellUnavailable(_error_text(login, error)) from None
    line = f"{shown.get_name()} {shown.get_base64()}"
    if known and line.split() != known:
        raise ShellRefused(f"{_name(login)} has another host key than before")
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
        text = f"{_name(login)} does not let {login.user} in with a key; it offers: {offers}"
        raise ShellRefused(text) from None
    except paramiko.AuthenticationException as error:
        if not transport.is_active() or "timeout" in str(error).lower():
            raise ShellUnavailable(_error_text(login, error)) from None
        raise ShellRefused(f"{_name(login)} does not let {login.user} in with our key") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise ShellUnavailable(_error_text(login, error)) from None
    if further:
        raise ShellRefused(f"{_name(login)} wants more than a key: {', '.join(further)}")


class SshShell:
    """See `protocol.Shell`."""

    def __init__(
        self,
        transport: paramiko.Transport,
        login: Login,
        host_key: str,
        through: SshShell | None = None,
    ) -> None:
        self.host_key = host_key
        self._through = through
        self._transport = transport
        self._login = login

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end its thread."""
        # The thread may be waiting for the socket, and only notices this at once.
        with contextlib.suppress(OSError):
            self._transport.sock.shutdown(socket.SHUT_RDWR)
        self._transport.close()
        if self._through:
            self._through.close()

    def open_forward(self, login: Login, end: float) -> paramiko.Channel:
        """Open a connection from this machine to the SSH server of another one."""
        left = max(0.1, end - time.monotonic())
        there, here = (login.host, login.port), ("127.0.0.1", 0)
        try:
            return self._transport.open_channel("direct-tcpip", there, here, timeout=left)
        except paramiko.ChannelException as error:
            text = f"{_name(login)} cannot be reached from {_name(self._login)}: {error.text}"
            raise ShellUnavailable(text) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnavailable(_error_text(self._login, error)) from None

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float,
        on_output: Callable[[bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command in a session of its own on the shared connection."""
        return self._run_command(command, stdin, timeout, on_output)

    def script(self, script: str, *, data: bytes = b"", timeout: float) -> CommandResult:
        """Run a script as `remote_script` describes.

        `data` is held back until the script reads its stdin.
        """
        framed = FramedScript(script)
        text = framed.text(has_data=bool(data))
        deferred = (framed.begin, data) if data else None
        ran = self._run_command(COMMAND, text, timeout, deferred=deferred)
        reply = framed.reply(ran.output, ran.errors)
        if not reply.began:
            output = reply.noise or f"nothing, and ended with status {ran.exit_status}"
            problem = (
                f"{_name(self._login)} runs no script for {self._login.user}; it says: {output}"
            )
            raise ShellRefused(problem)
        if reply.status is None:
            raise ShellUnavailable(
                f"{_name(self._login)} cut the script off: {printable(reply.errors)}"
            )
        return CommandResult(reply.status, reply.output, reply.errors)

    def open_script(self, script: str, *, timeout: float) -> ScriptStream:
        """Start a script as `remote_script` describes, and leave its stdin and stdout open."""
        framed, end = FramedScript(script), time.monotonic() + timeout
        channel = self._open_channel(end)
        watch = threading.Timer(timeout, channel.close)
        watch.daemon = True
        watch.start()
        try:
            channel.exec_command(COMMAND)
            channel.sendall(framed.text(has_data=True))
            stream, data = ScriptStream(channel, framed), threading.Event()
            stream.listen(data.set)
            said = stream.await_begin(_wait_for(data), lambda: end - time.monotonic())
        except (paramiko.SSHException, OSError, EOFError) as error:
            channel.close()
            raise ShellUnavailable(_error_text(self._login, error)) from None
        finally:
            watch.cancel()
        if said:
            channel.close()
            if not self._transport.is_active() or time.monotonic() >= end:
                raise ShellUnavailable(f"{_name(self._login)} did not start a script in time")
            raise ShellRefused(
                f"{_name(self._login)} runs no script for {self._login.user}; it says: "
                f"{printable(said)}"
            )
        # Its thread would otherwise wake up ten times a second.
        self._transport.sock.settimeout(_QUIET_SECONDS)
        return stream

    def _run_command(
        self,
        command: str,
        stdin: bytes,
        timeout: float,
        on_output: Callable[[bytes], None] | None = None,
        deferred: tuple[bytes, bytes] | None = None,
    ) -> CommandResult:
        end = time.monotonic() + timeout
        with self._session(end) as channel:
            stream_pump = _StreamPump(channel, stdin, on_output, deferred)
            # The request itself would wait forever on a frozen machine.
            watch = threading.Timer(timeout, channel.close)
            watch.daemon = True
            watch.start()
            try:
                channel.exec_command(command)
                finished = stream_pump.run(end)
            except (paramiko.SSHException, OSError, EOFError) as error:
                if time.monotonic() >= end:
                    raise _timeout_error(timeout) from None
                raise ShellUnavailable(_error_text(self._login, error)) from None
            finally:
                watch.cancel()
            # -1 means no status: timeout, ended by a signal, or connection lost.
            status: int = channel.exit_status
            if not finished or (status == -1 and time.monotonic() >= end):
                raise _timeout_error(timeout)
            if status == -1:
                self._check_alive()
        return CommandResult(status, bytes(stream_pump.output), bytes(stream_pump.errors))

    def put(self, path: str, data: bytes, mode: int, timeout: float = 120.0) -> None:
        """Write to a temporary file first, and check its length before it replaces the target."""
        # A lost connection looks like the end of the file, so the length is checked.
        script = f"""
        umask 077; file={shlex.quote(path)}; draft="$file".{secrets.token_hex(4)}.part
        case $file in /*) ;; *) file=./$file; draft=./$draft ;; esac
        trap 'rm -f -- "$draft"' EXIT
        mkdir -p -- "$(dirname -- "$file")" && cat > "$draft" &&
          [ "$(wc -c < "$draft")" -eq {len(data)} ] &&
          chmod {mode:o} -- "$draft" && mv -f -- "$draft" "$file"
        """
        ran = self.script(script, data=data, timeout=timeout)
        if ran.exit_status:
            output = clip_start(ran.errors.decode("utf-8", "replace").strip(), 300)
            raise ShellError(f"{path} could not be written: {output or 'not all of it arrived'}")

    @contextlib.contextmanager
    def _session(self, end: float) -> Iterator[paramiko.Channel]:
        channel = self._open_channel(end)
        try:
            yield channel
        finally:
            channel.close()

    def _open_channel(self, end: float) -> paramiko.Channel:
        left = max(0.1, end - time.monotonic())
        try:
            return self._transport.open_session(timeout=left)
        except paramiko.ChannelException as error:
            text = f"{_name(self._login)} opens no session: {error.text}"
            raise ShellRefused(text) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnavailable(_error_text(self._login, error)) from None

    def _check_alive(self) -> None:
        """Raise ShellUnavailable if the connection is gone.

        Called when no exit status arrived, which also happens if a signal ended the command.
        """
        watch = threading.Timer(5.0, self._transport.close)
        watch.daemon = True
        watch.start()
        try:
            self._transport.global_request("keepalive@openssh.com", wait=True)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnavailable(_error_text(self._login, error)) from None
        finally:
            watch.cancel()
        if not self._transport.is_active():
            raise ShellUnavailable(f"The connection to {_name(self._login)} was lost")


class _StreamPump:
    """The three streams of one command, pumped by one thread."""

    def __init__(
        self,
        channel: paramiko.Channel,
        stdin: bytes,
        on_output: Callable[[bytes], None] | None,
        deferred: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.channel = channel
        self.stdin = memoryview(stdin)
        # A marker, and the data to send once the output contains it.
        self.deferred = deferred
        self.input_sent = False
        self.on_output = on_output
        self.output, self.errors = bytearray(), bytearray()
        self.data_event = _DataEvent()
        channel.in_buffer.set_event(self.data_event)
        channel.in_stderr_buffer.set_event(self.data_event)

    def run(self, end: float) -> bool:
        """Pump until the command and its output have ended (True) or `end` is reached (False)."""
        ended: float | None = None
        while True:
            self._send_input()
            # Read before the output: data that arrives later is read below, or in the next
            # iteration.
            over = self.channel.closed or self.channel.eof_received
            received = self._read_output()
            now = time.monotonic()
            if self.channel.exit_status_ready():
                ended = now if ended is None or received else ended
                if not received and (over or now - ended > _LINGER_SECONDS):
                    return True
            if now >= end:
                return False
            if not received:
                self.data_event.wait_for_data(
                    min(end - now, 0.2 if self.input_sent and not over else 0.01)
                )

    def _send_input(self) -> None:
        while not self.input_sent and self.channel.send_ready():
            try:
                if not self.stdin and self.deferred:
                    if self.deferred[0] not in self.output:
                        return
                    self.stdin, self.deferred = memoryview(self.deferred[1]), None
                elif self.stdin:
                    self.stdin = self.stdin[self.channel.send(bytes(self.stdin[:32768])) :]
                else:
                    self.channel.shutdown_write()
                    self.input_sent = True
            except OSError:
                self.input_sent = True  # the command ended without reading all of it

    def _read_output(self) -> bool:
        """Read available output; return whether there was any."""
        received = False
        for ready, take, kept in (
            (self.channel.recv_ready, self.channel.recv, self.output),
            (self.channel.recv_stderr_ready, self.channel.recv_stderr, self.errors),
        ):
            # A command that prints without pause must not keep us from checking the time.
            for _ in range(_CHUNKS):
                if not ready():
                    break
                data = take(65536)
                received = received or bool(data)
                kept += data[: max(0, MAX_OUTPUT - len(kept))]
                if data and self.on_output is not None:
                    self.on_output(data)
        return received


class _DataEvent(threading.Event):
    """Set by the connection's thread when data arrives on one of the streams.

    The channel's own `fileno()` would be a pipe, which that thread may write to after we closed it,
    and thus into whatever file has its number by then.
    """

    def clear(self) -> None:
        """Do nothing: that one stream was emptied says nothing about the other one."""

    def wait_for_data(self, seconds: float) -> None:
        """Wait for data, at most this long."""
        self.wait(seconds)
        super().clear()


def _wait_for(event: threading.Event) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        event.wait(max(0.0, seconds))
        event.clear()

    return wait


def _timeout_error(timeout: float) -> CommandTimeout:
    return CommandTimeout(f"The command did not end within {timeout:g} s")


def _name(login: Login) -> str:
    return login.tls_name or f"{login.host}:{login.port}"


def _error_text(login: Login, error: BaseException) -> str:
    return f"{_name(login)} cannot be reached by SSH: {error or type(error).__name__}"
