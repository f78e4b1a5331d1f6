"""The connection to one VM: opened when it is needed, kept alive, opened again after cuts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from lieutenants.supervision.transports.ssh import logins, pending
from lieutenants.supervision.transports.ssh.backoff import Backoff
from lieutenants.supervision.transports.ssh.follows import Follows
from lieutenants.supervision.transports.ssh.frames import Frame, encode
from lieutenants.supervision.transports.ssh.logins import Logins
from lieutenants.supervision.transports.ssh.pending import Pending
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.pump import Pump
from lieutenants.supervision.transports.ssh.send_queue import SendQueue
from lieutenants.supervision.transports.ssh.session import RelaySession
from reef_site.common.errors import ReefError

logger = logging.getLogger(__name__)

PING_SECONDS = 15.0
# After this time without a sign of life, four pings, the connection is given up.
DEAD_SECONDS = 60.0
# While an answer is awaited, pings are this often.
OVERDUE_SECONDS = 3.0
# An answer that is overdue by this much counts as trouble already.
STALL_SECONDS = 10.0
# A connection that lives for so long was a success, also if nothing came through it.
STABLE_SECONDS = 15.0
# An unused connection is closed.
IDLE_SECONDS = 60.0
# For so long a command that could not be sent counts as waiting work.
WANTED_SECONDS = 30.0
_FLUSH_BYTES = 1 << 18
_UNUSED = "the connection was not needed"


class Connection:
    """The base of a `Link`, on the side of the pump. Thread-safe; never waits for the network."""

    def __init__(
        self, place: Place, pump: Pump, on_unused: Callable[[Any], object] | None = None
    ) -> None:
        """`on_unused` is called now and then while it is neither open nor needed."""
        self.place = place
        self._on_unused = on_unused
        # Its provider, or the operator, has removed the machine.
        self.is_lost = False
        self._pump = pump
        self._lock = threading.RLock()
        self._opened = threading.Condition(self._lock)
        self._session: RelaySession | None = None
        self._logins = Logins()
        self._is_closed = False
        # How many callers wait for the connection, and when a command was last not sent.
        self._waiters = self._probes = 0
        self._missed: float | None = None
        self._backoff = Backoff()
        self._problem = "it is being connected"
        self._queue = SendQueue()
        self._posts: list[dict[str, Any]] = []
        self._pending = Pending()
        self._follows = Follows()
        self._heard = self._said = self._used = self._touched = time.monotonic()
        self._began = self._heard
        # Since when an answer is awaited.
        self._asked: float | None = None
        pump.add(self)

    # -- state ----------------------------------------------------------------------------

    @property
    def session(self) -> RelaySession | None:
        """Return the open connection."""
        return self._session

    def trouble(self) -> str:
        """Return why the machine cannot be reached; empty if it can."""
        if self._session is None:
            return self._problem
        if self._is_stalled():
            return f"nothing came from it for {int(time.monotonic() - self._heard)} s"
        return ""

    def silent_seconds(self) -> float | None:
        """Return for how long nothing has come through the connection; None if there is none."""
        return time.monotonic() - self._heard if self._session else None

    def touch(self) -> bool:
        """Keep this object for a while; return False if it is closed for good."""
        with self._lock:
            self._touched = time.monotonic()
            return not self._is_closed

    def retire(self) -> bool:
        """Close it for good if nobody has needed it for a while; return whether it is closed."""
        with self._lock:
            is_needed = self._session or self._follows or self._posts or self._waiters
            is_needed = is_needed or self._probes or self._logins.is_busy
            if is_needed or time.monotonic() - max(self._used, self._touched) < IDLE_SECONDS:
                return self._is_closed
            self._is_closed = True
            return True

    def _is_stalled(self) -> bool:
        asked = self._asked
        return asked is not None and time.monotonic() - asked > STALL_SECONDS

    # -- requests -----------------------------------------------------------------------------

    def _write(self, request: dict[str, Any]) -> None:
        now = time.monotonic()
        self._queue.add(encode(request), request.get("n"))
        self._used = self._said = now
        if self._asked is None and (request["op"] == "ping" or "n" in request):
            self._asked = now
        self._pump.ring(self)

    def _tell(self, requests: list[dict[str, Any]]) -> None:
        """Send requests that a new relay gets anyway. The lock must be held."""
        if self._session:
            for request in requests:
                self._write(request)

    # -- called by the pump -----------------------------------------------------------------

    def receive(self) -> None:
        """Take what has arrived."""
        session = self._session
        if session is None:
            return
        data = session.stream.read()
        if data:
            self._heard, self._asked = time.monotonic(), None
            try:
                frames = session.decoder.feed(data)
            except ValueError as error:
                self._drop(session, str(error))
                return
            self._take_all(session, frames)
            if session.stream.has_more:
                self._pump.ring(self)
        elif session.stream.ended:
            self._drop(session, session.stream.errors() or "the connection was lost")

    def _take_all(self, session: RelaySession, frames: list[Frame]) -> None:
        """Take frames; a machine whose relay sends what no relay sends loses its connection."""
        try:
            for frame in frames:
                self._take(frame)
        except (ValueError, TypeError, KeyError) as error:
            self._drop(session, f"its relay's stream is damaged: {error}")

    def _take(self, frame: Frame) -> None:
        with self._lock:
            is_answer = self._pending.take(frame.head)
        if not is_answer and self._follows.take(frame):
            self._backoff.succeed()

    def flush(self) -> bool:
        """Write what waits; return whether more waits."""
        with self._lock:
            session, data = self._session, self._queue.head(_FLUSH_BYTES)
        if session is None or not data:
            return False
        try:
            done = session.stream.write(data)
        except ReefError as error:
            self._drop(session, str(error))
            return False
        with self._lock:
            if self._session is session:
                self._queue.advance(done)
            return bool(self._queue)

    def tick(self, now: float) -> None:
        """Keep the connection alive, give it up, or open it again."""
        session = self._session
        if session is None:
            with self._lock:
                is_wanted = self._follows or self._posts or now - self._used < IDLE_SECONDS
                if is_wanted and not self.is_lost and now >= self._backoff.until:
                    self._connect()
            if not is_wanted and self._on_unused is not None:
                self._on_unused(self)
            return
        if session.stream.ended:
            self.receive()
        elif now - self._heard > DEAD_SECONDS:
            self._drop(session, f"it gave no sign of life for {DEAD_SECONDS:g} s")
        elif now - self._used > IDLE_SECONDS and not self._follows and not self._pending:
            self._drop(session, _UNUSED)
        elif now - max(self._said, self._heard) >= (
            PING_SECONDS if self._asked is None else OVERDUE_SECONDS
        ):
            # An answer may take longer than a pong, which shows that the machine can be reached.
            with self._lock:
                used = self._used
                self._write({"op": "ping"})
                self._used = used

    # -- opening and closing ------------------------------------------------------------------

    def _connect(self) -> None:
        """Begin a login in the background, unless one is under way. The lock must be held."""
        is_awaited = self._waiters > 0
        if self._session or self._is_closed or not self._logins.queue(is_awaited=is_awaited):
            return
        has_work = is_awaited or self._follows
        is_spare = self._backoff.is_dead or not has_work
        self._pump.connect(self._open, is_spare=is_spare, is_awaited=is_awaited)

    def _open(self) -> None:
        with self._lock:
            if not self._logins.begin(is_wanted=not self._is_closed and self._session is None):
                return
        session, problem, is_lost = logins.log_in(self.place)
        with self._lock:
            self._logins.end()
            self.is_lost = is_lost
            if session is None:
                self._back_off(problem)
                if is_lost:
                    self._posts = []
            elif self._is_closed:
                self._pump.close(session.shell.close)
            else:
                self._begin(session)
            self._opened.notify_all()

    def _back_off(self, problem: str) -> None:
        if problem not in (self._problem, _UNUSED):
            logger.warning("%s cannot be reached: %s", self.place, problem)
        self._problem = problem
        now, missed = time.monotonic(), self._missed
        is_missed = missed is not None and now - missed < WANTED_SECONDS
        self._backoff.fail(now, is_wanted=is_missed or self._waiters > 0)

    def _begin(self, session: RelaySession) -> None:
        self._session, self._asked = session, None
        self._began = self._heard = self._said = time.monotonic()
        self._queue.clear()
        self._tell([*self._follows.requests(), *self._posts])
        self._posts = []
        self._take_all(session, session.early)
        session.stream.listen(lambda: self._pump.ring(self))
        self._pump.ring(self)

    def _drop(self, session: RelaySession, problem: str) -> None:
        with self._lock:
            if self._session is not session:
                return
            self._session, self._asked = None, None
            awaited = self._pending.take_all()
            unsent = {number for number in awaited if self._queue.withdraw(number)}
            self._queue.clear()
            if time.monotonic() - self._began >= STABLE_SECONDS:
                self._backoff.succeed()
            self._back_off(problem)
            if problem == _UNUSED:
                self._backoff.end_pause()
        pending.fail(awaited, unsent, f"The connection broke: {problem}")
        self._pump.close(session.shell.close)

    def close(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._is_closed = True
            self._follows.clear()
            self._posts = []
            session = self._session
            self._opened.notify_all()
        if session:
            self._drop(session, _UNUSED)
