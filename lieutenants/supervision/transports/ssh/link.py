"""Requests of all lieutenants on one VM over the connection that they share."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from lieutenants.exceptions import NotConnected, Unreachable
from lieutenants.supervision.transports.ssh import programs
from lieutenants.supervision.transports.ssh.answers import ProgramMissing, error_of
from lieutenants.supervision.transports.ssh.connection import Connection
from lieutenants.supervision.transports.ssh.follow import Follow
from lieutenants.supervision.transports.ssh.pending import Answer
from lieutenants.supervision.transports.ssh.session import RelaySession

CONNECT_SECONDS = 25.0
ANSWER_SECONDS = 10.0
START_SECONDS = 35.0
_MAX_POSTS = 1000


class Link(Connection):
    """Journals that are followed, and requests to the relay: the side of callers. Thread-safe.

    Nothing but `ask`, `install` and `wait_until_open` waits for the network.
    """

    # -- journals -------------------------------------------------------------------------

    def follow(self, directory: str, offset: int) -> Follow:
        """Return what is known of a journal, asking for it from `offset` on if necessary."""
        with self._lock:
            self._used = time.monotonic()
            found, requests = self._follows.get(directory, offset)
            self._tell(requests)
            return found

    def followed(self, directory: str) -> Follow | None:
        """Return what is known of a journal that is followed."""
        return self._follows.find(directory)

    def unfollow(self, directory: str) -> None:
        """Stop following a journal."""
        with self._lock:
            self._tell(self._follows.remove(directory))

    # -- requests -------------------------------------------------------------------------

    def post(self, request: dict[str, Any]) -> None:
        """Send a request whose answer does not matter, now or when there is a connection."""
        with self._lock:
            if self._session:
                self._write(request)
            elif not self.is_lost:
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
        with self._lock:
            if self._session is None or self._is_stalled():
                self._missed = time.monotonic()
                self._backoff.hasten(self._missed)
                raise NotConnected(f"The machine cannot be reached: {self.trouble()}")
            number, future = self._pending.add()
            self._write({**request, "n": number})
        answer = self._await(future, number, seconds)
        if not answer.get("ok"):
            raise error_of(answer)
        return answer

    def _await(self, future: Future[Answer], number: int, seconds: float) -> Answer:
        try:
            answer = self._pending.await_answer(future, seconds)
        finally:
            with self._lock:
                self._pending.forget(number)
                was_sent = not self._queue.withdraw(number)
        if answer is not None:
            return answer
        text = f"The machine did not answer within {seconds:g} s"
        if was_sent:
            raise Unreachable(text)
        raise NotConnected(f"{text}, and nothing was sent: {self.trouble() or 'the line is slow'}")

    # -- waiting for the connection ---------------------------------------------------------

    def wait_until_open(
        self, seconds: float = CONNECT_SECONDS, *, force: bool = False, is_probe: bool = False
    ) -> RelaySession:
        """Return the connection, after opening it if necessary. Raises NotConnected.

        After a failure this waits for the next attempt only with `force`, which makes it at once.
        A probe only looks whether the machine answers, and takes the slot of no other login.
        """
        end = time.monotonic() + seconds
        with self._lock:
            self._used = time.monotonic()
            self._probes += is_probe
            self._waiters += not is_probe
            try:
                self._await_session(end, force)
            finally:
                self._probes -= is_probe
                self._waiters -= not is_probe
            if self._session is None:
                raise NotConnected(f"The machine cannot be reached: {self._problem}")
            return self._session

    def _await_session(self, end: float, force: bool) -> None:
        """Wait for the connection, or for an attempt that has failed. The lock must be held."""
        count = self._logins.count
        while self._session is None and not self._is_closed:
            is_connecting = self._logins.is_busy
            if not is_connecting and not force and time.monotonic() < self._backoff.until:
                return
            if not is_connecting and self._logins.count > count:
                return
            self._connect()
            if not self._opened.wait(max(0.0, end - time.monotonic())):
                return
