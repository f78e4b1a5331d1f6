"""Slash commands: messages that an extension of the agent handles without a run.

The agent emits no user message for them. The transcript gets an entry for the command, above its
output; it does not count as a task.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import F

from lieutenants.messages import delivery
from lieutenants.models import Entry, Lieutenant, Message
from lieutenants.states import MessageState, Mode

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

HANDLED, BEGAN_RUN = "handled", "began a run"


def add_entry(session: Session, at: datetime) -> None:
    """Add an entry for the running command, so that its output appears below it."""
    pk = session.memory.inflight
    if not pk or (session.command and session.command.message_id == pk):
        return
    message = Message.objects.filter(pk=pk, text__startswith="/").first()
    if message:
        data = {"command": "running"}
        text = session.screening.cover(message.text)
        entry = session.add(Entry.Kind.USER, at, text=text, message=message, data=data)
        session.command = entry


def mark_handled(session: Session, message_id: str, at: datetime) -> None:
    """Mark the message as handled: the agent reported that it starts no run."""
    message = Message.objects.filter(pk=message_id, taken_up_at__isnull=True).first()
    if message:
        _handle(session, message, at)


def finish_pending(session: Session, at: datetime) -> None:
    """Mark accepted commands as handled when the agent is idle and has not taken them up."""
    accepted = Message.objects.filter(
        lieutenant=session.lieutenant,
        state=MessageState.ACCEPTED,
        taken_up_at__isnull=True,
        text__startswith="/",
    )
    for message in accepted:
        _handle(session, message, at)
    session.command = None


def entry_data(session: Session, message: Message | None, text: str) -> dict[str, str]:
    """Return extra data for the entry of a user message that came from a command."""
    command, cover = session.command, session.screening.cover
    # Compare covered texts: `text` is covered with secrets that were stored later as well.
    if message and command and command.message_id == message.pk and cover(command.text) != text:
        session.revise(command, data={"command": BEGAN_RUN})
    elif message and message.text.startswith("/") and (sent := cover(message.text)) != text:
        return {"sentAs": sent[:200]}
    return {}


def _handle(session: Session, message: Message, at: datetime) -> None:
    entry, data = session.command, {"command": HANDLED}
    if entry and entry.message_id == message.pk:
        session.revise(entry, data=data)
    else:
        text = session.screening.cover(message.text)
        session.add(Entry.Kind.USER, at, text=text, message=message, data=data)
    if delivery.mark_handled(message, at) and message.mode == Mode.PROMPT:
        counted = Lieutenant.objects.filter(pk=session.lieutenant.pk, task_count__gt=0)
        counted.update(task_count=F("task_count") - 1)
