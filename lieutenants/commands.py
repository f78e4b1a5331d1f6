"""Messages that an extension of the agent handles as a slash command, without a run.

Such a message leaves no user message in what the agent says. The transcript gets an entry of its
own for it, above what the command said; it counts as no task.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import F

from lieutenants import delivery
from lieutenants.models import Entry, Lieutenant, Message
from lieutenants.states import MessageState, Mode

if TYPE_CHECKING:
    from lieutenants.session import Session

HANDLED, BEGAN_RUN = "handled", "began a run"


def show(session: Session, at: datetime) -> None:
    """Enter the command that is running, so that what it says stands beneath it."""
    pk = session.memory.inflight
    if not pk or (session.command and session.command.message_id == pk):
        return
    message = Message.objects.filter(pk=pk, text__startswith="/").first()
    if message:
        data = {"command": "running"}
        text = session.screening.cover(message.text)
        entry = session.add(Entry.Kind.USER, at, text=text, message=message, data=data)
        session.command = entry


def handled(session: Session, message_id: str, at: datetime) -> None:
    """The agent said that no run comes of this message."""
    message = Message.objects.filter(pk=message_id, taken_up_at__isnull=True).first()
    if message:
        _handle(session, message, at)


def finish(session: Session, at: datetime) -> None:
    """The agent rests: accepted commands that it did not take up were handled."""
    accepted = Message.objects.filter(
        lieutenant=session.lieutenant,
        state=MessageState.ACCEPTED,
        taken_up_at__isnull=True,
        text__startswith="/",
    )
    for message in accepted:
        _handle(session, message, at)
    session.command = None


def took_up(session: Session, message: Message | None, text: str) -> dict[str, str]:
    """Return what the entry of a user message says of the command that it came from."""
    command, cover = session.command, session.screening.cover
    # Secrets that were stored after it was sent are covered, too, as they are in `text`.
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
