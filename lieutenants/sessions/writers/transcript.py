"""Effects on the transcript."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lieutenants.agents import events
from lieutenants.models import Entry
from lieutenants.sessions import effects, failure_series, floods
from lieutenants.sessions.writers import messages
from lieutenants.transcript.recorder import Transcript

if TYPE_CHECKING:
    from lieutenants.sessions.recorder import Recorder


def _record_message(recorder: Recorder, effect: effects.RecordMessage) -> None:
    recorder.record_assistant_message(effect.message, effect.at)


def _record_delta(recorder: Recorder, event: events.TextDelta, _at: datetime) -> None:
    recorder.delta(event.kind, event.block, event.text)


def _add(recorder: Recorder, effect: effects.AddEntry) -> None:
    recorder.add(effect.kind, effect.at, text=effect.text, is_error=effect.is_error)


def _add_limited(recorder: Recorder, effect: effects.AddLimitedEntry) -> None:
    if recorder.floods.admits(effect.cause, effect.at):
        recorder.add(
            effect.kind,
            effect.at,
            text=floods.truncate(effect.text),
            data=dict(effect.data),
            is_error=effect.is_error,
        )


def _add_failure(recorder: Recorder, effect: effects.AddFailure) -> None:
    if not failure_series.is_known(recorder.lieutenant, effect.text):
        recorder.add(Entry.Kind.ERROR, effect.at, text=effect.text, is_error=True)


def _count_omitted(recorder: Recorder, effect: effects.CountOmitted) -> None:
    text = recorder.floods.count_omitted(effect.cause, effect.count, effect.size)
    recorder.notice(effect.at, text, is_error=True)


def _end_flood(recorder: Recorder, effect: effects.EndFlood) -> None:
    recorder.floods.mark_over(effect.cause)


def _report_omitted(recorder: Recorder, effect: effects.ReportOmitted) -> None:
    recorder.report_omitted(effect.at, last=effect.is_last)


def _open_answer(recorder: Recorder, effect: effects.OpenAnswer) -> None:
    if recorder.answer is None:
        recorder.open_answer(effect.at)


def _close_answer(recorder: Recorder, effect: effects.CloseAnswer) -> None:
    recorder.close_answer(effect.at, effect.outcome, effect.failure)


def _close_blocks(recorder: Recorder, _effect: effects.CloseBlocks) -> None:
    recorder.close_blocks()


def _close_calls(recorder: Recorder, effect: effects.CloseCalls) -> None:
    if effect.is_failure:
        recorder.fail_calls()
    else:
        recorder.close_calls()


def _drop_failed_texts(recorder: Recorder, _effect: effects.DropFailedTexts) -> None:
    recorder.drop_failed_texts()


def _count_usage(recorder: Recorder, effect: effects.CountUsage) -> None:
    provider, _, model = recorder.lieutenant.model_in_use.partition("/")
    recorder.count_usage(
        effect.usage, effect.at, provider=provider, model=model, stop_reason=effect.stop_reason
    )


WRITERS: dict[type, Callable[[Recorder, Any], None]] = {
    effects.RecordMessage: _record_message,
    effects.AddEntry: _add,
    effects.AddLimitedEntry: _add_limited,
    effects.AddFailure: _add_failure,
    effects.CountOmitted: _count_omitted,
    effects.EndFlood: _end_flood,
    effects.ReportOmitted: _report_omitted,
    effects.OpenAnswer: _open_answer,
    effects.CloseAnswer: _close_answer,
    effects.CloseBlocks: _close_blocks,
    effects.CloseCalls: _close_calls,
    effects.DropFailedTexts: _drop_failed_texts,
    effects.CountUsage: _count_usage,
}

# Events that are only recorded: no state depends on them, and there are many.
EVENT_WRITERS: dict[type, Callable[[Any, Any, datetime], None]] = {
    events.TextDelta: _record_delta,
    events.UserMessage: messages.record_user_message,
    events.ToolStarted: Transcript.tool_start,
    events.ToolUpdated: Transcript.tool_update,
    events.ToolEnded: Transcript.tool_end,
}
