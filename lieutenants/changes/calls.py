"""The outside call that reads changes: a worker of the lieutenant's host makes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lieutenants.changes import answers, questions, reading
from lieutenants.changes.answers import NoRepository
from lieutenants.changes.questions import Question
from lieutenants.hosts import liveness
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from lieutenants.tasks import queue_of
from lieutenants.transcript.export import screen_of
from reef_site.common import clock, outside
from reef_site.common.errors import Conflict, NotFound
from reef_site.common.models import CallState, OutsideCall
from reef_site.common.outside import Kind, Line, Result

KIND = "lieutenants.changes"
# A login, a turn of the queue, and git.
LIMIT_SECONDS = 60.0
# Requests wait for each other's call this long.
_JOIN_SECONDS = 20.0
# An answer may be large, and each refresh of the page makes one.
_KEPT = timedelta(minutes=5)


def register() -> None:
    """Register the kind of call."""
    outside.call_kinds.register(Kind(_run, _shown, _queue, kept=_KEPT), key=KIND)


def ask(lieutenant: Lieutenant, question: Question, *, by: object) -> OutsideCall:
    """Have a worker read the changes, and return the call; see `result_of`.

    The same question is asked once at a time. Raises Conflict if there is nothing to read.
    """
    if lieutenant.status == Status.DESTROYED:
        raise Conflict("It has been destroyed; its changes are not shown any more.")
    if silent := liveness.silent_host_of(lieutenant):
        raise Conflict(f"Its changes cannot be read: {silent.trouble}.")
    arguments = {"lieutenant": lieutenant.pk, "question": question.as_json()}
    known = OutsideCall.objects.filter(kind=KIND, arguments=arguments)
    known = known.filter(state__in=[CallState.WAITING, CallState.RUNNING])
    row = known.order_by("-made_at").first()
    if row and clock.age_seconds(row.made_at, clock.database_now()) < _JOIN_SECONDS:
        return outside.wait(row, outside.BRIEF_SECONDS)
    return outside.make(KIND, arguments, by=by, limit=LIMIT_SECONDS)


def find(lieutenant: Lieutenant, call_id: str) -> OutsideCall:
    """Return a call about this lieutenant. Raises NotFound."""
    row = outside.find(call_id, KIND)
    if row is None or row.arguments.get("lieutenant") != lieutenant.pk:
        raise NotFound("there is no such call")
    return row


def question_of(row: OutsideCall) -> Question:
    """Return what a call is about."""
    return Question.parse(row.arguments["question"])


def _queue(lieutenant: str, **_: Any) -> str | None:
    folder = Lieutenant.objects.filter(pk=lieutenant).values_list("data_folder", flat=True).first()
    return queue_of(folder) if folder else None


def _run(lieutenant: str, question: dict[str, Any]) -> Result:
    """Read the changes. That there is no repository is a result, too: it may have others below."""
    row = Lieutenant.objects.active().filter(pk=lieutenant).first()
    if row is None:
        raise NotFound("It has been destroyed; its changes are not shown any more.")
    wanted = Question.parse(question)
    base = questions.base_of(row, wanted)
    answer = reading.read_changes(row, questions.request_for(row, wanted, base))
    screen = screen_of(row)
    try:
        found = answers.result_of(row, wanted, base, answer, screen)
    except NoRepository as error:
        found = screen.cover_value({"problem": str(error), "repositories": error.inner})
    return {**found, "readAt": clock.format_timestamp(clock.now())}


def _shown(result: Result) -> list[Line]:
    problem = str(result.get("problem") or "")
    return [(not problem, problem or f"{result.get('count', 1)} files differ.")]
