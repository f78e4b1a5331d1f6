"""Use cases of questions: ask, answer, and withdraw.

`actor` is the requester, as in `lieutenants.services`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from lieutenants import services as lieutenant_services
from lieutenants.models import Lieutenant, Question
from lieutenants.questions import failures
from lieutenants.questions.exceptions import AlreadyDecided, TooManyOpen
from lieutenants.questions.states import (
    CHOICES,
    MAX_ANSWER_LENGTH,
    MAX_OPEN,
    Kind,
    QuestionState,
    Source,
)
from reef_site.common.errors import BadInput, Conflict, Forbidden, NotFound
from reef_site.common.text import is_storable
from versconfig.screening import sources
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

ONLY_AGENTS = "only agents ask: use the token of a node"
NO_TEXTS = "answer: must be a text"


def ask(
    caller: object,
    text: str,
    *,
    options: Sequence[str] = (),
    default: str | None = None,
    deadline_seconds: int | None = None,
) -> Question:
    """Ask people on behalf of the calling agent, and return at once.

    Secrets in the texts are covered. Without a deadline the question stays open until it is
    answered or withdrawn; at the deadline the default counts. Raises Forbidden, BadInput,
    TooManyOpen.
    """
    node = permissions.node_of(caller)
    if node is None:
        raise Forbidden(f"rule: {ONLY_AGENTS}")
    permissions.check(caller, Action.WRITE, node)
    if default is not None and options and default not in options:
        raise BadInput("default: must be one of the options", "default")
    if default is not None and deadline_seconds is None:
        raise BadInput("default: needs a deadline", "default")
    cover = sources.for_node(node.vm_id, recheck=True).cover
    texts = [cover(each) for each in dict.fromkeys(options)]
    now = timezone.now()
    with transaction.atomic():
        # Locked, so that the agent's questions at the same moment are counted, too.
        list(Node.objects.select_for_update(no_key=True).filter(pk=node.pk).values_list("pk"))
        lieutenant = Lieutenant.objects.active().filter(pk=node.vm_id).first()
        if Question.objects.open().filter(vm_id=node.vm_id).count() >= MAX_OPEN:
            raise TooManyOpen(f"{MAX_OPEN} questions are open; wait for answers, or withdraw some")
        question = Question(
            vm_id=node.vm_id,
            lieutenant=lieutenant,
            kind=Kind.ASK,
            source=Source.TOOL,
            text=cover(text),
            options=[{"value": each, "label": each} for each in texts],
            default=None if default is None else cover(default),
            deadline=now + timedelta(seconds=deadline_seconds) if deadline_seconds else None,
            created_at=now,
        )
        question.insert(actor=caller)
    return question


def find(question_id: str, *, actor: object) -> Question:
    """Return a question that the actor may read. Raises NotFound, Forbidden."""
    rows = Question.objects.select_related("lieutenant")
    question = rows.filter(pk=question_id).first() if is_storable(question_id) else None
    if question is None:
        raise NotFound("Question not found")
    permissions.check(actor, Action.READ_TRANSCRIPT, question.vm_id)
    return question


def answer(question_id: str, value: object, *, actor: object) -> Question:
    """Answer a question; None dismisses it. The first answer counts.

    Secrets in a text are covered. The answer to a failure may restart the lieutenant. Raises
    NotFound, Forbidden, BadInput, AlreadyDecided, and whatever `restart` raises.
    """
    question = find(question_id, actor=actor)
    permissions.check(actor, Action.ANSWER, question.vm_id)
    given = None if value is None else _valid_answer(question, value)
    with transaction.atomic():
        _decide(question, QuestionState.ANSWERED, actor=str(actor), answer=given)
        if failures.wants_restart(question) and question.lieutenant:
            lieutenant_services.restart(question.lieutenant.name, actor=actor)
    logger.info("question %s answered by %s", question.pk, actor)
    return question


def withdraw(question_id: str, *, actor: object) -> Question:
    """Withdraw a question. The agent that asked may do so, too.

    Withdrawing it again does nothing. Raises NotFound, Forbidden, AlreadyDecided.
    """
    question = find(question_id, actor=actor)
    permissions.check(actor, Action.WRITE, question.vm_id)
    if question.source != Source.TOOL:
        raise Conflict("question: was not asked by a tool or the API; answer it with null")
    if question.state != QuestionState.WITHDRAWN:
        note = f"withdrawn by {actor}"
        _decide(question, QuestionState.WITHDRAWN, actor=str(actor), note=note)
    return question


def _decide(question: Question, to: QuestionState, **facts: Any) -> None:
    """Decide a question. Raises AlreadyDecided, which says how it was decided."""
    try:
        question.decide(to, **facts)
    except Conflict:
        question.refresh_from_db()
        by = f" by {question.decided_by}" if question.decided_by else ""
        state = QuestionState(question.state)
        what = f"was answered{by}" if state is QuestionState.ANSWERED else f"is {state.label}"
        raise AlreadyDecided(f"question: {what} already") from None


def _valid_answer(question: Question, value: object) -> str | bool:
    """Return the answer as it is stored. Raises BadInput."""
    if question.kind == Kind.CONFIRM:
        if not isinstance(value, bool):
            raise BadInput("answer: must be true, false or null", "answer")
        return value
    if not isinstance(value, str):
        raise BadInput(NO_TEXTS, "answer")
    values = [each["value"] for each in question.options]
    if question.kind in CHOICES and value not in values:
        raise BadInput("answer: must be the value of an option", "answer")
    if value in values:
        return value
    if len(value) > MAX_ANSWER_LENGTH:
        raise BadInput(f"answer: at most {MAX_ANSWER_LENGTH} characters", "answer")
    if not is_storable(value):
        raise BadInput("answer: has characters that are no text", "answer")
    if question.kind == Kind.ASK and not value.strip():
        raise BadInput("answer is required", "answer")
    return sources.for_node(question.vm_id, recheck=True).cover(value)
