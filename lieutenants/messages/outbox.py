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
from lieutenants.exceptions import NotConnected, Overtaken, TransportError, Unreachable
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
    # The generation that the keeper was told, and when that may be tried again.
    announced: int | None = None
    announce_at: float = 0.0


class Outbox:
    """Used by the follower's thread; only `_deliver` runs in the pool."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="reef-outbox")
        self._mailboxes: dict[str, _Mailbox] = {}
        self._lock = threading.Lock()
        # Lieutenants with queued messages, and those of them with messages that steer.
        self._queued: set[str] = set()
        self._steering: set[str] = set()

    def close(self) -> None:
        """Shut the pool down. Messages that were not sent stay queued in their rows."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def refresh(self, sessions: Mapping[str, Session]) -> None:
        """Find the lieutenants with queued messages, in one query."""
        here = {"lieutenant__data_folder": settings.DATA_FOLDER_ID}
        queued = Message.objects.filter(state=MessageState.QUEUED, **here)
        found = set(queued.order_by().values_list("lieutenant_id", "mode").distinct())
        self._queued = {pk for pk, _ in found}
        self._steering = {pk for pk, mode in found if mode == Mode.STEER}
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
            if session.lieutenant.pk in self._queued:
                self._next_message(session, clock)
            if self._must_announce(session, clock):
                mailbox = self._mailboxes.setdefault(pk, _Mailbox())
                mailbox.announce_at = clock + RESEND_SECONDS
            else:
                mailbox = self._mailboxes.get(pk)
                if not mailbox or not mailbox.waiting:
                    continue
            if not mailbox.sending:
                mailbox.sending = True
                self._pool.submit(self._deliver, mailbox, session)

    def _must_announce(self, session: Session, clock: float) -> bool:
        """Return whether a keeper is to be told now that it has another follower.

        From then on it refuses commands that an earlier one, which was frozen, may still send.
        """
        process = session.process
        if process.transport == "local":
            return False
        mailbox = self._mailboxes.get(process.pk) or _Mailbox()
        if mailbox.announced == process.generation or clock < mailbox.announce_at:
            return False
        return not transport_of(process).unreachable(process.handle, process.directory)

    @staticmethod
    def _unmark_unsent(mailbox: _Mailbox) -> None:
        """Make a message withdrawable while there is no connection to send it."""
        if mailbox.is_first_try and mailbox.message in mailbox.unsent:
            delivery.unmark_sending(mailbox.message)
        mailbox.unsent = set()

    def _next_message(self, session: Session, clock: float) -> None:
        """Send the first message of the queue that the agent takes now, if there is one."""
        state = session.state
        if not (state.accepts_message or state.accepts_steering):
            return
        lieutenant_id = session.lieutenant.pk
        mailbox = self._mailboxes.setdefault(session.process.pk, _Mailbox())
        if not (state.accepts_message or mailbox.message or lieutenant_id in self._steering):
            return
        queue = Message.objects.queue_of(lieutenant_id)
        message = queue.filter(pk=mailbox.message).first() if mailbox.message else None
        if message and (mailbox.sending or clock - mailbox.sent_at < RESEND_SECONDS):
            return
        if message is None:
            mailbox.message = ""
        if message is None or message.evidence is None:
            rows = queue if state.accepts_message else queue.filter(mode=Mode.STEER)
            message = rows.first()
        if message is None:
            self._steering.discard(lieutenant_id)
            if state.accepts_message:
                self._queued.discard(lieutenant_id)
            return
        is_first_try = message.evidence is None
        if not delivery.mark_sending(message.pk):
            return
        # Its text may have been changed until it was marked.
        message = Message.objects.get(pk=message.pk)
        mailbox.message, mailbox.sent_at = message.pk, clock
        mailbox.is_first_try = is_first_try
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
        began, generation = time.monotonic(), process.generation
        with self._lock:
            commands, mailbox.waiting = mailbox.waiting, []
        try:
            transport_of(process).send(process.directory, commands)
        except Overtaken as error:
            logger.warning("refused by the keeper of %s: %s", process.directory, error)
            session.note_overtaken(error.generation)
        except TransportError as error:
            # Messages stay queued in their rows; queries are sent again.
            logger.warning("not sent to %s: %s", process.directory, error)
            if isinstance(error, NotConnected):
                mailbox.unsent = {command.id for command in commands}
            session.note_sent(not isinstance(error, Unreachable), began)
        else:
            mailbox.announced = generation
            session.note_sent(True, began)
        finally:
            mailbox.sending = False
