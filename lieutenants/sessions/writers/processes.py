"""Effects on the row of the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lieutenants.sessions import effects

if TYPE_CHECKING:
    from lieutenants.sessions.recorder import Recorder


def _mark_ready(recorder: Recorder, effect: effects.MarkReady) -> None:
    recorder.process.ready_at = effect.at
    recorder.process.save(update_fields=["ready_at"])


def _request_stop(recorder: Recorder, effect: effects.RequestStop) -> None:
    recorder.process.stop_asked_at = effect.at
    recorder.process.save(update_fields=["stop_asked_at"])


def _end(recorder: Recorder, effect: effects.EndProcess) -> None:
    process = recorder.process
    process.ended_at, process.end_reason = effect.at, effect.reason
    process.exit_code, process.exit_signal = effect.code, effect.signal
    process.stderr = effect.stderr
    process.save(update_fields=["ended_at", "exit_code", "exit_signal", "stderr", "end_reason"])


WRITERS: dict[type, Callable[[Recorder, Any], None]] = {
    effects.MarkReady: _mark_ready,
    effects.RequestStop: _request_stop,
    effects.EndProcess: _end,
}
