"""Series of equal failures of a session: reported once, then counted, and visible to rules.

`Lieutenant.failures` describes the current series: `key`, `text` (the provider's own), `count`,
`since`, `entry` (the transcript entry of the first message that failed), `message` (its id),
`words` (its beginning) and `notice` (the entry that shows the count). From the second equal failure
on the lieutenant is failing, and `failing_since` is set. A series outlives the process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lieutenants.agents import dialect_of, provider_errors
from lieutenants.models import Answer, Entry, Lieutenant
from lieutenants.states import Outcome
from reef_site.common import clock
from reef_site.common.text import clip, one_line

if TYPE_CHECKING:
    from lieutenants.sessions.recorder import Recorder

LEAST = 2
_MAX_WORDS = 80


@dataclass
class FailureSeries:
    """Unsaved changes of a series: new rows get their ids only at the end of a pass."""

    changed: bool = False
    first: Entry | None = None
    notice: Entry | None = None


def series_key(failure: str) -> str:
    """Return a key that equal failures share: ids and numbers in the text may differ."""
    return re.sub(r"[0-9a-fA-F]*\d[0-9a-fA-F]*", "#", provider_errors.sentence(failure))


def is_known(lieutenant: Lieutenant, failure: str) -> bool:
    """Return whether the last run failed equally, so that the text need not be repeated."""
    return bool(lieutenant.failures) and lieutenant.failures.get("key") == series_key(failure)


def count(recorder: Recorder, outcome: Outcome, failure: str, at: datetime, answer: Answer) -> None:
    """Update the series with the outcome of a run."""
    lieutenant = recorder.lieutenant
    if outcome is Outcome.COMPLETED:
        if lieutenant.failures:
            clear(recorder)
        return
    if outcome is not Outcome.ERROR or not failure:
        return
    if not is_known(lieutenant, failure):
        _begin(recorder, failure, at, answer)
        return
    series = {**lieutenant.failures, "count": int(lieutenant.failures["count"]) + 1}
    lieutenant.failures, recorder.series.changed = series, True
    lieutenant.failing_since = lieutenant.failing_since or clock.parse_iso(series["since"])
    lieutenant.trouble = trouble(lieutenant)
    _report(recorder, series, at)


def clear(recorder: Recorder) -> None:
    """End the series: a request succeeded, or the session starts again."""
    recorder.lieutenant.failures, recorder.lieutenant.failing_since = {}, None
    recorder.series = FailureSeries(changed=True)


def trouble(lieutenant: Lieutenant) -> str:
    """Describe a failing lieutenant's problem in one line; empty if it is not failing."""
    series = lieutenant.failures
    if lieutenant.failing_since is None or not series:
        return ""
    return (
        f"Each request fails since {_message(series)}: {provider_errors.sentence(series['text'])}"
    )


def as_json(lieutenant: Lieutenant) -> dict[str, Any] | None:
    """Return the series as the API shows it; None if the lieutenant is not failing."""
    series = lieutenant.failures
    if lieutenant.failing_since is None or not series:
        return None
    return {
        "since": lieutenant.failing_since,
        "count": series["count"],
        "error": series["text"],
        "entryId": series.get("entry"),
        "messageId": series.get("message"),
        "canRewind": can_rewind(lieutenant),
    }


def can_rewind(lieutenant: Lieutenant) -> bool:
    """Return whether going back to before the first message that failed may help."""
    is_able = dialect_of(lieutenant).features.rewind and bool(lieutenant.failures.get("entry"))
    return is_able and is_poisoned(lieutenant)


def is_poisoned(lieutenant: Lieutenant) -> bool:
    """Return whether each request fails because of what the session contains."""
    series = lieutenant.failures
    is_failing = lieutenant.failing_since is not None and bool(series)
    return is_failing and provider_errors.is_about_request(series["text"])


def save_series(recorder: Recorder) -> None:
    """Save the series. New rows must have their ids."""
    mine = recorder.series
    if not mine.changed:
        return
    mine.changed = False
    lieutenant, series = recorder.lieutenant, recorder.lieutenant.failures
    if series and mine.first:
        series["entry"], series["message"] = mine.first.pk, mine.first.message_id
    if series and mine.notice:
        series["notice"] = mine.notice.pk
    # The series belongs to an earlier session if a new one was started meanwhile.
    same_session = Lieutenant.objects.filter(pk=lieutenant.pk, session_name=lieutenant.session_name)
    same_session.update(failures=series, failing_since=lieutenant.failing_since)


def drop_earlier_session(recorder: Recorder) -> None:
    """Drop the series of this process if a new session was started meanwhile."""
    lieutenant = recorder.lieutenant
    columns = ("session_name", "failures", "failing_since")
    row = Lieutenant.objects.only(*columns).get(pk=lieutenant.pk)
    if row.session_name != lieutenant.session_name:
        for column in columns:
            setattr(lieutenant, column, getattr(row, column))
        recorder.series = FailureSeries()


def shifted(series: dict[str, Any], by: timedelta) -> dict[str, Any]:
    """Return the series with its times shifted after a clock change."""
    if not series:
        return series
    return {**series, "since": (clock.parse_iso(series["since"]) + by).isoformat()}


def _begin(recorder: Recorder, failure: str, at: datetime, answer: Answer) -> None:
    first = recorder.first_user or _first_user(answer)
    words = one_line(recorder.screening.cover(first.text)) if first else ""
    recorder.lieutenant.failures = {
        "key": series_key(failure),
        "text": failure,
        "count": 1,
        "since": at.isoformat(),
        "words": clip(words, _MAX_WORDS),
    }
    recorder.lieutenant.failing_since = None
    recorder.series = FailureSeries(changed=True, first=first)


def _first_user(answer: Answer) -> Entry | None:
    """Return the user message that a run began with, from its row."""
    if answer.pk is None:
        return None
    return Entry.objects.filter(answer=answer, kind=Entry.Kind.USER).order_by("id").first()


def _report(recorder: Recorder, series: dict[str, Any], at: datetime) -> None:
    """Report the whole series in one entry; later failures only change its count."""
    text = f"Each request fails since {_message(series)}: {series['count']} times so far."
    if provider_errors.is_about_request(series["text"]):
        text += _remedy(recorder.lieutenant)
    data = {"failing": {"count": series["count"], "since": series["since"]}}
    notice = recorder.series.notice
    if notice is None and series.get("notice"):
        notice = Entry.objects.filter(pk=series["notice"]).first()
    if notice:
        recorder.revise(notice, text=text, data=data)
    else:
        recorder.series.notice = recorder.add(
            Entry.Kind.ERROR, at, text=text, data=data, is_error=True
        )


def _remedy(lieutenant: Lieutenant) -> str:
    features = dialect_of(lieutenant).features
    if features.rewind:
        return " Go back to before this message to go on without it."
    if features.session:
        agent = lieutenant.agent
        return (
            f" The agent '{agent}' cannot go back to before this message: begin a new session to "
            "go on without it."
        )
    return ""


def _message(series: dict[str, Any]) -> str:
    return f"message “{series['words']}”" if series.get("words") else "one message"
