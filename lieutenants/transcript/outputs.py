"""Read answers with a size limit, since one answer may have tens of megabytes.

Long texts stay in the database; only the parts that are shown are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from django.db.models import F, Q, QuerySet, TextField, Window
from django.db.models.functions import Cast, Length, RowNumber, Substr

from lieutenants.models import Answer, Chunk, Entry, Lieutenant, Message
from lieutenants.sessions.write_batch import is_retried
from lieutenants.states import Outcome

MAX_ANSWERS = 20
# Some of these may be blank.
MAX_CANDIDATES = 2 * MAX_ANSWERS
MAX_SHOWN = 20_000
SEPARATOR = "\n\n"
MAX_PAGE = 4_000_000
_PIECE = 1_000_000
# The newest answers of a lieutenant are shown at length, older ones are shortened more.
LONG_ANSWERS = 3
MAX_SHOWN_OLDER = 4_000


_Row = TypeVar("_Row", Entry, Message)


@dataclass(frozen=True)
class Excerpt:
    """A text, or its head and tail, with the length of the whole text."""

    text: str
    length: int
    left_out: int = 0

    @property
    def is_cut(self) -> bool:
        """Return whether its middle is left out."""
        return self.left_out > 0


def excerpt(size: int, head: str, tail: str | None) -> Excerpt:
    """Return the excerpt of a text of `size` characters: all of it without a `tail`."""
    return Excerpt(head, size) if tail is None else _joined(head, tail, size)


def excerpts(rows: QuerySet[Any], max_chars: Mapping[Any, int] | int) -> dict[Any, Excerpt]:
    """Map each row's key to its `text`, shortened to about `max_chars` characters (per row).

    A database reads a long text once for each function of it, so their number is kept small.
    """
    sizes = dict(rows.order_by().annotate(size=Length("text")).values_list("pk", "size"))
    limits = {pk: max_chars if isinstance(max_chars, int) else max_chars[pk] for pk in sizes}
    short = [pk for pk, size in sizes.items() if size <= limits[pk]]
    table = rows.model._default_manager
    texts = table.filter(pk__in=short).order_by().values_list("pk", "text")
    found = {pk: Excerpt(text, sizes[pk]) for pk, text in texts}
    for pk in sizes.keys() - found.keys():
        half, size = limits[pk] // 2, sizes[pk]
        ends = table.filter(pk=pk).annotate(
            head=Substr("text", 1, half), tail=Substr("text", size - half + 1, half)
        )
        for head, tail in ends.values_list("head", "tail"):
            found[pk] = _joined(head, tail, size)
    return found


def _joined(head: str, tail: str, size: int) -> Excerpt:
    left_out = size - len(head) - len(tail)
    return Excerpt(f"{head}\n\n… {left_out:,} characters left out …\n\n{tail}", size, left_out)


def newest_answers(lieutenant_ids: Iterable[str]) -> dict[str, list[Excerpt]]:
    """Map lieutenants to their newest finished answers, oldest first, without blank ones."""
    numbered = (
        Answer.objects.filter(lieutenant__in=list(lieutenant_ids))
        .exclude(outcome=Outcome.OPEN)
        .annotate(
            place=Window(RowNumber(), partition_by=F("lieutenant_id"), order_by=F("id").desc())
        )
        .filter(place__lte=MAX_CANDIDATES)
        .order_by("lieutenant_id", "id")
    )
    places = list(numbered.values_list("pk", "lieutenant_id", "place"))
    max_chars = {
        pk: MAX_SHOWN if place <= LONG_ANSWERS else MAX_SHOWN_OLDER for pk, _, place in places
    }
    texts = excerpts(Answer.objects.filter(pk__in=max_chars), max_chars)
    found: dict[str, list[Excerpt]] = {}
    for pk, lieutenant_id, _ in places:
        if pk in texts:
            found.setdefault(lieutenant_id, []).append(texts[pk])
    return {lieutenant_id: without_blank(mine) for lieutenant_id, mine in found.items()}


def without_blank(answers: Sequence[Excerpt]) -> list[Excerpt]:
    """Return the newest answers that are shown, of candidates with the oldest first."""
    candidates = [each for each in answers if each.length]
    return [each for each in candidates[-MAX_ANSWERS:] if each.text.strip()]


def page_of_entries(
    lieutenant: Lieutenant, *, after: int, limit: int, text_limit: int
) -> tuple[list[Entry], bool]:
    """Return the entries with an id above `after`, and whether there are more.

    Together they have MAX_PAGE characters of text and data at most, unless the first alone has
    more. A text longer than `text_limit` is shortened, and `data` gets its length.
    """
    found = Entry.objects.filter(lieutenant=lieutenant, pk__gt=after).annotate(
        size=Length("text"), more=Length(Cast("data", TextField()))
    )
    sizes = list(found.values_list("pk", "size", "more")[: limit + 1])
    chosen: list[int] = []
    left = MAX_PAGE
    for pk, size, more in sizes[:limit]:
        left -= min(size, text_limit or size) + more
        if chosen and left < 0:
            break
        chosen.append(pk)
    rows = Entry.objects.filter(pk__in=chosen).order_by("id")
    found_rows = shortened(rows, text_limit) if text_limit else list(rows)
    for row in found_rows:
        if row.left_out:
            row.data = {**row.data, "textLength": row.left_out + text_limit // 2 * 2}
    return found_rows, len(sizes) > len(chosen)


def shortened(found: QuerySet[_Row], max_chars: int = MAX_SHOWN) -> list[_Row]:
    """Return entries or messages with shortened texts (`max_chars`). They must not be saved."""
    rows: list[Any] = list(found.defer("text"))
    texts = excerpts(
        found.model._default_manager.filter(pk__in=[row.pk for row in rows]), max_chars
    )
    rows = [row for row in rows if row.pk in texts]
    for row in rows:
        row.text, row.left_out = texts[row.pk].text, texts[row.pk].left_out
    return rows


def open_texts(entry_ids: Iterable[int], *, until_rev: int, max_chars: int) -> dict[int, str]:
    """Map open entries to their text at `until_rev`: at most its last `max_chars` characters."""
    chunks = Chunk.objects.filter(entry__in=list(entry_ids), rev__lte=until_rev)
    sizes = chunks.annotate(size=Length("text")).order_by("-id")
    wanted: list[int] = []
    lengths: dict[int, int] = {}
    for entry_id, pk, size in sizes.values_list("entry_id", "pk", "size"):
        if lengths.get(entry_id, 0) < max_chars:
            wanted.append(pk)
        lengths[entry_id] = lengths.get(entry_id, 0) + size
    texts: dict[int, str] = {}
    for entry_id, text in (
        chunks.filter(pk__in=wanted).order_by("id").values_list("entry_id", "text")
    ):
        texts[entry_id] = texts.get(entry_id, "") + text
    for entry_id, text in texts.items():
        if left_out := max(0, lengths[entry_id] - max_chars):
            texts[entry_id] = f"… {left_out:,} characters left out …\n\n{text[-max_chars:]}"
    return texts


class LongText(Protocol):
    """A text of which only parts are shown."""

    @property
    def length(self) -> int:
        """Return the number of characters."""

    def tail(self, count: int) -> str:
        """Return the last `count` characters."""


@dataclass(frozen=True)
class Ending:
    """The end of a text, as far as it was loaded, and the length of the whole text."""

    text: str = ""
    length: int = 0

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is missing."""
        return len(self.text) == self.length

    def tail(self, count: int) -> str:
        """Return the last `count` characters, which must have been loaded."""
        return self.text[max(0, len(self.text) - count) :]


def ending_of(pieces: Iterable[tuple[int, int, str | None]]) -> Ending:
    """Join the texts of an answer's entries like `output_of_entries`.

    Each piece has the id of its entry, its length, and the end of its text, None for those in front
    of the loaded end. Pieces of one entry follow each other.
    """
    texts: list[str] = []
    length, last = 0, None
    for entry_id, size, text in pieces:
        if not size:
            continue
        if last not in (None, entry_id):
            length += len(SEPARATOR)
            texts.append(SEPARATOR)
        length, last = length + size, entry_id
        if text is None or len(text) < size:
            texts.clear()
        texts.append(text or "")
    return Ending("".join(texts), length)


# Table, id and length; without a table it is the separator between two texts.
Piece = tuple[type[Answer | Entry | Chunk] | None, int, int]


@dataclass(frozen=True)
class Output:
    """The text of an answer as a list of pieces, which are loaded on demand."""

    pieces: list[Piece]

    @property
    def length(self) -> int:
        """Return the number of characters."""
        return sum(length for _, _, length in self.pieces)

    def slice(self, begin: int, count: int) -> str:
        """Return `count` characters, starting at index `begin`."""
        parts, at, end = [], 0, begin + count
        wanted: list[tuple[type[Answer | Entry | Chunk] | None, int, int, int]] = []
        for model, pk, length in self.pieces:
            first, last = max(begin - at, 0), min(end - at, length)
            if first < last:
                wanted.append((model, pk, first, last))
            at += length
        chunks = dict(
            Chunk.objects.filter(pk__in=[pk for model, pk, _, _ in wanted if model is Chunk])
            .order_by()
            .values_list("pk", "text")
        )
        for model, pk, first, last in wanted:
            if model is None:
                parts.append(SEPARATOR[first:last])
            elif model is Chunk:
                parts.append(chunks.get(pk, "")[first:last])
            else:
                cut = Substr("text", first + 1, last - first)
                rows = model._default_manager.filter(pk=pk).annotate(cut=cut)
                parts.append(rows.values_list("cut", flat=True)[0])
        return "".join(parts)

    def in_pieces(self) -> Iterator[str]:
        """Yield the whole text in pieces."""
        for begin in range(0, self.length, _PIECE):
            yield self.slice(begin, _PIECE)

    def tail(self, count: int) -> str:
        """Return the last `count` characters."""
        return self.slice(max(0, self.length - count), count)


def text_of_entry(entry_id: int) -> Output:
    """Return the text of one entry."""
    sizes = Entry.objects.filter(pk=entry_id).annotate(size=Length("text"))
    return Output([(Entry, entry_id, size) for size in sizes.values_list("size", flat=True)])


def output_of(answer: Answer) -> Output:
    """Return the text of an answer; of a running one, its text so far."""
    if answer.outcome != Outcome.OPEN:
        sizes = Answer.objects.filter(pk=answer.pk).annotate(size=Length("text"))
        return Output([(Answer, answer.pk, size) for size in sizes.values_list("size", flat=True)])
    return output_of_entries(answer.entries.filter(kind=Entry.Kind.TEXT))


def output_of_entries(entries: QuerySet[Entry]) -> Output:
    """Return the texts of one answer's entries, joined like `write_batch.join_texts`."""
    found = entries.order_by("id").annotate(size=Length("text")).defer("text")
    rows = [entry for entry in found if not is_retried(entry)]
    texts: dict[int, list[Piece]] = {}
    opened = [entry.pk for entry in rows if not entry.final]
    chunks = Chunk.objects.filter(entry__in=opened).annotate(size=Length("text")).order_by("id")
    for entry_id, pk, size in chunks.values_list("entry_id", "pk", "size"):
        texts.setdefault(entry_id, []).append((Chunk, pk, size))
    pieces: list[Piece] = []
    for entry in rows:
        own: list[Piece] = (
            [(Entry, entry.pk, entry.size)] if entry.final else texts.get(entry.pk, [])
        )
        if any(length for _, _, length in own):
            pieces += [(None, 0, len(SEPARATOR)), *own] if pieces else own
    return Output(pieces)


def newest_output(lieutenant_id: str, *, is_working: bool) -> Output:
    """Return the running answer, or the newest finished one that is not blank."""
    answers = Answer.objects.filter(lieutenant=lieutenant_id).defer("text").order_by("-id")
    running = answers.filter(outcome=Outcome.OPEN).first()
    output = output_of(running) if running else Output([])
    if output.length or is_working:
        return output
    finished = answers.exclude(outcome=Outcome.OPEN).exclude(text="")
    for answer in finished[:MAX_ANSWERS]:
        output = output_of(answer)
        if output.slice(0, 1000).strip():
            return output
    return Output([])


def running_outputs(lieutenant_ids: Iterable[str]) -> Mapping[str, Output]:
    """Map lieutenants to the text of their running answers."""
    answers = Answer.objects.filter(Q(lieutenant__in=list(lieutenant_ids), outcome=Outcome.OPEN))
    return {answer.lieutenant_id: output_of(answer) for answer in answers.defer("text")}
