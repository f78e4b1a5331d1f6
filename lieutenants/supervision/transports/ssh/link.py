"""The connection to one VM: kept open, opened again after cuts, shared by all lieutenants there."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from bootloader.exceptions import NoSuchMachine
from lieutenants import exceptions
from lieutenants.exceptions import NotConnected, TransportError, Unreachable
from lieutenants.supervision.transports.ssh import programs
from lieutenants.supervision.transports.ssh.follow import Follow
from lieutenants.supervision.transports.ssh.frames import Frame, encode
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.pump import Pump
from lieutenants.supervision.transports.ssh.session import RelaySession, open_session
from reef_site.common.errors import ReefError
from reef_site.common.text import clip, to_storable

logger = logging.getLogger(__name__)

PING_SECONDS = 15.0
# After this time without a sign of life, four pings, the connection is given up.
DEAD_SECONDS = 60.0
# While an answer is awaited, pings are this often.
OVERDUE_SECONDS = 3.0
# An answer that is overdue by this much counts as trouble already.
STALL_SECONDS = 10.0
# An unused connection is closed.
IDLE_SECONDS = 60.0
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 30.0
CONNECT_SECONDS = 25.0
ANSWER_SECONDS = 10.0
START_SECONDS = 35.0
_MAX_POSTS = 1000
_MAX_TEXT = 500
_UNUSED = "the connection was not needed"


class Link:
    """Thread-safe. Nothing but `ask` and `wait_until_open` waits for the network."""

    def __init__(self, place: Place, pump: Pump) -> None:
        self.place = place
        # Its provider, or the operator, has removed the machine.
        self.is_lost = False
        self._pump = pump
        self._lock = threading.RLock()
        self._opened = threading.Condition(self._lock)
        self._session: RelaySession | None = None
        self._is_connecting = False
        self._is_closed = False
        self._attempts = 0
        self._failures = 0
        self._retry_at = 0.0
        self._problem = "it is being connected"
        self._out = bytearray()
        self._posts: list[dict[str, Any]] = []
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._follows: dict[str, Follow] = {}
        self._by_number: dict[int, Follow] = {}
        self._numbers = itertools.count(1)
        self._heard = self._said = self._used = time.monotonic()
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

    def _is_stalled(self) -> bool:
        asked = self._asked
        return asked is not None and time.monotonic() - asked > STALL_SECONDS

    # -- journals -------------------------------------------------------------------------

    def follow(self, directory: str, offset: int) -> Follow:
        """Return what is known of a journal, asking for it from `offset` on if necessary."""
        with self._lock:
            self._used = time.monotonic()
            found = self._follows.get(directory)
            if found is None or found.read(offset, 0) is None:
                found = self._follow_anew(directory, offset, found)
            elif (at := found.due_ack()) is not None and self._session:
                self._write({"op": "ack", "r": found.number, "at": at})
            return found

    def followed(self, directory: str) -> Follow | None:
        """Return what is known of a journal that is followed."""
        return self._follows.get(directory)

    def _follow_anew(self, directory: str, offset: int, old: Follow | None) -> Follow:
        if old is not None:
            self._drop_follow(old)
        follow = Follow(next(self._numbers), directory, offset)
        self._follows[directory] = self._by_number[follow.number] = follow
        if self._session:
            self._write(_follow_request(follow))
        return follow

    def unfollow(self, directory: str) -> None:
        """Stop following a journal."""
        with self._lock:
            if follow := self._follows.pop(directory, None):
                self._drop_follow(follow)

    def _drop_follow(self, follow: Follow) -> None:
        self._by_number.pop(follow.number, None)
        if self._session:
            self._write({"op": "unfollow", "r": follow.number})

    # -- requests -------------------------------------------------------------------------

    def post(self, request: dict[str, Any]) -> None:
        """Send a request whose answer does not matter, now or when there is a connection."""
        with self._lock:
            if self._session:
                self._write(request)
            else:
                self._posts = [*self._posts, request][-_MAX_POSTS:]

    def ask(
        self, request: dict[str, Any], *, seconds: float = ANSWER_SECONDS, connect: bool = True
    ) -> dict[str, Any]:
        """Return the relay's answer, after bringing the programs that it misses there.

        `connect` waits for a connection if there is none. Raises NotConnected if nothing was
        sent, Unreachable if the outcome is unknown, TransportError if the relay refused.
        """
        request = {**request, "program": programs.checksum()}
        try:
            return self._ask_once(request, seconds, connect)
        except ProgramMissing:
            if session := self._session:
                # They were removed with the last lieutenant there.
                session.facts["programs"] = []
            self.install()
            return self._ask_once(request, seconds, connect)

    def install(self) -> None:
        """Copy keeper and runner to the machine, unless they are there."""
        session = self._session
        if session and programs.checksum() in session.facts.get("programs", ()):
            return
        request = {"op": "install", "program": programs.checksum()}
        self._ask_once({**request, "files": programs.encoded_files()}, START_SECONDS, True)
        if session := self._session:
            known = session.facts.get("programs") or []
            session.facts["programs"] = [*known, programs.checksum()]

    def _ask_once(self, request: dict[str, Any], seconds: float, connect: bool) -> dict[str, Any]:
        if connect:
            self.wait_until_open()
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._session is None or self._is_stalled():
                raise NotConnected(f"The machine cannot be reached: {self.trouble()}")
            number = next(self._numbers)
            self._pending[number] = future
            self._write({**request, "n": number})
        try:
            answer = future.result(seconds)
        except FutureTimeout:
            raise Unreachable(f"The machine did not answer within {seconds:g} s") from None
        finally:
            with self._lock:
                self._pending.pop(number, None)
        if not answer.get("ok"):
            raise _error_of(answer)
        return answer

    def wait_until_open(
        self, seconds: float = CONNECT_SECONDS, *, force: bool = False
    ) -> RelaySession:
        """Return the connection, after opening it if necessary. Raises NotConnected.

        After a failure this waits for the next attempt only with `force`, which makes it at once.
        """
        end = time.monotonic() + seconds
        with self._lock:
            self._used = time.monotonic()
            attempts = self._attempts
            while self._session is None:
                resting = not self._is_connecting and time.monotonic() < self._retry_at
                if resting and not force:
                    break
                if self._attempts > attempts and not self._is_connecting:
                    break
                self._connect()
                if not self._opened.wait(max(0.0, end - time.monotonic())):
                    break
            if self._session is None:
                raise NotConnected(f"The machine cannot be reached: {self._problem}")
            return self._session

    def _write(self, request: dict[str, Any]) -> None:
        now = time.monotonic()
        self._out += encode(request)
        self._used = self._said = now
        if self._asked is None and (request["op"] == "ping" or "n" in request):
            self._asked = now
        self._pump.ring(self)

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
        head = frame.head
        if "n" in head:
            with self._lock:
                future = self._pending.pop(head["n"], None)
            if future and not future.done():
                future.set_result(head)
            return
        follow = self._by_number.get(head.get("r", 0))
        if follow is None:
            return
        if "z" in head:
            follow.add(head["o"], frame.data)
        elif "gap" in head:
            follow.add_gap(head["o"], head["gap"])
        elif "out" in head:
            follow.out = _text_of(head["out"])
        elif head.get("gone"):
            follow.mark_ended()

    def flush(self) -> bool:
        """Write what waits; return whether more waits."""
        with self._lock:
            session, data = self._session, bytes(self._out[: 1 << 18])
        if session is None or not data:
            return False
        try:
            done = session.stream.write(data)
        except ReefError as error:
            self._drop(session, str(error))
            return False
        with self._lock:
            if self._session is session:
                del self._out[:done]
            return bool(self._out)

    def tick(self, now: float) -> None:
        """Keep the connection alive, give it up, or open it again."""
        session = self._session
        if session is None:
            with self._lock:
                is_wanted = self._follows or self._posts or now - self._used < IDLE_SECONDS
                if is_wanted and now >= self._retry_at:
                    self._connect()
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
        if self._is_connecting or self._session or self._is_closed:
            return
        self._is_connecting = True
        self._pump.connect(self._open)

    def _open(self) -> None:
        session, problem, lost = None, "", False
        try:
            session = open_session(self.place)
        except NoSuchMachine as error:
            problem, lost = str(error), True
        except ReefError as error:
            problem = str(error)
        except Exception as error:
            logger.exception("cannot connect to %s", self.place)
            problem = f"{type(error).__name__}: {error}"
        with self._lock:
            self._is_connecting = False
            self._attempts += 1
            self.is_lost = lost
            if session is None:
                self._back_off(problem)
            elif self._is_closed:
                self._pump.connect(session.shell.close)
            else:
                self._begin(session)
            self._opened.notify_all()

    def _back_off(self, problem: str) -> None:
        if problem not in (self._problem, _UNUSED):
            logger.warning("%s cannot be reached: %s", self.place, problem)
        self._problem = problem
        pause = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        # Many connections that broke together must not be opened together.
        self._retry_at = time.monotonic() + pause * random.uniform(0.5, 1.5)  # noqa: S311

    def _begin(self, session: RelaySession) -> None:
        self._session, self._failures, self._asked = session, 0, None
        self._heard = self._said = time.monotonic()
        self._out.clear()
        for follow in self._follows.values():
            self._write(_follow_request(follow))
        for request in self._posts:
            self._write(request)
        self._posts = []
        self._take_all(session, session.early)
        session.stream.listen(lambda: self._pump.ring(self))
        self._pump.ring(self)

    def _drop(self, session: RelaySession, problem: str) -> None:
        with self._lock:
            if self._session is not session:
                return
            self._session, self._asked = None, None
            self._out.clear()
            pending, self._pending = self._pending, {}
            self._back_off(problem)
            if problem == _UNUSED:
                self._retry_at = 0.0
        error = Unreachable(f"The connection broke: {problem}")
        for future in pending.values():
            if not future.done():
                future.set_exception(error)
        self._pump.connect(session.shell.close)

    def close(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._is_closed = True
            self._follows.clear()
            self._by_number.clear()
            self._posts = []
            session = self._session
        if session:
            self._drop(session, _UNUSED)


class ProgramMissing(TransportError):
    """The machine does not have this version's programs."""


def _error_of(answer: dict[str, Any]) -> TransportError:
    text = _text_of(answer.get("error") or "the relay refused")
    if answer.get("kind") == "ProgramMissing":
        return ProgramMissing(text)
    kind = getattr(exceptions, str(answer.get("kind")), TransportError)
    is_known = isinstance(kind, type) and issubclass(kind, TransportError)
    return kind(text) if is_known else TransportError(text)


def _text_of(value: object) -> str:
    """Return a text that a machine has sent in a form that can be stored and shown."""
    return clip(to_storable(str(value)), _MAX_TEXT)


def _follow_request(follow: Follow) -> dict[str, Any]:
    return {"op": "follow", "r": follow.number, "dir": follow.directory, "at": follow.end}
