"""One logged-in connection: commands, scripts, files and forwards."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import paramiko

from bootloader.exceptions import ShellError, ShellRefused, ShellUnavailable
from bootloader.providers.base import Login
from bootloader.providers.ssh.command import START_SECONDS, CommandRun
from bootloader.providers.ssh.errors import error_text, name_of, timeout_error
from bootloader.providers.ssh.protocol import CommandEnd, CommandResult, TextSink
from bootloader.providers.ssh.remote_script import COMMAND, FramedScript, printable
from bootloader.providers.ssh.stream import ScriptStream
from bootloader.providers.ssh.stream_pump import StreamPump
from reef_site.common.text import clip_start

# How long the thread of a connection with an open script waits for its socket at a time.
_QUIET_SECONDS = 5.0


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
            text = f"{name_of(login)} cannot be reached from {name_of(self._login)}: {error.text}"
            raise ShellUnavailable(text) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnavailable(error_text(self._login, error)) from None

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
                f"{name_of(self._login)} runs no script for {self._login.user}; it says: {output}"
            )
            raise ShellRefused(problem)
        if reply.status is None:
            raise ShellUnavailable(
                f"{name_of(self._login)} cut the script off: {printable(reply.errors)}"
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
            raise ShellUnavailable(error_text(self._login, error)) from None
        finally:
            watch.cancel()
        if said:
            channel.close()
            if not self._transport.is_active() or time.monotonic() >= end:
                raise ShellUnavailable(f"{name_of(self._login)} did not start a script in time")
            raise ShellRefused(
                f"{name_of(self._login)} runs no script for {self._login.user}; it says: "
                f"{printable(said)}"
            )
        # Its thread would otherwise wake up ten times a second.
        self._transport.sock.settimeout(_QUIET_SECONDS)
        return stream

    def run_text(
        self,
        text: str,
        *,
        limit: float,
        output: TextSink,
        errors: TextSink,
        is_cancelled: Callable[[], bool],
    ) -> CommandEnd:
        """Run a command that a person wrote; see `command`."""
        channel = self._open_channel(time.monotonic() + START_SECONDS)
        try:
            return CommandRun(channel, text, output, errors).run(limit, is_cancelled)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnavailable(error_text(self._login, error)) from None
        finally:
            channel.close()

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
            stream_pump = StreamPump(channel, stdin, on_output, deferred)
            # The request itself would wait forever on a frozen machine.
            watch = threading.Timer(timeout, channel.close)
            watch.daemon = True
            watch.start()
            try:
                channel.exec_command(command)
                finished = stream_pump.run(end)
            except (paramiko.SSHException, OSError, EOFError) as error:
                if time.monotonic() >= end:
                    raise timeout_error(timeout) from None
                raise ShellUnavailable(error_text(self._login, error)) from None
            finally:
                watch.cancel()
            # -1 means no status: timeout, ended by a signal, or connection lost.
            status: int = channel.exit_status
            if not finished or (status == -1 and time.monotonic() >= end):
                raise timeout_error(timeout)
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
            text = f"{name_of(self._login)} opens no session: {error.text}"
            raise ShellRefused(text) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellUnavailable(error_text(self._login, error)) from None

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
            raise ShellUnavailable(error_text(self._login, error)) from None
        finally:
            watch.cancel()
        if not self._transport.is_active():
            raise ShellUnavailable(f"The connection to {name_of(self._login)} was lost")


def _wait_for(event: threading.Event) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        event.wait(max(0.0, seconds))
        event.clear()

    return wait
