"""One connection to a VM with a running relay: the login, and the first words of the relay."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from bootloader.exceptions import ShellRefused, ShellUnavailable
from bootloader.providers.ssh.protocol import Shell, Stream
from lieutenants.supervision.transports.ssh import programs
from lieutenants.supervision.transports.ssh.frames import Decoder, Frame
from lieutenants.supervision.transports.ssh.places import Place

LOGIN_SECONDS = 12.0
RELAY_SECONDS = 12.0
_READY = b"reef-relay 1\n"
_MAX_HEAD = 1 << 20


@dataclass
class RelaySession:
    """An open connection. `facts` is what the relay said about its machine."""

    shell: Shell
    stream: Stream
    decoder: Decoder
    facts: dict[str, Any]
    # Frames that arrived together with the facts.
    early: list[Frame]
    # Seconds that the login and the start of the relay took.
    login_seconds: float
    relay_seconds: float


def open_session(place: Place) -> RelaySession:
    """Log in and start the relay. Raise ShellError, ProviderError."""
    began = time.monotonic()
    shell = place.connect(LOGIN_SECONDS)
    try:
        logged_in = time.monotonic()
        stream = shell.open_script(programs.relay_script(), timeout=RELAY_SECONDS)
        decoder, frames = _greet(stream)
        facts = frames[0].head.get("hello")
        if not isinstance(facts, dict):
            raise ShellRefused("the relay did not introduce itself")
        _check_identity(place, facts)
    except BaseException:
        shell.close()
        raise
    ready = time.monotonic()
    return RelaySession(
        *(shell, stream, decoder, facts, frames[1:]),
        login_seconds=logged_in - began,
        relay_seconds=ready - logged_in,
    )


def _greet(stream: Stream) -> tuple[Decoder, list[Frame]]:
    """Send the relay to the machine, and wait for its first frame."""
    event, end = threading.Event(), time.monotonic() + RELAY_SECONDS
    stream.listen(event.set)
    rest, head, decoder = programs.relay(), b"", Decoder()
    while _READY not in head:
        rest = rest[_write(stream, rest) :]
        head += _receive(stream, event, end)
        if len(head) > _MAX_HEAD:
            raise ShellRefused("The machine's login shell prints without an end")
    frames = decoder.feed(head.partition(_READY)[2])
    while not frames:
        frames = decoder.feed(_receive(stream, event, end))
    return decoder, frames


def _write(stream: Stream, data: bytes) -> int:
    try:
        return stream.write(data)
    except ShellUnavailable:
        # It may have said why before it ended.
        return 0


def _receive(stream: Stream, event: threading.Event, end: float) -> bytes:
    """Return what has arrived, after waiting a little for it."""
    event.clear()
    if time.monotonic() > end:
        raise ShellUnavailable(f"The relay did not start within {RELAY_SECONDS:g} s")
    data = stream.read()
    if data:
        return data
    if stream.ended:
        said = stream.errors()
        if said:
            raise ShellRefused(f"The machine {said}")
        raise ShellUnavailable("The connection was lost while the relay started")
    event.wait(0.05)
    return b""


def _check_identity(place: Place, facts: dict[str, Any]) -> None:
    """Raise ShellRefused if another VM answers at this address."""
    says, expected = str(facts.get("vm_id") or ""), place.expected_identity()
    if says and expected and says != expected:
        raise ShellRefused(
            f"The machine that answers says it is VM '{says[:80]}' (/etc/vm_id), not '{expected}'"
        )
