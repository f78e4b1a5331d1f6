"""Queries, bodies and responses of the API of questions, in the wire format."""

from __future__ import annotations

from typing import Any

from rest_framework.fields import empty

from lieutenants.questions.models import Question
from lieutenants.questions.states import (
    MAX_ANSWER_LENGTH,
    MAX_OPTION_LENGTH,
    MAX_OPTIONS,
    MAX_TEXT_LENGTH,
    Kind,
    QuestionState,
    Source,
)
from reef_site.common.api.fields import (
    AnyText,
    ApiField,
    Choice,
    ListOf,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody

Json = dict[str, Any]

MAX_DEADLINE_SECONDS = 30 * 86_400
MAX_LISTED = 200
NULL: Json = {"allow_null": True}


class GivenAnswer(ApiField):
    """Text, true, false or null. `services` compares it with what the question asks for."""

    def run_validation(self, data: Any = empty) -> Any:
        # Null is a dismissal, so it must be given.
        if data is empty and self.required:
            self.refuse("is required", "required")
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        if data is not None and not isinstance(data, str | bool):
            self.refuse("must be a text, true, false or null")
        return data

    def schema(self) -> Json:
        return {"type": ["string", "boolean"], "maxLength": MAX_ANSWER_LENGTH}


class QuestionsQuery(Query):
    state = Choice(QuestionState.values, help_text="Open ones come in the order of their urgency.")
    lieutenant = AnyText(help_text="Name or id of the lieutenant that asks.")
    vmId = AnyText(source="vm_id", help_text="The agent's node in the tree.")
    limit = WholeNumber(least=1, most=MAX_LISTED, default=100)
    cursor = AnyText(help_text="`next` of an earlier page.")


class AskBody(Body):
    """A question of the calling agent."""

    text = Text(blank=False, length=MAX_TEXT_LENGTH)
    options = ListOf(
        Text(blank=False, length=MAX_OPTION_LENGTH),
        most=MAX_OPTIONS,
        of="options",
        default=[],
        help_text="Suggested answers.",
    )
    default = Text(
        length=MAX_OPTION_LENGTH,
        required=False,
        **NULL,
        help_text="The answer after the deadline.",
    )
    deadlineSeconds = WholeNumber(
        least=1,
        most=MAX_DEADLINE_SECONDS,
        required=False,
        **NULL,
        source="deadline_seconds",
        help_text="Without one it stays open until it is answered or withdrawn.",
    )

    example = {
        "text": "Deploy to production now?",
        "options": ["Deploy", "Wait until tomorrow"],
        "default": "Wait until tomorrow",
        "deadlineSeconds": 3600,
    }


class AnswerBody(Body):
    answer = GivenAnswer(
        **NULL,
        help_text="True or false to confirm, an option's value, or text; null dismisses it.",
    )

    example = {"answer": "Deploy"}


class OptionResponse(ResponseBody):
    value = Text()
    label_ = Text()


class QuestionResponse(ResponseBody):
    """A question of an agent, and how it was decided."""

    id = Text(source="pk")
    lieutenant = Text(**NULL, help_text="Name of the lieutenant that asks.")
    lieutenantId = Text(source="lieutenant_id", **NULL)
    vmId = Text(source="vm_id", help_text="The agent's node in the tree.")
    kind = Choice(Kind.values, help_text="What an answer may be.")
    source_ = Choice(Source.values)
    text = Text()
    details = Text(**NULL)
    options = OptionResponse(many=True)
    placeholder = Text(**NULL)
    prefill = Text(**NULL, help_text="Text to begin with.")
    default = GivenAnswer(**NULL, help_text="The answer after the deadline.")
    deadline = Timestamp(**NULL)
    state = Choice(QuestionState.values)
    answer = GivenAnswer(**NULL, help_text="Null: dismissed, or not decided.")
    decidedBy = Text(source="decided_by", **NULL)
    decidedAt = Timestamp(source="decided_at", **NULL)
    note = Text(**NULL, help_text="Why it was not answered.")
    deliveredAt = Timestamp(
        source="delivered_at", **NULL, help_text="When the agent's dialog got the answer."
    )
    createdAt = Timestamp(source="created_at")
    waitingBelow = WholeNumber(
        required=False, help_text="In a list of open ones: descendants of the agent."
    )

    example = {
        "id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "lieutenant": "ada",
        "lieutenantId": "01JD9Z3K8Q5V7W2X4Y6A8B0C1A",
        "vmId": "01JD9Z3K8Q5V7W2X4Y6A8B0C1A",
        "kind": "ask",
        "source": "tool",
        "text": "Deploy to production now?",
        "details": None,
        "options": [
            {"value": "Deploy", "label": "Deploy"},
            {"value": "Wait until tomorrow", "label": "Wait until tomorrow"},
        ],
        "placeholder": None,
        "prefill": None,
        "default": "Wait until tomorrow",
        "deadline": "2026-11-22T07:21:09.098Z",
        "state": "answered",
        "answer": "Deploy",
        "decidedBy": "admin",
        "decidedAt": "2026-11-22T06:25:10.120Z",
        "note": None,
        "deliveredAt": None,
        "createdAt": "2026-11-22T06:21:09.098Z",
    }


_read = object_reader(QuestionResponse, "lieutenant", "waitingBelow", blank_as_null=True)


def question_json(row: Question, waiting_below: int | None = None) -> Json:
    """Return a question as JSON. `row` has its lieutenant, if it is one that asks."""
    facts = _read(row) | {"lieutenant": row.lieutenant.name if row.lieutenant else None}
    if waiting_below is None:
        del facts["waitingBelow"]
        return facts
    return facts | {"waitingBelow": waiting_below}
