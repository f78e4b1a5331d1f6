"""Effects on the questions of dialogs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from lieutenants.membership import vm_id_of
from lieutenants.models import Question
from lieutenants.questions.states import QuestionState, Source
from lieutenants.sessions import effects
from reef_site.common.errors import LostRace
from reef_site.common.text import clip

if TYPE_CHECKING:
    from lieutenants.sessions.recorder import Recorder

_MAX_TEXT = 2000


def _open(recorder: Recorder, effect: effects.OpenQuestion) -> None:
    dialog, lieutenant = effect.dialog, recorder.lieutenant
    options = [{"value": each.value, "label": each.label} for each in dialog.options]
    question = Question(
        vm_id=vm_id_of(lieutenant),
        lieutenant=lieutenant,
        process=recorder.process,
        request_id=dialog.request_id or "",
        kind=dialog.kind,
        source=Source.DIALOG,
        text=dialog.title or dialog.message or "The agent asks.",
        details=dialog.message if dialog.title else "",
        options=options,
        prefill=dialog.prefill,
        placeholder=clip(dialog.placeholder, 200),
        deadline=_deadline(effect),
        is_awaited=True,
        created_at=effect.at,
    )
    question.insert(actor=f"node {question.vm_id}")


def _deadline(effect: effects.OpenQuestion) -> datetime:
    """Return until when people can answer.

    Their time begins now, since reef may have been down when the agent asked; the agent's own time
    limit began then.
    """
    limit = timezone.now() + timedelta(seconds=effect.limit_seconds)
    timeout = effect.dialog.timeout_seconds
    return limit if timeout is None else min(limit, effect.at + timedelta(seconds=timeout))


def _close(recorder: Recorder, effect: effects.CloseQuestion) -> None:
    mine = Question.objects.filter(process=recorder.process, request_id=effect.request_id)
    question = mine.exclude(state=QuestionState.OPEN).first()
    if question is None:
        return
    mine.filter(pk=question.pk).update(is_awaited=False, delivered_at=effect.at)
    question.publish()
    text = recorder.screening.cover(f"“{clip(question.text, _MAX_TEXT)}”: {_decision(question)}")
    data = {"dialog": question.kind, "question": question.pk}
    recorder.notice(effect.at, text, data=data)


def _decision(question: Question) -> str:
    if question.state == QuestionState.ANSWERED and question.answer is not None:
        return f"{question.decided_by} answered: {clip(question.answer_label, _MAX_TEXT)}"
    if question.state == QuestionState.ANSWERED:
        return f"dismissed by {question.decided_by}."
    if question.state == QuestionState.DEFAULTED:
        return f"nobody answered in time, so the default counts: {question.answer_label}"
    if question.state == QuestionState.EXPIRED:
        return "nobody answered in time, so it was dismissed."
    return f"dismissed, since {question.note}."


def _withdraw(recorder: Recorder, effect: effects.WithdrawQuestions) -> None:
    mine = Question.objects.filter(process=recorder.process, is_awaited=True)
    for question in mine.filter(state=QuestionState.OPEN):
        try:
            question.decide(QuestionState.WITHDRAWN, actor="reef", note=effect.note)
        except LostRace:
            # Someone answered it in this moment, which is as good.
            continue
    if effect.has_ended:
        mine.update(is_awaited=False)


WRITERS: dict[type, Callable[[Recorder, Any], None]] = {
    effects.OpenQuestion: _open,
    effects.CloseQuestion: _close,
    effects.WithdrawQuestions: _withdraw,
}
