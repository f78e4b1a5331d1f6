"""Responses about transcripts and usage, in the wire format; add new keys at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from django.conf import settings

from lieutenants.messages.images import MEDIA_TYPES, ImageFacts, facts_by_message
from lieutenants.models import Entry, Lieutenant
from lieutenants.states import Status
from lieutenants.transcript import outputs
from lieutenants.transcript.finding import Match
from reef_site.common.api.fields import (
    Choice,
    Cursor,
    Flag,
    JsonValue,
    Number,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody

Json = dict[str, Any]
# Limit of one output.
MAX_CHARACTERS = 1_000_000
# Route `lieutenant-image`. The edge renders entries too, and must not load all URLs for that.
_IMAGE_PATH = "/lieutenant/lieutenants/{}/messages/{}/images/{}"
# Characters that URLs of routes contain as they are, beside letters and digits.
_SAFE = "-._~!$&'()*+,;=/:@"
_WIRE_KEYS = {"cache_read": "cacheRead", "cache_write": "cacheWrite"}
# A field that not every response has.
MAYBE: Json = {"required": False}
NULL: Json = {"allow_null": True}


class UsageResponse(ResponseBody):
    """Tokens by class, and their cost in dollars."""

    input = WholeNumber()
    output = WholeNumber()
    cacheRead = WholeNumber()
    cacheWrite = WholeNumber()
    cost = Number()
    calls = WholeNumber()


class DayUsageResponse(UsageResponse):
    day = Text(help_text="UTC, as in 2026-11-30.")


class UsagesResponse(ResponseBody):
    days = DayUsageResponse(many=True)
    total = UsageResponse()

    example = {
        "days": [],
        "total": {
            "input": 0,
            "output": 0,
            "cacheRead": 0,
            "cacheWrite": 0,
            "cost": 0.0,
            "calls": 0,
        },
    }


class ReadResponse(ResponseBody):
    """The running answer, or the newest finished one."""

    name = Text()
    status = Choice(Status.values)
    taskCount = WholeNumber()
    outputLength = WholeNumber()
    historyCount = WholeNumber()
    output = Text()
    next = WholeNumber(required=False, allow_null=True, help_text="With `limit`: the next `after`.")

    example = {
        "name": "ada",
        "status": "idle",
        "taskCount": 1,
        "outputLength": 5,
        "historyCount": 1,
        "output": "Done.",
    }


class ImageResponse(ResponseBody):
    """An image that was sent with a message."""

    mediaType = Choice(MEDIA_TYPES)
    size = WholeNumber(help_text="In bytes.")
    url = Text()

    example = {
        "mediaType": "image/png",
        "size": 20_480,
        "url": "/lieutenant/lieutenants/01JD9Z3K8Q5V7W2X4Y6A8B0C1D/messages/"
        "01JD9Z3K8Q5V7W2X4Y6A8B0C1E/images/0",
    }


class EntryResponse(ResponseBody):
    """An item of a transcript."""

    id = WholeNumber()
    kind = Choice(Entry.Kind.values)
    at = Timestamp()
    text = Text()
    final = Flag(help_text="False while it is being written.")
    rev = WholeNumber()
    answerId = WholeNumber(**NULL)
    messageId = Text(**NULL)
    tool = Text(**MAYBE)
    callId = Text(**MAYBE)
    arguments = JsonValue(required=False, allow_null=True)
    data = JsonValue("object", **MAYBE)  # type: ignore[assignment]
    isError = Flag(**MAYBE)
    images = ImageResponse(many=True, **MAYBE)


class MatchResponse(ResponseBody):
    """An entry that contains the words, with the text around them."""

    id = WholeNumber()
    kind = Choice(Entry.Kind.values)
    at = Timestamp()
    messageId = Text(**NULL)
    excerpt = Text()

    example = {
        "id": 7,
        "kind": "text",
        "at": "2026-11-22T06:21:09.098Z",
        "messageId": None,
        "excerpt": "All tests pass.",
    }


class TranscriptResponse(ResponseBody):
    """A page of a transcript."""

    entries = EntryResponse(many=True)
    count = WholeNumber()
    next = Cursor(**NULL, help_text="The next page's `cursor`.")
    rev = WholeNumber(help_text="The transcript's revision.")

    example = {
        "entries": [
            {
                "id": 7,
                "kind": "text",
                "at": "2026-11-22T06:25:10.120Z",
                "text": "Done.",
                "final": True,
                "rev": 12,
                "answerId": 1,
                "messageId": None,
            }
        ],
        "count": 1,
        "next": None,
        "rev": 12,
    }


class ExportedResponse(ResponseBody):
    """The lieutenant whose transcript is exported."""

    id = Text(source="pk")
    name = Text()
    role = Text()
    agent = Text()
    model = Text(source="model_in_use")
    createdAt = Timestamp(source="created_at")


class ExportResponse(ResponseBody):
    lieutenant = ExportedResponse()
    entries = EntryResponse(many=True)


exported_json = object_reader(ExportedResponse)


def read_json(row: Lieutenant, *, tail: int, history: int, after: int, limit: int) -> Json:
    """Return the response of `read`: the running answer, or the newest finished one.

    With `limit`, return that many characters from position `after` on; `next` is the next position.
    """
    answers = [each.text for each in outputs.newest_answers([row.pk]).get(row.pk, [])]
    output = outputs.newest_output(row.pk, is_working=row.status == Status.WORKING)
    if not limit:
        running = outputs.running_outputs([row.pk]).get(row.pk) if history else None
        is_running = bool(running and running.length)
        return answer_json(row, output, answers, tail=tail, history=history, is_running=is_running)
    shown = output.slice(after, min(limit, MAX_CHARACTERS))
    end = after + len(shown)
    following = end if end < output.length else None
    return {**_reading(row, output, len(answers)), "output": shown, "next": following}


def answer_json(
    row: Lieutenant,
    output: outputs.LongText,
    answers: Sequence[str],
    *,
    tail: int,
    history: int,
    is_running: bool,
) -> Json:
    """Return the end of an answer, behind earlier ones of `answers`.

    `is_running` says whether it belongs to a turn that goes on and has a text.
    """
    length = output.length
    most = min(tail or MAX_CHARACTERS, MAX_CHARACTERS)
    shown = f"...{output.tail(most)}" if most < length else output.tail(length)
    shown = shown or "(no output yet)"
    if history:
        if not is_running and row.status != Status.WORKING:
            # The newest answer is the last one in `parts`.
            shown = "(no output yet)"
        first = max(0, len(answers) - history)
        numbered = enumerate(answers[first:], start=first + 1)
        parts = [f"=== Response {number} ===\n{text}\n" for number, text in numbered]
        shown = "\n".join([*parts, f"=== Current ({row.status}) ===\n{shown}"])
    return {**_reading(row, output, len(answers)), "output": shown}


def _reading(row: Lieutenant, output: outputs.LongText, answers: int) -> Json:
    return {
        "name": row.name,
        "status": row.status,
        "taskCount": row.task_count,
        "outputLength": output.length,
        "historyCount": answers,
    }


def entries_json(entries: Iterable[Entry], texts: Mapping[int, str] | None = None) -> list[Json]:
    """Return transcript entries; `texts` replace those that are incomplete or too long."""
    rows = list(entries)
    images = facts_by_message(row.message_id for row in rows if _has_images(row))
    return with_texts(rows, texts or {}, images)


def with_texts(
    rows: Iterable[Entry], texts: Mapping[int, str], images: Mapping[str, Sequence[ImageFacts]]
) -> list[Json]:
    """Return transcript entries, without further queries; `images` are those of messages."""
    return [
        _entry_json(row, texts.get(row.pk), images.get(row.message_id or "", ())) for row in rows
    ]


def _has_images(entry: Entry) -> bool:
    return entry.kind == Entry.Kind.USER and bool(entry.data and entry.data.get("images"))


def _entry_json(entry: Entry, text: str | None, images: Sequence[ImageFacts]) -> Json:
    facts: Json = {
        "id": entry.pk,
        "kind": entry.kind,
        "at": entry.at,
        "text": entry.text if text is None else text,
        "final": entry.final,
        "rev": entry.rev,
        "answerId": entry.answer_id,
        "messageId": entry.message_id,
    }
    if entry.tool or entry.call_id:
        facts |= {"tool": entry.tool, "callId": entry.call_id}
    if entry.kind == Entry.Kind.TOOL_CALL:
        facts["arguments"] = entry.data.get("arguments")
    elif entry.data:
        facts["data"] = {_WIRE_KEYS.get(key, key): value for key, value in entry.data.items()}
    if entry.is_error:
        facts["isError"] = True
    if images and _has_images(entry):
        facts["images"] = [image_json(entry.lieutenant_id, each) for each in images]
    return facts


def match_json(match: Match) -> Json:
    """Return a match of a search."""
    entry = match.entry
    return {
        "id": entry.pk,
        "kind": entry.kind,
        "at": entry.at,
        "messageId": entry.message_id,
        "excerpt": match.excerpt,
    }


def image_json(lieutenant_id: str, image: ImageFacts) -> Json:
    """Return an image as JSON, with the URL of its data."""
    path = _IMAGE_PATH.format(lieutenant_id, image.message_id, image.number)
    prefix = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
    url = prefix + quote(path, safe=_SAFE)
    return {"mediaType": image.media_type, "size": image.size, "url": url}


def usage_json(sums: Mapping[str, Any] | None) -> Json:
    """Return tokens by class, and the cost in dollars."""
    sums = sums or {}
    return {
        "input": sums.get("total_input") or 0,
        "output": sums.get("total_output") or 0,
        "cacheRead": sums.get("total_cache_read") or 0,
        "cacheWrite": sums.get("total_cache_write") or 0,
        "cost": float(sums.get("total_cost") or 0),
        "calls": sums.get("calls") or 0,
    }
