"""Unit of work: collects what one pass of the follower writes, and writes it in few statements.

The number of statements depends on what happened, not on the number of sessions; a pass is one
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from lieutenants import queries
from lieutenants.exceptions import ProgressLost
from lieutenants.models import Answer, Chunk, Entry, Lieutenant, Process, Usage
from lieutenants.usage import sums
from reef_site.common.queries.rows import insert_rows


class NewChunk(NamedTuple):
    """A piece of text of an open entry. The entry may get its id only when the batch is written."""

    entry: Entry
    rev: int
    text: str


class WriteBatch:
    """New and changed rows of one pass. `write` must run inside a transaction."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.entries: list[Entry] = []
        self.chunks: list[NewChunk] = []
        self.usage: list[Usage] = []
        self._texts: dict[int, list[Entry]] = {}
        self._changed_entries: dict[int, Entry] = {}
        self._changed_answers: dict[int, Answer] = {}

    def add(self, entry: Entry, answer: Answer | None) -> None:
        """Add a new entry; `new_texts` finds the text entries of an answer."""
        self.entries.append(entry)
        if answer and entry.kind == Entry.Kind.TEXT:
            self._texts.setdefault(id(answer), []).append(entry)

    def new_texts(self, answer: Answer) -> list[Entry]:
        """Return the text entries that this pass added to the answer."""
        return self._texts.get(id(answer), [])

    def change(self, row: Entry | Answer) -> None:
        """Register a changed row. Rows that are new in this pass need no registration."""
        if row.pk is None:
            return
        if isinstance(row, Entry):
            self._changed_entries[row.pk] = row
        else:
            self._changed_answers[row.pk] = row

    def changed_entries(self, answer: Answer) -> dict[int, Entry]:
        """Map ids to the answer's entries that this pass changed."""
        if answer.pk is None:
            return {}
        mine = self._changed_entries.items()
        return {pk: entry for pk, entry in mine if entry.answer_id == answer.pk}

    def write(self) -> None:
        """Write all rows, referenced ones first."""
        insert_rows(self.answers)
        insert_rows(self.entries)
        # Entries that began and finished within one pass need no chunks.
        queries.insert_chunks(
            (each.entry.lieutenant_id, each.entry.pk, each.rev, each.text)
            for each in self.chunks
            if not each.entry.final
        )
        insert_rows(self.usage)
        sums.add(self.usage)
        self._update_answers()
        self._update_entries()

    def _update_answers(self) -> None:
        fields = ("message_id", "ended_at", "outcome", "text", "error")
        queries.update(Answer, fields, self._changed_answers.values())

    def _update_entries(self) -> None:
        changed = list(self._changed_entries.values())
        fields = (
            *("answer_id", "message_id", "tool", "call_id", "text", "data"),
            *("is_error", "final", "rev"),
        )
        queries.update(Entry, fields, changed)
        finished = [entry.pk for entry in changed if entry.final]
        if finished:
            Chunk.objects.filter(entry__in=finished).delete()


class Progress(Protocol):
    """A process and its lieutenant in memory, and what their rows held at the last commit."""

    process: Process
    lieutenant: Lieutenant
    committed_offset: int
    committed_rev: int


def save_progress(sessions: Sequence[Progress]) -> None:
    """Write the progress of all sessions in two statements.

    Both rows must still be as this follower left them: the transaction that writes a journal's
    events moves its offset by compare-and-set. Raises ProgressLost if another follower has
    written meanwhile; the caller must then roll back its transaction.
    """
    moved = queries.update(
        Process,
        ("offset", "state"),
        [each.process for each in sessions],
        expected=("offset", [each.committed_offset for each in sessions]),
    )
    moved += queries.update(
        Lieutenant,
        ("rev", "last_activity_at", "waiting_for", "waiting_since", "waiting_until", "trouble"),
        [each.lieutenant for each in sessions],
        expected=("rev", [each.committed_rev for each in sessions]),
    )
    if moved != 2 * len(sessions):
        raise ProgressLost("another follower has written what was read here")
    check_still_ours([each.process for each in sessions])
    for each in sessions:
        each.committed_offset, each.committed_rev = each.process.offset, each.lieutenant.rev


def check_still_ours(processes: Sequence[Process]) -> None:
    """Raise ProgressLost if another follower has taken one of the remote processes over.

    Their rows are locked until the end of the transaction, so this cannot change before. Called
    at the begin of each transaction that writes what was read of journals.
    """
    remote = [each.pk for each in processes if each.transport != "local"]
    if not remote:
        return
    ours = Process.objects.here().filter(pk__in=remote).select_for_update()
    if len(ours.order_by("pk").values_list("pk")) != len(remote):
        raise ProgressLost("another follower has taken over what was read here")


def join_chunks(entry: Entry) -> str:
    """Return the text so far of an open entry."""
    return "".join(Chunk.objects.filter(entry=entry).order_by("id").values_list("text", flat=True))


def open_text(answer: Answer) -> str:
    """Return the text of a running answer: finished blocks and the open one so far."""
    entries = list(answer.entries.filter(kind=Entry.Kind.TEXT).order_by("id"))
    return join_texts(
        (each, each.text if each.final else join_chunks(each))
        for each in entries
        if not is_retried(each)
    )


def is_retried(entry: Entry) -> bool:
    """Return whether the text belongs to a failed attempt that was retried."""
    return bool(entry.data) and bool(entry.data.get("retried"))


def join_texts(texts: Iterable[tuple[Entry, str]]) -> str:
    """Join the texts of an answer with blank lines, without those of retried attempts."""
    return "\n\n".join(text for entry, text in texts if text and not is_retried(entry))
