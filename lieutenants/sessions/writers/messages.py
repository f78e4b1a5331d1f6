"""Effects on messages, and the entries of messages and of commands.

A command is a message that an extension of the agent handles without a run. The agent emits no user
message for it. The transcript gets an entry for the command, above its output; it does not count as
a task.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db.models import F

from lieutenants.agents import events
from lieutenants.messages import delivery
from lieutenants.models import Entry, Lieutenant, Message
from lieutenants.sessions import effects
from lieutenants.states import MessageState, Mode
from lieutenants.transcript.recorder import truncation_note

if TYPE_CHECKING:
    from lieutenants.sessions.recorder import Recorder

HANDLED, BEGAN_RUN = "handled", "began a run"


# -- receipts ----------------------------------------------------------------------------------


def _decide(recorder: Recorder, effect: effects.DecideMessage) -> None:
    accepted, evidence = effect.is_accepted, effect.evidence
    delivery.decide(effect.message, accepted=accepted, evidence=evidence, at=effect.at)
    recorder.next_rev()


def _withdraw_returned(recorder: Recorder, effect: effects.WithdrawReturned) -> None:
    lieutenant, cover = recorder.lieutenant, recorder.screening.cover
    count = delivery.withdraw_accepted(lieutenant, effect.texts, effect.at, cover=cover)
    if count:
        recorder.notice(effect.at, effects.withdrawal_text(count))


def _withdraw_unstarted(recorder: Recorder, effect: effects.WithdrawUnstarted) -> None:
    delivery.withdraw_unstarted(recorder.lieutenant, effect.at)


def _withdraw_queued(recorder: Recorder, effect: effects.WithdrawQueued) -> None:
    delivery.withdraw_queued(recorder.lieutenant, delivery.DESTROYED, effect.at)


def _requeue(recorder: Recorder, _effect: effects.RequeueMessages) -> None:
    delivery.requeue(recorder.lieutenant)


def _mark_all_begun(recorder: Recorder, effect: effects.MarkAllBegun) -> None:
    delivery.mark_all_begun(recorder.lieutenant, effect.at)


# -- messages that the agent took up -----------------------------------------------------------


def record_user_message(recorder: Recorder, event: events.UserMessage, at: datetime) -> None:
    """Mark the message that the agent has begun, and add its entry."""
    text, images = event.text, event.images
    message = delivery.mark_begun(recorder.lieutenant, text, at, cover=recorder.screening.cover)
    if message:
        recorder.message_id = message.pk
        if recorder.answer and recorder.answer.message_id is None:
            recorder.answer.message_id = message.pk
            recorder.batch.change(recorder.answer)
    if event.bytes_left_out:
        text = truncation_note("Message", event.bytes_left_out, images, text)
    data: dict[str, Any] = {"images": images} if images else {}
    data |= _command_data(recorder, message, text)
    entry = recorder.add(Entry.Kind.USER, at, text=text, message=message, data=data)
    recorder.first_user = recorder.first_user or entry


def _command_data(recorder: Recorder, message: Message | None, text: str) -> dict[str, str]:
    """Return extra data for the entry of a user message that came from a command."""
    if message is None:
        return {}
    command, cover = recorder.command, recorder.screening.cover
    # Compare covered texts: `text` is covered with secrets that were stored later as well.
    if command and command.message_id == message.pk and cover(command.text) != text:
        recorder.revise(command, data={"command": BEGAN_RUN})
    elif recorder.dialect.is_command(message.text) and (sent := cover(message.text)) != text:
        return {"sentAs": sent[:200]}
    return {}


# -- commands ----------------------------------------------------------------------------------


def _show_command(recorder: Recorder, effect: effects.ShowCommand) -> None:
    if recorder.command and recorder.command.message_id == effect.message:
        return
    message = Message.objects.filter(pk=effect.message).first()
    if message and recorder.dialect.is_command(message.text):
        recorder.command = _add_command(recorder, message, "running", effect.at)


def _mark_handled(recorder: Recorder, effect: effects.MarkHandled) -> None:
    message = Message.objects.filter(pk=effect.message, taken_up_at__isnull=True).first()
    if message:
        _handle(recorder, message, effect.at)


def _finish_commands(recorder: Recorder, effect: effects.FinishCommands) -> None:
    accepted = Message.objects.filter(
        lieutenant=recorder.lieutenant, state=MessageState.ACCEPTED, taken_up_at__isnull=True
    )
    for message in accepted:
        if recorder.dialect.is_command(message.text):
            _handle(recorder, message, effect.at)
    recorder.command = None


def _handle(recorder: Recorder, message: Message, at: datetime) -> None:
    entry = recorder.command
    if entry and entry.message_id == message.pk:
        recorder.revise(entry, data={"command": HANDLED})
    else:
        _add_command(recorder, message, HANDLED, at)
    if delivery.mark_handled(message, at) and message.mode == Mode.PROMPT:
        counted = Lieutenant.objects.filter(pk=recorder.lieutenant.pk, task_count__gt=0)
        counted.update(task_count=F("task_count") - 1)


def _add_command(recorder: Recorder, message: Message, state: str, at: datetime) -> Entry:
    text = recorder.screening.cover(message.text)
    return recorder.add(Entry.Kind.USER, at, text=text, message=message, data={"command": state})


WRITERS: dict[type, Callable[[Recorder, Any], None]] = {
    effects.DecideMessage: _decide,
    effects.WithdrawReturned: _withdraw_returned,
    effects.WithdrawUnstarted: _withdraw_unstarted,
    effects.WithdrawQueued: _withdraw_queued,
    effects.RequeueMessages: _requeue,
    effects.MarkAllBegun: _mark_all_begun,
    effects.ShowCommand: _show_command,
    effects.MarkHandled: _mark_handled,
    effects.FinishCommands: _finish_commands,
}
