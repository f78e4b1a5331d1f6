"""Transcript items as pages show them: calls with results, answers with their usage.

A page shows the transcript at one revision (`rev`), and the live stream continues from there. So
the text of an open entry is joined up to that revision and no further.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

from django.db.models import Max, Q, QuerySet
from django.utils import timezone
from django.utils.safestring import SafeString

from lieutenants.agents import dialect_of
from lieutenants.messages.images import ImageFacts, facts_by_message
from lieutenants.models import Answer, Entry, Lieutenant, Usage
from lieutenants.states import Outcome
from lieutenants.transcript import markdown, outputs, terminal, tool_views
from lieutenants.transcript.usage_summary import UsageSummary

PAGE_SIZE = 100
# A call and its result are paired only if their ids differ by less than this.
_MAX_ID_DISTANCE = 5000
# Longer texts are shortened; the whole text is one click away.
_MAX_OUTPUT_CHARS = 20_000  # output of tools
_MAX_TEXT_CHARS = 100_000
_MAX_PREVIEW_CHARS = 160
# The session of a lieutenant that never went back nor began a new one.
FIRST_SESSION = Lieutenant._meta.get_field("session_name").default
# How much code of one page is coloured, from the newest on.
_MAX_COLOURED_CHARS = 100_000
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
    # Its message was taken back by a rewind.
    is_set_aside: bool = False
    # Its texts are what a program prints, not Markdown.
    prints: bool = False
    # Of a tool call: its arguments and its output.
    parts: Sequence[tool_views.Part] = ()
    output: SafeString = field(default_factory=SafeString)
    output_is_diff: bool = False

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
        arguments = self.given
        if isinstance(arguments, dict):
            texts = [each for each in arguments.values() if isinstance(each, str)]
            arguments = texts[0] if texts else ""
        words = " ".join(str(arguments or "").split())[:_MAX_PREVIEW_CHARS]
        return terminal.mark_reordering(words)

    @property
    def given(self) -> Any:
        """Return the arguments of a call as they were given."""
        return self.entry.data.get("arguments") if self.entry.data else None

    @property
    def is_markdown(self) -> bool:
        """Return whether it is a complete answer in Markdown."""
        return self.entry.kind == Entry.Kind.TEXT and self.entry.final and not self.prints

    @cached_property
    def unfinished(self) -> markdown.Unfinished | None:
        """Return an answer in Markdown that is still being written, if it is not very long."""
        if self.entry.kind != Entry.Kind.TEXT or self.entry.final or self.prints:
            return None
        if len(self.text) > markdown.MAX_CHARACTERS:
            return None
        return markdown.render_unfinished(self.text)

    @cached_property
    def first_part(self) -> markdown.Part | None:
        """Return the first part of an answer that is too long to be shown at once."""
        if not self.is_markdown:
            return None
        if not self.entry.left_out and len(self.text) <= markdown.MAX_CHARACTERS:
            return None
        # Of a text without its middle only the beginning is used.
        begin = self.text[: _MAX_TEXT_CHARS // 2]
        return markdown.first_part(begin, is_cut=True)

    @property
    def rest(self) -> int:
        """Return how many characters follow the first part of a long answer."""
        whole = self.entry.left_out + _MAX_TEXT_CHARS if self.entry.left_out else len(self.text)
        return whole - self.first_part.length if self.first_part else 0

    def show_tool(self, budget: tool_views.Budget) -> None:
        """Prepare what the page shows of a tool call."""
        self.parts = tool_views.parts_of(self.given, budget)
        if result := self.outcome:
            self.output, self.output_is_diff = tool_views.output_html(
                self.entry.tool,
                self.given,
                result.text,
                budget,
                max_chars=_MAX_OUTPUT_CHARS,
                left_out=result.left_out,
            )

    @property
    def used(self) -> UsageSummary:
        """Return the usage of one model call, if the entry has it."""
        known = self.entry.data if isinstance(self.entry.data, dict) else {}
        counts = {name: known.get(name) or 0 for name in _CLASSES}
        return UsageSummary(**counts, cost=Decimal(str(known.get("cost") or 0)))

    @property
    def tool_took(self) -> timedelta | None:
        """Return how long a tool ran, if the agent reported it."""
        result = self.outcome
        known = result.data.get("durationMs") if result and result.data else None
        return timedelta(milliseconds=known) if isinstance(known, int) else None

    @property
    def images(self) -> int:
        """Return the number of its images."""
        entry = self.outcome or self.entry
        return int(entry.data.get("images") or 0) if entry.data else 0


def text_part(entry: Entry, after: int, fence: str) -> tuple[markdown.Part, int]:
    """Return the part of an answer behind `after` characters, and how many follow it."""
    output = outputs.text_of_entry(entry.pk)
    text = output.slice(after, markdown.PART_CHARACTERS + 1)
    is_cut = len(text) > markdown.PART_CHARACTERS
    part = markdown.first_part(text, fence=fence, is_cut=is_cut)
    return part, max(0, output.length - after - part.length)


def template_item(lieutenant: Lieutenant, kind: Entry.Kind) -> TranscriptItem:
    """Return an empty open block: the page's template for blocks that are streaming."""
    entry = Entry(pk=0, kind=kind, final=False, at=timezone.now(), rev=0)
    return TranscriptItem(entry, prints=dialect_of(lieutenant).features.prints)


@dataclass(frozen=True)
class Window:
    """A part of a transcript, with the cursors of what is before and behind it."""

    items: list[TranscriptItem]
    earlier: int | None
    later: int | None


def newest_window(lieutenant: Lieutenant) -> Window:
    """Return the newest blocks.

    `lieutenant.rev` must have been read before: it is the page's revision.
    """
    found, has_more = _page(_entries(lieutenant).order_by("-id"), PAGE_SIZE)
    return _window(lieutenant, found[::-1], has_earlier=has_more, has_later=False)


def window_before(lieutenant: Lieutenant, entry_id: int) -> Window:
    """Return the blocks before an entry."""
    rows = _entries(lieutenant)
    found, has_more = _page(rows.filter(pk__lt=entry_id).order_by("-id"), PAGE_SIZE)
    later = rows.filter(pk__gte=entry_id).exists()
    return _window(lieutenant, found[::-1], has_earlier=has_more, has_later=later)


def window_after(lieutenant: Lieutenant, entry_id: int) -> Window:
    """Return the blocks after an entry."""
    rows = _entries(lieutenant)
    found, has_more = _page(rows.filter(pk__gt=entry_id).order_by("id"), PAGE_SIZE)
    earlier = rows.filter(pk__lte=entry_id).exists()
    return _window(lieutenant, found, has_earlier=earlier, has_later=has_more)


def window_around(lieutenant: Lieutenant, entry_id: int) -> Window:
    """Return the blocks around an entry, or around the place where it would be."""
    rows, half = _entries(lieutenant), PAGE_SIZE // 2
    before, has_earlier = _page(rows.filter(pk__lt=entry_id).order_by("-id"), half)
    after, has_later = _page(rows.filter(pk__gte=entry_id).order_by("id"), half)
    found = before[::-1] + after
    return _window(lieutenant, found, has_earlier=has_earlier, has_later=has_later)


def _page(rows: QuerySet[Entry], size: int) -> tuple[list[Entry], bool]:
    """Return the first rows, and whether there are more."""
    found = outputs.shortened(rows[: size + 1], _MAX_TEXT_CHARS)
    return found[:size], len(found) > size


def _window(
    lieutenant: Lieutenant, found: list[Entry], *, has_earlier: bool, has_later: bool
) -> Window:
    return Window(
        _blocks(lieutenant, found),
        earlier=found[0].pk if found and has_earlier else None,
        later=found[-1].pk if found and has_later else None,
    )


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
    _mark_set_aside(lieutenant, found)
    _show_tools(found)
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
    prints = dialect_of(lieutenant).features.prints
    for block in blocks:
        block.rev, block.prints = lieutenant.rev, prints
        block.text = texts.get(block.entry.pk) or block.entry.text


def _add_pictures(blocks: list[TranscriptItem]) -> None:
    """Add the images that were sent with messages; those of tools are not stored."""
    with_images = [
        block for block in blocks if block.entry.kind == Entry.Kind.USER and block.images
    ]
    found = facts_by_message(block.entry.message_id for block in with_images)
    for block in with_images:
        block.pictures = found.get(block.entry.message_id or "", ())


def _mark_set_aside(lieutenant: Lieutenant, blocks: list[TranscriptItem]) -> None:
    """Mark what came after a message that a rewind took back, up to the rewind."""
    if not blocks or lieutenant.session_name == FIRST_SESSION:
        return
    rewind = Q(kind=Entry.Kind.NOTICE, data__has_key="rewind")
    marks = Entry.objects.filter(rewind | Q(kind=Entry.Kind.USER), lieutenant=lieutenant)
    first, last = blocks[0].entry.pk, blocks[-1].entry.pk
    since = marks.filter(pk__lt=first).order_by("-id").values_list("pk", flat=True).first()
    near = marks.filter(pk__gte=since or first, pk__lte=last).order_by("id")
    # Commands are not in the agent's session.
    turns = [row for row in near.only("kind", "data") if "command" not in row.data]
    ids = [row.pk for row in turns]
    for block in blocks:
        if place := bisect_right(ids, block.entry.pk):
            block.is_set_aside = bool(turns[place - 1].data.get("rewound"))


def _show_tools(blocks: list[TranscriptItem]) -> None:
    budget = tool_views.Budget(_MAX_COLOURED_CHARS)
    for block in reversed(blocks):
        if block.is_tool:
            block.show_tool(budget)


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
