"""Transcript items as pages show them: calls with results, answers with their usage.

A page shows the transcript at one revision (`rev`), and the live stream continues from there. So
the text of an open entry is joined up to that revision and no further.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from django.db.models import Max, Q, QuerySet
from django.utils import timezone

from lieutenants.messages.images import ImageFacts, facts_by_message
from lieutenants.models import Answer, Entry, Lieutenant, Usage
from lieutenants.states import Outcome
from lieutenants.transcript import outputs, terminal
from lieutenants.transcript.usage_summary import UsageSummary

PAGE_SIZE = 100
# A call and its result are paired only if their ids differ by less than this.
_MAX_ID_DISTANCE = 5000
# Longer texts are shortened; the whole text is one click away.
_MAX_OUTPUT_CHARS = 20_000  # output of tools
_MAX_TEXT_CHARS = 100_000
_MAX_PREVIEW_CHARS = 160
_CLASSES = ("input", "output", "cache_read", "cache_write")


@dataclass(frozen=True)
class TurnFooter:
    """Footer of a finished answer."""

    answer: Answer
    figures: UsageSummary

    @property
    def took(self) -> timedelta | None:
        """Return the time from the start of the answer to its end."""
        ended = self.answer.ended_at
        return ended - self.answer.started_at if ended else None


@dataclass
class TranscriptItem:
    """One item on the page: an entry, or a tool call together with its result."""

    entry: Entry
    rev: int = 0
    text: str = ""
    result: Entry | None = None
    close: TurnFooter | None = None
    pictures: Sequence[ImageFacts] = ()

    @property
    def last_id(self) -> int:
        """Return the id of its newest entry."""
        return max(self.entry.pk, self.result.pk if self.result else 0)

    @property
    def is_tool(self) -> bool:
        """Return whether it is a tool call, a result, or both."""
        return self.entry.kind in (Entry.Kind.TOOL_CALL, Entry.Kind.TOOL_RESULT)

    @property
    def outcome(self) -> Entry | None:
        """Return the tool's result, if there is one."""
        return self.entry if self.entry.kind == Entry.Kind.TOOL_RESULT else self.result

    @property
    def state(self) -> str:
        """Return the state of a tool call: asked, running, failed or done."""
        result = self.outcome
        if result is None:
            return "asked"
        if not result.final:
            return "running"
        return "failed" if result.is_error else "done"

    @property
    def preview(self) -> str:
        """Return the first text argument of a call, in one short line."""
        arguments = self.entry.data.get("arguments") if self.entry.data else None
        if isinstance(arguments, dict):
            texts = [each for each in arguments.values() if isinstance(each, str)]
            return (
                terminal.mark_reordering(" ".join(texts[0].split())[:_MAX_PREVIEW_CHARS])
                if texts
                else ""
            )
        return terminal.mark_reordering(" ".join(str(arguments or "").split())[:_MAX_PREVIEW_CHARS])

    @property
    def arguments(self) -> list[tuple[str, object]]:
        """Return the names and values of a call's arguments."""
        arguments = self.entry.data.get("arguments") if self.entry.data else None
        if isinstance(arguments, dict):
            return list(arguments.items())
        return [] if arguments is None else [("", arguments)]

    @property
    def shown_output(self) -> str:
        """Return the text of a result; a very long one without its middle."""
        if not self.outcome:
            return ""
        return shortened(terminal.plain_text(self.outcome.text), self.outcome.left_out)

    @property
    def used(self) -> UsageSummary:
        """Return the usage of one model call, if the entry has it."""
        known = self.entry.data if isinstance(self.entry.data, dict) else {}
        counts = {name: known.get(name) or 0 for name in _CLASSES}
        return UsageSummary(**counts, cost=Decimal(str(known.get("cost") or 0)))

    @property
    def tool_seconds(self) -> float | None:
        """Return how long a tool ran, if the agent reported it."""
        result = self.outcome
        known = result.data.get("durationMs") if result and result.data else None
        return known / 1000 if isinstance(known, int) else None

    @property
    def images(self) -> int:
        """Return the number of its images."""
        entry = self.outcome or self.entry
        return int(entry.data.get("images") or 0) if entry.data else 0


def shortened(text: str, left_out: int = 0) -> str:
    """Return head and tail of a long text.

    `left_out` characters were already left out between them.
    """
    if len(text) <= _MAX_OUTPUT_CHARS:
        return text
    half = _MAX_OUTPUT_CHARS // 2
    left_out += len(text) - 2 * half
    return f"{text[:half]}\n\n… {left_out:,} characters left out …\n\n{text[-half:]}"


def template_item(kind: Entry.Kind) -> TranscriptItem:
    """Return an empty open block: the page's template for blocks that are streaming."""
    return TranscriptItem(Entry(pk=0, kind=kind, final=False, at=timezone.now(), rev=0))


def newest_items(
    lieutenant: Lieutenant, *, before: int | None = None
) -> tuple[list[TranscriptItem], int | None]:
    """Return the newest blocks, or those before the entry `before`, and the cursor of older ones.

    `lieutenant.rev` must have been read before: it is the page's revision.
    """
    rows = _entries(lieutenant)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    found = outputs.shortened(rows.order_by("-id")[: PAGE_SIZE + 1], _MAX_TEXT_CHARS)
    more, found = len(found) > PAGE_SIZE, found[:PAGE_SIZE][::-1]
    return _blocks(lieutenant, found), found[0].pk if more else None


def items_of_entries(lieutenant: Lieutenant, ids: Iterable[int]) -> list[TranscriptItem]:
    """Return the blocks that contain these entries."""
    rows = _entries(lieutenant).filter(pk__in=list(ids)).order_by("id")
    return _blocks(lieutenant, outputs.shortened(rows, _MAX_TEXT_CHARS))


def _entries(lieutenant: Lieutenant) -> QuerySet[Entry]:
    return Entry.objects.filter(lieutenant=lieutenant).select_related("message")


def _blocks(lieutenant: Lieutenant, entries: list[Entry]) -> list[TranscriptItem]:
    calls, results = _pairs(lieutenant, entries)
    blocks: dict[int, TranscriptItem] = {}
    for entry in entries:
        key = (entry.process_id, entry.call_id)
        if entry.kind == Entry.Kind.TOOL_RESULT and key in calls:
            call = calls[key]
            blocks.setdefault(call.pk, TranscriptItem(call, result=entry))
        elif entry.kind == Entry.Kind.TOOL_CALL:
            blocks[entry.pk] = TranscriptItem(
                entry, result=results.get(key) if entry.call_id else None
            )
        else:
            blocks[entry.pk] = TranscriptItem(entry)
    found = list(blocks.values())
    _fill_in_texts(lieutenant, found)
    _close_answers(found)
    _add_pictures(found)
    return found


_Key = tuple[str, str]


def _pairs(
    lieutenant: Lieutenant, entries: Sequence[Entry]
) -> tuple[dict[_Key, Entry], dict[_Key, Entry]]:
    """Map (process, call id) to calls and to results, including partners outside of `entries`."""
    calls = _by_call(entries, Entry.Kind.TOOL_CALL)
    results = _by_call(entries, Entry.Kind.TOOL_RESULT)
    alone = {call_id for _, call_id in calls.keys() ^ results.keys()}
    if alone:
        near = Q(pk__gt=entries[0].pk - _MAX_ID_DISTANCE, pk__lt=entries[-1].pk + _MAX_ID_DISTANCE)
        rows = _entries(lieutenant).filter(near, call_id__in=alone).order_by("id")
        others = outputs.shortened(rows, _MAX_TEXT_CHARS)
        calls = _by_call(others, Entry.Kind.TOOL_CALL) | calls
        results = _by_call(others, Entry.Kind.TOOL_RESULT) | results
    return calls, results


def _by_call(entries: Iterable[Entry], kind: Entry.Kind) -> dict[_Key, Entry]:
    return {(e.process_id, e.call_id): e for e in entries if e.kind == kind and e.call_id}


def _fill_in_texts(lieutenant: Lieutenant, blocks: list[TranscriptItem]) -> None:
    """Set the text of each block; for open ones the text up to the page's revision."""
    opened = [block.entry.pk for block in blocks if not block.entry.final]
    texts: dict[int, str] = {}
    if opened:
        texts = outputs.open_texts(opened, until_rev=lieutenant.rev, max_chars=_MAX_TEXT_CHARS)
    for block in blocks:
        block.rev = lieutenant.rev
        block.text = texts.get(block.entry.pk) or block.entry.text


def _add_pictures(blocks: list[TranscriptItem]) -> None:
    """Add the images that were sent with messages; those of tools are not stored."""
    with_images = [
        block for block in blocks if block.entry.kind == Entry.Kind.USER and block.images
    ]
    found = facts_by_message(block.entry.message_id for block in with_images)
    for block in with_images:
        block.pictures = found.get(block.entry.message_id or "", ())


def _close_answers(blocks: list[TranscriptItem]) -> None:
    """Add each finished answer's footer to its last block."""
    ids = {block.entry.answer_id for block in blocks if block.entry.answer_id}
    if not ids:
        return
    last: dict[int | None, int | None] = dict(
        Entry.objects.filter(answer__in=ids)
        .order_by()
        .values_list("answer_id")
        .annotate(last=Max("pk"))
    )
    answers = {
        answer.pk: answer
        for answer in Answer.objects.filter(pk__in=ids).exclude(outcome=Outcome.OPEN).defer("text")
    }
    used = Usage.objects.sums_by_answer(list(answers))
    for block in blocks:
        answer = answers.get(block.entry.answer_id or 0)
        if answer and last.get(answer.pk) == block.last_id:
            block.close = TurnFooter(answer, UsageSummary.of(used.get(answer.pk)))
