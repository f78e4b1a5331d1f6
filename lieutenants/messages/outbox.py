"""Send commands to keepers: messages one at a time, the follower's own commands at once.

Sending to a slow keeper may block, so it runs in a small thread pool, with one thread per session
at most. Keepers know command ids, so a command sent twice reaches the agent once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from django.conf import settings

from lieutenants.agents import dialect_of
from lieutenants.agents.base import Outgoing
from lieutenants.exceptions import NotConnected, TransportError, Unreachable
from lieutenants.messages import delivery, images
from lieutenants.models import Message
from lieutenants.sessions.inputs import WorkSeen
from lieutenants.sessions.session import Session
from lieutenants.states import MessageState, Mode
from lieutenants.supervision.transports import transport_of

logger = logging.getLogger(__name__)

RESEND_SECONDS = 5.0


@dataclass
class _Mailbox:
    """Pending commands of one session, and the last message sent."""

    waiting: list[Outgoing] = field(default_factory=list)
    sending: bool = False
    message: str = ""
    sent_at: float = 0.0
    # No earlier attempt to send the message can have reached the keeper.
    is_first_try: bool = False
    # Commands of an attempt that found no connection.
    unsent: set[str] = field(default_factory=set)


class Outbox:
    """Used by the follower's thread; only `_deliver` runs in the pool."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="reef-outbox")
        self._mailboxes: dict[str, _Mailbox] = {}
        self._lock = threading.Lock()
        self._queued: set[str] = set()

    def close(self) -> None:
        """Shut the pool down. Messages that were not sent stay queued in their rows."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def refresh(self, sessions: Mapping[str, Session]) -> None:
        """Find the lieutenants with queued messages, in one query."""
        here = {"lieutenant__data_folder": settings.DATA_FOLDER_ID}
        queued = Message.objects.filter(state=MessageState.QUEUED, **here)
        self._queued = set(queued.values_list("lieutenant_id", flat=True).distinct())
        for session in sessions.values():
            if session.lieutenant.pk in self._queued:
                session.handle(WorkSeen())
        for gone in self._mailboxes.keys() - sessions.keys():
            del self._mailboxes[gone]

    def collect(self, session: Session) -> None:
        """Take over the session's outgoing commands."""
        if commands := session.take_commands():
            mailbox = self._mailboxes.setdefault(session.process.pk, _Mailbox())
            with self._lock:
                mailbox.waiting.extend(commands)

    def send(self, sessions: Mapping[str, Session], clock: float) -> None:
        """Send the next queued message of each session, and all other pending commands."""
        for pk, session in sessions.items():
            mailbox = self._mailboxes.get(pk)
            if mailbox and mailbox.unsent and not mailbox.sending:
                self._unmark_unsent(mailbox)
            if session.lieutenant.pk in self._queued and session.state.accepts_message:
                self._next_message(session, clock)
            mailbox = self._mailboxes.get(pk)
            if mailbox and mailbox.waiting and not mailbox.sending:
                mailbox.sending = True
                self._pool.submit(self._deliver, mailbox, session)

    @staticmethod
    def _unmark_unsent(mailbox: _Mailbox) -> None:
        """Make a message withdrawable while there is no connection to send it."""
        if mailbox.is_first_try and mailbox.message in mailbox.unsent:
            delivery.unmark_sending(mailbox.message)
        mailbox.unsent = set()

    def _next_message(self, session: Session, clock: float) -> None:
        mailbox = self._mailboxes.setdefault(session.process.pk, _Mailbox())
        if mailbox.message and (mailbox.sending or clock - mailbox.sent_at < RESEND_SECONDS):
            queued = Message.objects.filter(pk=mailbox.message, state=MessageState.QUEUED)
            if queued.exists():
                return
        message = Message.objects.filter(
            lieutenant=session.lieutenant, state=MessageState.QUEUED
        ).first()
        if message is None:
            self._queued.discard(session.lieutenant.pk)
            return
        if not delivery.mark_sending(message.pk):
            return
        mailbox.message, mailbox.sent_at = message.pk, clock
        mailbox.is_first_try = message.evidence is None
        dialect = dialect_of(session.lieutenant)
        command = dialect.send_message(
            message.pk,
            message.text,
            steer=message.mode == Mode.STEER,
            images=images.load(message.pk),
        )
        with self._lock:
            mailbox.waiting.append(command)

    def _deliver(self, mailbox: _Mailbox, session: Session) -> None:
        process = session.process
        began = time.monotonic()
        with self._lock:
            commands, mailbox.waiting = mailbox.waiting, []
        try:
            transport_of(process).send(process.directory, commands)
        except TransportError as error:
            # Messages stay queued in their rows; queries are sent again.
            logger.warning("not sent to %s: %s", process.directory, error)
            if isinstance(error, NotConnected):
                mailbox.unsent = {command.id for command in commands}
            session.note_sent(not isinstance(error, Unreachable), began)
        else:
            session.note_sent(True, began)
        finally:
            mailbox.sending = False
