"""Responses about messages, in the wire format; add new keys at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lieutenants.messages.images import ImageFacts, facts_by_message
from lieutenants.messages.outcomes import MessageOutcome, Result, result_of, results_of
from lieutenants.models import Message, Usage
from lieutenants.states import MessageState, Mode, Status
from lieutenants.transcript import outputs
from lieutenants.transcript.serializers import (
    MAX_CHARACTERS,
    MAYBE,
    NULL,
    ImageResponse,
    UsageResponse,
    UsagesResponse,
    image_json,
    usage_json,
)
from reef_site.common.api.fields import (
    Choice,
    Flag,
    JsonValue,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody

Json = dict[str, Any]


class MessageResponse(ResponseBody):
    """A message, its delivery state and its outcome."""

    id = Text()
    text = Text()
    mode = Choice(Mode.values)
    modeAsked = Choice(Mode.values, source="mode_asked")
    note = Text(**NULL)
    actor = Text()
    state = Choice(MessageState.values)
    evidence = JsonValue("object", **NULL, help_text="The agent's own reply.")
    createdAt = Timestamp(source="created_at")
    deliveredAt = Timestamp(source="delivered_at", **NULL)
    decidedAt = Timestamp(source="decided_at", **NULL)
    takenUpAt = Timestamp(source="taken_up_at", **NULL)
    usage = UsageResponse()
    outcome = Choice([each.value for each in MessageOutcome])
    answerId = WholeNumber(**NULL)
    error = Text(**NULL)
    textLength = WholeNumber(**MAYBE, help_text="If `text` is shortened.")
    position = WholeNumber(**MAYBE, help_text="In the queue, from 1, until it is sent.")
    images = ImageResponse(many=True, **MAYBE)

    example = {
        "id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "text": "Run the tests.",
        "mode": "prompt",
        "modeAsked": "prompt",
        "note": None,
        "actor": "admin",
        "state": "accepted",
        "evidence": {"type": "response", "success": True},
        "createdAt": "2026-11-22T06:21:09.098Z",
        "deliveredAt": "2026-11-22T06:21:09.200Z",
        "decidedAt": "2026-11-22T06:21:09.210Z",
        "takenUpAt": "2026-11-22T06:21:09.210Z",
        "usage": UsagesResponse.example["total"],
        "outcome": "completed",
        "answerId": 1,
        "error": None,
    }


class OneMessageResponse(MessageResponse):
    """A message with the answer to it."""

    answer = Text(**NULL)
    answerLength = WholeNumber(**MAYBE, help_text="If only the end of `answer` is returned.")
    status = Choice(Status.values, **MAYBE, help_text="After a wait: the lieutenant's.")

    example = {**MessageResponse.example, "answer": "All tests pass."}


class SentResponse(ResponseBody):
    """The receipt of a message. After a wait also its outcome."""

    sent = Flag()
    mode = Choice(Mode.values)
    note = Text(**MAYBE, help_text="Why the mode differs, or how long it is queued.")
    messageId = Text()
    state = Choice(MessageState.values)
    outcome = Choice([each.value for each in MessageOutcome], **MAYBE)
    answer = Text(required=False, allow_null=True)
    answerId = WholeNumber(required=False, allow_null=True)
    error = Text(required=False, allow_null=True)
    status = Choice(Status.values, **MAYBE, help_text="The lieutenant's.")

    example = {
        "sent": True,
        "mode": "prompt",
        "messageId": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "state": "queued",
    }


class RewindResponse(ResponseBody):
    rewinding = Flag()
    entryId = WholeNumber()
    messageId = Text(**NULL)
    status = Choice(Status.values, **MAYBE, help_text="After a wait.")
    error = Text(required=False, allow_null=True)

    example = {"rewinding": True, "entryId": 7, "messageId": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D"}


def message_json(message: Message) -> Json:
    """Return a message with its outcome and answer."""
    result = result_of(message)
    facts = MessageFacts(
        results={message.pk: result},
        usage=Usage.objects.sums_by_message([message.pk]),
        images=facts_by_message([message.pk]),
        positions=_positions([message]),
    )
    return with_answer(message, facts, result.answer())


def messages_json(messages: Sequence[Message]) -> list[Json]:
    """Return messages without their answers."""
    ids = [message.pk for message in messages]
    usage = Usage.objects.sums_by_message(ids)
    facts = MessageFacts(results_of(messages), usage, facts_by_message(ids), _positions(messages))
    return [with_facts(each, facts) for each in messages]


@dataclass(frozen=True)
class MessageFacts:
    """Facts about messages from other rows, by the messages' ids."""

    results: Mapping[str, Result]
    usage: Mapping[str, Json]
    images: Mapping[str, Sequence[ImageFacts]]
    # Positions in the queue, from 1.
    positions: Mapping[str, int]


def with_answer(message: Message, facts: MessageFacts, output: outputs.LongText | None) -> Json:
    """Return a message with its answer, if that has begun."""
    answer = output.tail(MAX_CHARACTERS) if output and output.length else None
    cut = {"answerLength": output.length} if output and output.length > MAX_CHARACTERS else {}
    return {**with_facts(message, facts), "answer": answer, **cut}


def _positions(messages: Sequence[Message]) -> dict[str, int]:
    """Map messages of one lieutenant to their positions in its queue, if any of them waits."""
    waits = any(each.state == MessageState.QUEUED for each in messages)
    return Message.objects.positions(messages[0].lieutenant_id) if waits else {}


_MESSAGE_FIELDS = ("usage", "outcome", "answerId", "error", "textLength", "position", "images")
_read_message = object_reader(MessageResponse, *_MESSAGE_FIELDS, blank_as_null=True)


def with_facts(message: Message, known: MessageFacts) -> Json:
    """Return a message as JSON, without further queries."""
    result, images = known.results[message.pk], known.images.get(message.pk, ())
    facts = _read_message(message) | {
        "usage": usage_json(known.usage.get(message.pk)),
        "outcome": result.outcome.value,
        "answerId": result.answer_id,
        "error": result.error or None,
        "textLength": message.left_out + outputs.MAX_SHOWN if message.left_out else 0,
        "position": known.positions.get(message.pk, 0),
        "images": [image_json(message.lieutenant_id, each) for each in images],
    }
    absent = [key for key in ("textLength", "position", "images") if not facts[key]]
    for key in absent:
        del facts[key]
    return facts


def sent_json(message: Message) -> Json:
    """Return the response of `send`, old keys first."""
    facts: Json = {"sent": True, "mode": message.mode}
    if message.note:
        facts["note"] = message.note
    return {**facts, "messageId": message.pk, "state": message.state}
