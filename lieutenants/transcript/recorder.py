"""Record one process's transcript: streamed text, content blocks, tools, usage, answers.

`Transcript` turns the agent's events into entries of the pass's write batch. Its state in memory
can be read back from rows that are not final.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.utils import timezone

from lieutenants.agents import events
from lieutenants.agents.events import TextBlock, ToolCallBlock
from lieutenants.models import Answer, Chunk, Entry, Lieutenant, Process, Usage
from lieutenants.sessions import tool_limits
from lieutenants.sessions.write_batch import NewChunk, WriteBatch, join_chunks, join_texts
from lieutenants.states import Outcome
from lieutenants.transcript.screening import MAX_BLOCK, TranscriptScreening

KILLED_FOR_MEMORY = "\n(Killed by the kernel for memory.)"
_MAX_NAME = 200
# Calls without an end: all of them are looked at in each pass.
MAX_OPEN_CALLS = 1000
# More than one pass can have. Older ones are looked up in the database.
MAX_FINISHED_CALLS = 10_000


@dataclass
class Transcript:
    """The open entries, blocks and answer of one process."""

    process: Process
    lieutenant: Lieutenant
    blocks: dict[tuple[str, int], Entry] = field(default_factory=dict)
    results: dict[str, Entry] = field(default_factory=dict)
    answer: Answer | None = None
    # The message that the agent is working on.
    message_id: str | None = None
    # The user message that the running answer began with.
    first_user: Entry | None = None
    batch: WriteBatch = field(default_factory=WriteBatch)
    screening: TranscriptScreening = field(default_factory=TranscriptScreening)
    _texts: dict[int, tuple[Entry, list[str]]] = field(default_factory=dict)
    # Calls that have results in the running answer, the newest ones: results are reported twice.
    _finished_calls: dict[str, None] = field(default_factory=dict)

    def load_open_entries(self, answer_id: int | None) -> None:
        """Load the rows that were not final when the previous follower ended."""
        for entry in self.process.entries.filter(final=False).order_by("id"):
            if entry.kind == Entry.Kind.TOOL_RESULT:
                self.results[entry.call_id] = entry
            else:
                self.blocks[(entry.kind, entry.block or 0)] = entry
        if answer_id is not None:
            self.answer = Answer.objects.filter(pk=answer_id).first()

    # -- text as it comes -----------------------------------------------------------------

    def delta(self, kind: str, block: int, text: str) -> None:
        """Append a piece of text to a block. A block number out of range counts as the first."""
        block = block if 0 <= block <= MAX_BLOCK else 0
        entry = self.blocks.get((kind, block))
        if entry is None:
            entry = self.add(kind, timezone.now(), block=block, final=False)
            self.blocks[(kind, block)] = entry
        self._texts.setdefault(id(entry), (entry, []))[1].append(text)

    def flush_texts(self) -> None:
        """Make one chunk per open entry of the text since the last flush that may be shown.

        Runs before the process's offset moves.
        """
        for entry, parts in self._texts.values():
            offset = self.process.offset
            if text := self.screening.feed(_block_of(entry), "".join(parts), offset):
                self.batch.chunks.append(NewChunk(entry, self.next_rev(), text))
        self._texts.clear()

    def text_so_far(self, entry: Entry) -> str:
        """Return the text of all chunks of an open entry, including those of this pass."""
        kept = join_chunks(entry) if entry.pk else ""
        return kept + "".join(each.text for each in self.batch.chunks if each.entry is entry)

    # -- entries ---------------------------------------------------------------------------

    def next_rev(self) -> int:
        """Return the revision of the transcript's next change."""
        self.lieutenant.rev += 1
        return self.lieutenant.rev

    def add(self, kind: str, at: datetime, **fields: Any) -> Entry:
        """Add an entry to the transcript."""
        entry = Entry(
            lieutenant=self.lieutenant,
            process=self.process,
            answer=self.answer,
            kind=kind,
            at=at,
            rev=self.next_rev(),
            **fields,
        )
        self.batch.add(entry, self.answer)
        return entry

    def revise(self, entry: Entry, **fields: Any) -> None:
        """Change an entry with a new revision, so that readers get it again."""
        for name, value in fields.items():
            setattr(entry, name, value)
        entry.rev = self.next_rev()
        self.batch.change(entry)

    # -- what the agent says --------------------------------------------------------------

    def record_assistant_message(self, message: events.AssistantMessage, at: datetime) -> None:
        """Record a complete message of the agent: the final texts of its blocks, and its usage."""
        for block in message.blocks:
            self._record_block(block, at, failed=message.stop_reason == events.ERROR)
        self.close_blocks()
        self.count_usage(
            message.usage,
            at,
            provider=message.provider,
            model=message.model,
            stop_reason=message.stop_reason,
        )

    def _record_block(
        self, block: TextBlock | ToolCallBlock, at: datetime, *, failed: bool
    ) -> None:
        fields: dict[str, Any] = {"final": True}
        if isinstance(block, TextBlock):
            kind = Entry.Kind(block.kind)
            fields["text"] = block.text
            if failed:
                fields["data"] = {"failed": True}
        else:
            kind = Entry.Kind.TOOL_CALL
            fields |= {
                "text": "",
                "tool": block.tool[:_MAX_NAME],
                "call_id": block.call_id[:_MAX_NAME],
                "data": {"arguments": block.arguments},
            }
        entry = self.blocks.pop((kind.value, block.number), None)
        self.screening.forget((kind.value, block.number))
        if entry:
            self.revise(entry, **fields)
        elif fields["text"] or kind is Entry.Kind.TOOL_CALL:
            self.add(kind, at, block=block.number, **fields)

    def close_blocks(self) -> None:
        """Finish blocks whose end was not reported with the text received so far."""
        for entry in self.blocks.values():
            text = self.text_so_far(entry) + self.screening.finish(_block_of(entry))
            self.revise(entry, final=True, text=text)
        self.blocks.clear()

    def count_usage(
        self,
        usage: events.TokenUsage | None,
        at: datetime,
        *,
        provider: str,
        model: str,
        stop_reason: str,
    ) -> None:
        """Record the usage of a model call, as the agent reported it."""
        if usage is None:
            return
        counted = Usage(
            lieutenant=self.lieutenant,
            message_id=self.message_id,
            answer=self.answer,
            provider=provider[:100],
            model=model[:200],
            stop_reason=stop_reason[:40],
            input=usage.input,
            output=usage.output,
            cache_read=usage.cache_read,
            cache_write=usage.cache_write,
            cost=_dollars(usage.cost),
            at=at,
            day=at.date(),
        )
        self.batch.usage.append(counted)
        classes = ("input", "output", "cache_read", "cache_write")
        figures = {name: getattr(counted, name) for name in classes}
        figures |= {"cost": float(counted.cost), "model": counted.model}
        self.add(Entry.Kind.USAGE, at, data=figures)

    # -- tools ------------------------------------------------------------------------------

    def tool_start(self, event: events.ToolStarted, at: datetime) -> None:
        call_id = event.call_id[:_MAX_NAME]
        about = tool_limits.first_text(event.arguments)
        if earlier := self.results.pop(call_id, None):
            self.revise(earlier, final=True)
        if len(self.results) >= MAX_OPEN_CALLS:
            oldest = next(iter(self.results))
            self._close_call(oldest, self.results.pop(oldest))
        self.results[call_id] = self.add(
            Entry.Kind.TOOL_RESULT,
            at,
            call_id=call_id,
            tool=event.tool[:_MAX_NAME],
            final=False,
            data={"about": about} if about else {},
        )

    def tool_update(self, event: events.ToolUpdated, _at: datetime) -> None:
        if entry := self.results.get(event.call_id[:_MAX_NAME]):
            self.revise(entry, text=event.text)

    def tool_end(self, event: events.ToolEnded, at: datetime) -> None:
        """Record a tool's result. A copy does not count if the tool's end was reported before."""
        call_id = event.call_id[:_MAX_NAME]
        if event.is_copy and call_id not in self.results and self._has_result(call_id):
            return
        text = event.text
        if event.bytes_left_out:
            text = truncation_note("Result", event.bytes_left_out, event.images, text)
        data = {"images": event.images} if event.images else {}
        if event.duration_ms is not None:
            data["durationMs"] = event.duration_ms
        fields: dict[str, Any] = {
            "text": text + (KILLED_FOR_MEMORY if event.killed_for_memory else ""),
            "is_error": event.is_error,
            "final": True,
            "data": data,
        }
        entry = self.results.pop(call_id, None)
        self._note_finished(call_id)
        if entry:
            self.revise(entry, **fields)
        else:
            tool = event.tool[:_MAX_NAME]
            self.add(Entry.Kind.TOOL_RESULT, at, call_id=call_id, tool=tool, **fields)

    def _has_result(self, call_id: str) -> bool:
        if call_id in self._finished_calls:
            return True
        known = Entry.objects.filter(
            process=self.process, call_id=call_id, kind=Entry.Kind.TOOL_RESULT, final=True
        )
        return known.exists()

    def close_calls(self) -> None:
        """Finish calls whose end was not reported in their turn."""
        for call_id, entry in self.results.items():
            self._close_call(call_id, entry)
        self.results.clear()

    def _close_call(self, call_id: str, entry: Entry) -> None:
        self._note_finished(call_id)
        self.revise(entry, final=True, text=entry.text or "No result was reported.")

    def _note_finished(self, call_id: str) -> None:
        self._finished_calls[call_id] = None
        if len(self._finished_calls) > MAX_FINISHED_CALLS:
            del self._finished_calls[next(iter(self._finished_calls))]

    def fail_calls(self) -> None:
        """Finish running calls as failed, because the process has ended."""
        for entry in self.results.values():
            self.revise(entry, final=True, is_error=True)
        self.results.clear()

    # -- answers ---------------------------------------------------------------------------

    def open_answer(self, at: datetime) -> None:
        """Begin an answer when the agent starts to work."""
        self._finished_calls.clear()
        self.first_user = None
        self.answer = Answer(
            lieutenant=self.lieutenant,
            process=self.process,
            started_at=at,
            message_id=self.message_id,
        )
        self.batch.answers.append(self.answer)

    def close_answer(self, at: datetime, outcome: Outcome, failure: str = "") -> None:
        """Finish the running answer with its outcome and joined text."""
        answer = self.answer
        if answer is None:
            return
        self.answer = None
        answer.ended_at = at
        answer.error = failure
        answer.outcome = outcome
        answer.text = self._answer_text(answer)
        self.batch.change(answer)
        self.next_rev()

    def drop_failed_texts(self) -> None:
        """Exclude the texts of a failed attempt, which is being retried, from the answer."""
        if self.answer is None:
            return
        for entry in self._texts_of(self.answer):
            if entry.data and "failed" in entry.data:
                self.revise(entry, data={"retried": True})

    def _answer_text(self, answer: Answer) -> str:
        return join_texts((entry, entry.text) for entry in self._texts_of(answer))

    def _texts_of(self, answer: Answer) -> list[Entry]:
        """Return the text entries of an answer, from rows of earlier passes and from the batch."""
        entries: dict[int, Entry] = {}
        if answer.pk:
            rows = answer.entries.filter(kind=Entry.Kind.TEXT).order_by("id")
            entries = {row.pk: row for row in rows}
        changed = self.batch.changed_entries(answer)
        entries |= {pk: entry for pk, entry in changed.items() if entry.kind == Entry.Kind.TEXT}
        return [entry for _, entry in sorted(entries.items())] + self.batch.new_texts(answer)


def truncation_note(what: str, size: int, images: int, beginning: str) -> str:
    """Return the replacement for a text that was too long for one line of the journal."""
    facts = [f"{what} of {size / 1e6:.1f} MB"]
    if images:
        facts.append(f"{images} image{'s' if images > 1 else ''}")
    if not beginning:
        return ", ".join([*facts, "not kept."])
    return f"{beginning} …\n\n{', '.join([*facts, 'only its beginning is kept.'])}"


def _block_of(entry: Entry) -> tuple[str, int]:
    return str(entry.kind), entry.block or 0


def texts_of_open(entries: Iterable[Entry]) -> dict[int, str]:
    """Map the ids of open entries to their text so far."""
    opened = [entry.pk for entry in entries if not entry.final and not entry.text]
    texts = dict.fromkeys(opened, "")
    chunks = Chunk.objects.filter(entry__in=opened).order_by("id")
    for entry_id, text in chunks.values_list("entry_id", "text"):
        texts[entry_id] += text
    return texts


def parse_time(milliseconds: Any) -> datetime:
    if not isinstance(milliseconds, int | float) or milliseconds <= 0:
        return timezone.now()
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return timezone.now()


def _dollars(value: Any) -> Decimal:
    try:
        amount = Decimal(str(value or 0))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() and 0 <= amount < 10**8 else Decimal(0)
