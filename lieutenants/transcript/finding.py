"""Find words in a whole transcript, and list the messages in it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast, Greatest, Lower, StrIndex, Substr

from lieutenants.models import Entry, Lieutenant
from lieutenants.transcript import outputs, terminal
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, is_storable, one_line

MAX_WORDS = 200
# One search reads the transcript until it has so many matches.
MAX_MATCHES = 500
# After so many seconds it ends with what it has found, and the next one goes on there.
MAX_SECONDS = 2.0
# One query looks at so many entries, and at more of them while that takes little time.
FIRST_STEP = 1_000
_SHORT_SECONDS = 0.2
MAX_EXCERPTS = 30
MESSAGES_PAGE = 50
_BEFORE, _EXCERPT = 60, 200


@dataclass(frozen=True)
class Match:
    """An entry that contains the words, with the text around the first place."""

    entry: Entry
    excerpt: str


@dataclass(frozen=True)
class Matches:
    """Ids of entries that contain the words, newest first.

    `cursor` is the id below which the search goes on; None at the end of the transcript.
    """

    words: str
    ids: Sequence[int]
    cursor: int | None

    def excerpts(self, count: int = MAX_EXCERPTS) -> list[Match]:
        """Return the first matches with their excerpts."""
        return _excerpts(self.words, self.ids[:count])


def find(
    lieutenant: Lieutenant, words: str, *, before: int | None = None, limit: int = MAX_MATCHES
) -> Matches:
    """Find entries that contain these words as they are, newest first, below the id `before`.

    It looks at complete texts, without those that are still written, and at the arguments of tool
    calls. Upper and lower case are the same, on SQLite for ASCII only. A search that takes long
    ends early, with a cursor, maybe without any match. Raises BadInput.
    """
    words = words.strip()
    if not words:
        raise BadInput("q is required", "q")
    if len(words) > MAX_WORDS or not is_storable(words):
        raise BadInput(f"q: must be text of at most {MAX_WORDS} characters", "q")
    rows = Entry.objects.filter(lieutenant=lieutenant).exclude(kind=Entry.Kind.USAGE)
    deadline, step, ids = time.monotonic() + MAX_SECONDS, FIRST_STEP, list[int]()
    while True:
        began = time.monotonic()
        part = rows if before is None else rows.filter(pk__lt=before)
        part = part.order_by("-id")
        end = next(iter(part.values_list("pk", flat=True)[step - 1 : step]), None)
        if end is not None:
            part = part.filter(pk__gte=end)
        ids += _containing(part, words).values_list("pk", flat=True)[: limit + 1 - len(ids)]
        if len(ids) > limit:
            return Matches(words, ids[:limit], ids[limit - 1])
        now = time.monotonic()
        if end is None or now >= deadline:
            return Matches(words, ids, end)
        before = end
        if now - began < _SHORT_SECONDS:
            step *= 2


def _containing(rows: QuerySet[Entry], words: str) -> QuerySet[Entry]:
    """Narrow entries to those with the words in their text or in their call's arguments."""
    # Databases store JSON with escapes, each in its own way.
    forms = {json.dumps(words, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    in_arguments = Q()
    for form in forms:
        in_arguments |= Q(arguments_text__icontains=form)
    in_call = Q(kind=Entry.Kind.TOOL_CALL) & in_arguments
    with_arguments = rows.alias(arguments_text=Cast("data", TextField()))
    return with_arguments.filter(Q(text__icontains=words) | in_call)


def _excerpts(words: str, ids: Sequence[int]) -> list[Match]:
    place = StrIndex(Lower("text"), Lower(Value(words)))
    rows = Entry.objects.filter(pk__in=ids).annotate(place=place)
    start = Greatest(F("place") - _BEFORE, Value(1))
    found = rows.annotate(excerpt=Substr("text", start, _EXCERPT)).defer("text").order_by("-id")
    return [Match(row, _excerpt(row)) for row in found]


def _excerpt(row: Any) -> str:
    """Return the text around the words, or the arguments of the call that has them."""
    if not row.place and row.kind == Entry.Kind.TOOL_CALL:
        arguments = (row.data or {}).get("arguments")
        text = f"{row.tool} {json.dumps(arguments, ensure_ascii=False)}"
    else:
        text = row.excerpt
    start = "… " if row.place > _BEFORE + 1 else ""
    return start + clip(one_line(terminal.plain_text(text)), _EXCERPT)


def messages(
    lieutenant: Lieutenant, *, before: int | None = None
) -> tuple[list[Entry], int | None]:
    """Return the newest messages of a transcript, and the cursor of older ones.

    Their texts are shortened.
    """
    rows = Entry.objects.filter(lieutenant=lieutenant, kind=Entry.Kind.USER)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    found = outputs.shortened(rows.order_by("-id")[: MESSAGES_PAGE + 1], 2 * _EXCERPT)
    more, found = len(found) > MESSAGES_PAGE, found[:MESSAGES_PAGE]
    return found, found[-1].pk if more else None
