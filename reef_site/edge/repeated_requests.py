"""Requests whose head came before: they are begun again without parsing it.

An agent sends the same head each time. Equal bytes mean equal requests, so the bytes of a head are
kept with what they meant once the fast path has answered its request. What depends on more than
the head is checked each time: the token, the limits, and the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from reef_site.common.asgi import JSONResponse
from reef_site.edge.request_bodies import Scope

Client = tuple[str, int] | None
Reply = Callable[[JSONResponse | None], None]
# Takes the client, the body and a callback for the response, which gets None if the request must be
# handled like all others. Returns False if it does not take the request.
Begin = Callable[[Client, bytes, Reply], bool]
# Keys in the ASGI scope: a function that takes the `KnownRequest` of an answered request, and what
# arrived together with the head, behind it.
REMEMBER, BEHIND_HEAD = "reef.remember_request", "reef.behind_head"
# Key in the ASGI scope of a request that the fast path has tried, and left to web.
PASSED_ON = "reef.passed_on"

MAX_HEAD_LENGTH, MAX_BODY_LENGTH = 1024, 16 << 10
# Clients such as Python's send a body right behind its head, but in a packet of its own. If it does
# not come so soon, the parser reads the head.
HOLD_SECONDS = 0.5
# Each of two generations has so many heads.
MAX_HEADS = 10_000
# A larger body is not copied behind its head.
MAX_COPIED = 1 << 16
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """The meaning of a head. `note_refusal` records a 401 or 403."""

    begin: Begin
    note_refusal: Callable[[Client, JSONResponse], None]
    body_length: int = 0
    # Whether it asks to close the connection behind the response.
    closes: bool = False


class KnownRequests:
    """Known requests by the bytes of their heads; those not seen for long are forgotten."""

    def __init__(self, size: int = MAX_HEADS) -> None:
        self._size = size
        self._new: dict[bytes, KnownRequest] = {}
        self._old: dict[bytes, KnownRequest] = {}

    def find(self, head: bytes) -> KnownRequest | None:
        """Return what this head means."""
        known = self._new.get(head)
        if known is None and (known := self._old.get(head)):
            self.keep(head, known)
        return known

    def keep(self, head: bytes, known: KnownRequest) -> None:
        """Remember what this head means."""
        if len(self._new) >= self._size:
            self._old, self._new = self._new, {}
        self._new[head] = known

    def forget(self, head: bytes) -> None:
        """Forget this head."""
        self._new.pop(head, None)
        self._old.pop(head, None)


class RepeatingProtocol(HttpToolsProtocol):
    """HTTP protocol that begins known requests by itself, and parses all others.

    While a known request is in progress, what arrives behind it waits.
    """

    known_requests = KnownRequests()
    # The known request in progress, and its bytes.
    _repeated: KnownRequest | None = None
    _repeated_data = b""
    _waiting_data = b""
    _ends = False
    _in_message = False
    # Whether the parser reads a known request that the fast path has left to web.
    _is_passed_on = False
    # A known head whose body is not there yet, with what is there of it.
    _held = b""
    _hold_timer: asyncio.TimerHandle | None = None
    # The head that the parser is reading, if it came at once and alone.
    _whole_head = _behind_head = b""
    # One timer serves many pauses between requests, each of which begins later than the one before.
    _idle_since: float | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    # Lines that begin responses by their status, for the default headers of this second.
    _default_headers: ClassVar[object] = None
    _first_lines: ClassVar[dict[int, bytes]] = {}

    def data_received(self, data: bytes) -> None:
        """Begin a known request, or let the parser read the data."""
        if self._repeated:
            self._waiting_data += data
            self.flow.pause_reading()
            return
        was_held = bool(self._held)
        if was_held:
            data = self._take_held() + data
        cycle = self.cycle
        if self._in_message or (cycle is not None and not cycle.response_complete):
            self._whole_head = b""
            self.parse(data)
            return
        end = data.find(_END, 0, MAX_HEAD_LENGTH) + len(_END)
        if end < len(_END):
            self._whole_head = b""
            self.parse(data)
            return
        head = data if end == len(data) else data[:end]
        known = self.known_requests.find(head)
        if known:
            missing = known.body_length - (len(data) - end)
            if missing == 0 and self._begin_again(known, data, end):
                return
            if missing > 0 and not was_held and self.takes_known():
                self._hold(data)
                return
        self._whole_head, self._behind_head = head, data[end : end + MAX_BODY_LENGTH + 1]
        self.parse(data)

    def parse(self, data: bytes) -> None:
        """Let uvicorn handle the data."""
        super().data_received(data)

    def _hold(self, data: bytes) -> None:
        """Wait a moment for the rest of a body."""
        self._held, self._idle_since = data, None
        self._hold_timer = self.loop.call_later(HOLD_SECONDS, self._parse_held)

    def _take_held(self) -> bytes:
        if self._hold_timer:
            self._hold_timer.cancel()
            self._hold_timer = None
        held, self._held = self._held, b""
        return held

    def _parse_held(self) -> None:
        self._whole_head = b""
        self.parse(self._take_held())

    def takes_known(self) -> bool:
        """Return whether known requests need no further checks now."""
        limit = self.limit_concurrency
        has_room = limit is None or (len(self.connections) < limit and len(self.tasks) < limit)
        return has_room and not self.flow.write_paused

    def _begin_again(self, known: KnownRequest, data: bytes, end: int) -> bool:
        if not self.takes_known():
            return False
        self._idle_since = None
        self._repeated, self._repeated_data = known, data
        if not known.begin(self.client, data[end:], self._answer_again):
            self._repeated = None
            return False
        return True

    def _answer_again(self, answer: JSONResponse | None) -> None:
        """Write the response to the known request; None lets the parser read it after all."""
        known, data = self._repeated, self._repeated_data
        self._repeated, self._repeated_data = None, b""
        if known is None or self.transport.is_closing():
            return
        if answer is None:
            self.known_requests.forget(data[: len(data) - known.body_length])
            self._is_passed_on = True
            self.parse(data)
            self._is_passed_on = False
            if self._ends:
                super().shutdown()
        else:
            if answer.status in (401, 403):
                known.note_refusal(self.client, answer)
            self.write_response(answer, keep_alive=not (self._ends or known.closes))
            self.server_state.total_requests += 1
            self._begin_pause()
        if self.transport.is_closing():
            # What came behind the last request gets no response, so it must not be carried out.
            self._waiting_data = b""
        if self._waiting_data:
            waiting, self._waiting_data = self._waiting_data, b""
            self.flow.resume_reading()
            self.data_received(waiting)

    def write_response(self, answer: JSONResponse, *, keep_alive: bool) -> None:
        """Write a whole response; without `keep_alive`, close the connection."""
        headers = self.server_state.default_headers
        if headers is not RepeatingProtocol._default_headers:
            # uvicorn replaces them each second.
            RepeatingProtocol._default_headers = headers
            RepeatingProtocol._first_lines = {}
        first = self._first_lines.get(answer.status)
        if first is None:
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            first = self._first_lines[answer.status] = STATUS_LINE[answer.status] + lines
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        if len(answer.body) > MAX_COPIED:
            self.transport.writelines((b"".join((first, answer.lines, end)), answer.body))
        else:
            self.transport.write(b"".join((first, answer.lines, end, answer.body)))
        if not keep_alive:
            self.transport.close()

    def add_remembering(self, cycle: RequestResponseCycle, scope: Scope) -> None:
        """Let the application remember the request, if its head came at once, and read its body."""
        if self._is_passed_on:
            scope[PASSED_ON] = True
        head = self._whole_head
        # The parser must have read as many lines as there are: it may take other line ends, too.
        if head.count(b"\n") != len(scope["headers"]) + 2 or self.parser.should_upgrade():
            return
        if cycle.waiting_for_100_continue:
            return
        scope[BEHIND_HEAD] = self._behind_head
        scope[REMEMBER] = partial(self._remember, head, not cycle.keep_alive)

    def _remember(self, head: bytes, closes: bool, known: KnownRequest) -> None:
        self.known_requests.keep(head, replace(known, closes=closes))

    def on_message_begin(self) -> None:
        """Note that the parser is inside of a request."""
        self._in_message = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Note that the parser is between requests; others may follow in the same data."""
        self._in_message, self._whole_head = False, b""
        super().on_message_complete()

    def shutdown(self) -> None:
        """End the connection, but not before the known request in progress is answered."""
        if self._repeated:
            self._ends = True
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the known request in progress, and stop the timer."""
        self._repeated, self._waiting_data = None, b""
        self._take_held()
        if self._idle_timer:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

    # -- pauses between requests ----------------------------------------------------------------

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def on_response_complete(self) -> None:
        """Begin the next request if it is there; called by uvicorn."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._idle_since = None
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._begin_pause()

    def _begin_pause(self) -> None:
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._check_pause)

    def _check_pause(self) -> None:
        """Close the connection if the pause is long; else check again when it would be."""
        self._idle_timer = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._check_pause)
        else:
            self.timeout_keep_alive_handler()


def remember(scope: Scope, known: KnownRequest) -> None:
    """Remember an answered request by its head, if the server can."""
    function: Any = scope.get(REMEMBER)
    if function:
        function(known)
