"""Answers and pages of transcripts: SQL for what the views in `transcript.api` read."""

from __future__ import annotations

from typing import Any

import orjson
from django.db import connection

from lieutenants.fast_reads import texts
from lieutenants.fast_reads.lieutenants import ACTIVE, PATH, answers, caller_reads
from lieutenants.messages.images import ImageFacts
from lieutenants.models import Entry, Lieutenant
from lieutenants.states import Status
from lieutenants.transcript import outputs
from lieutenants.transcript.outputs import Ending
from lieutenants.transcript.serializers import answer_json, with_texts
from reef_site.common import json_sql
from reef_site.common.fast_routes import KEY, FastRoute, number
from reef_site.common.json_columns import JsonColumns
from reef_site.common.json_format import dumps
from reef_site.common.json_sql import number_part, part

Json = dict[str, Any]
# Django answers what is longer.
MAX_LOADED = 100_000
MAX_LOADED_PAGE = 1_000_000
PAGE_SIZE = 200
# Whether a text is blank is looked for at its ends.
_ENDS, _BEGINNING = 40, 1000
_LIEUTENANT = JsonColumns(Lieutenant, only=("id", "name", "status", "task_count"))
_ENTRIES = JsonColumns(Entry, without=("process", "block"))
_LENGTH_OF_JSON = {"sqlite": "length(e.data)", "postgresql": "length(e.data::text)"}

# -- the newest answer -----------------------------------------------------------------------------


def _read() -> str:
    """Return the lieutenant, its answers, and the ends of the running and the newest one."""
    tail, history = number_part(2), number_part(3)
    count = (
        f"CASE WHEN coalesce({tail}, 0) BETWEEN 1 AND {MAX_LOADED} THEN {tail}"
        f" ELSE {MAX_LOADED} END"
    )
    rows = (
        f"SELECT {_LIEUTENANT.select('l')} AS json FROM mine"
        " JOIN lieutenants_lieutenant l ON l.id = mine.id"
    )
    mine = (
        f"SELECT l.id FROM lieutenants_lieutenant l WHERE l.name = {part(1)} AND {ACTIVE}"
        f" AND {caller_reads('l.id')}"
    )
    is_short = f"coalesce({history}, 0) = 0"
    listed = json_sql.together(
        json_sql.list_of(rows),
        json_sql.list_of(answers("mine", _ENDS, f"{is_short}")),
        json_sql.list_of(texts.running("mine", count)),
        json_sql.list_of(_newest(count)),
    )
    return f"(WITH mine AS ({mine}) SELECT CASE WHEN EXISTS (SELECT 1 FROM mine) THEN {listed} END)"


def _newest(count: str) -> str:
    """Return a query for the length, the beginning and the end of the newest finished answer."""
    newest = (
        "SELECT b.id FROM lieutenants_answer b WHERE b.lieutenant_id = mine.id"
        " AND NOT (b.outcome = 'open') AND NOT (b.text = '') ORDER BY b.id DESC LIMIT 1"
    )
    columns = (
        "length(a.text)",
        f"substr(a.text, 1, {_BEGINNING})",
        texts.end_of("a.text", count),
    )
    return (
        f"SELECT {json_sql.values(*columns)} AS json FROM mine"
        f" JOIN lieutenants_answer a ON a.id = ({newest})"
    )


def _finish_read(found: bytes, key: str) -> bytes | None:
    rows, excerpts, running, newest = orjson.loads(found)
    _, _, tail, history = orjson.loads(key)
    row = _LIEUTENANT.read(rows[0])
    shown = _answers(excerpts) if history else _count(excerpts)
    going_on = texts.endings(running).get(row.pk, Ending())
    output = going_on
    if not output.length and row.status != Status.WORKING and newest:
        size, beginning, end = newest[0]
        if not beginning.strip():
            # An earlier one, perhaps.
            return None
        output = Ending(end, size)
    if shown is None or len(output.text) < min(tail or output.length, output.length):
        return None
    facts = answer_json(
        row,
        output,
        shown,
        tail=tail or 0,
        history=history or 0,
        is_running=bool(going_on.length),
    )
    return dumps(facts)


def _answers(rows: list[list[Any]]) -> list[str]:
    found = [each for mine in texts.excerpts(rows).values() for each in mine]
    return [each.text for each in outputs.without_blank(found)]


def _count(rows: list[list[Any]]) -> list[str] | None:
    """Return a text for each answer that is not blank; None if that is not certain."""
    candidates = [(head, tail) for _, size, head, tail in rows if size]
    ends = [(f"{head}{tail or ''}".strip(), tail) for head, tail in candidates]
    ends = ends[-outputs.MAX_ANSWERS :]
    if any(not text and tail is not None for text, tail in ends):
        return None
    return [text for text, _ in ends if text]


# -- a page ----------------------------------------------------------------------------------------


def readable_any(*columns: str) -> str:
    """Return a query for the lieutenant of the key, see `lookup.find_any`, if the caller reads it.

    `columns` are those of the lieutenant `l` beside its id.
    """
    table = f"SELECT {', '.join(['l.id', *columns])} FROM lieutenants_lieutenant l WHERE"
    active = f"l.name = {part(1)} AND {ACTIVE}"
    by_id = (
        f"l.id = {part(1)} AND NOT EXISTS (SELECT 1 FROM lieutenants_lieutenant l WHERE {active})"
    )
    readable = caller_reads("l.id")
    return f"{table} {active} AND {readable} UNION ALL {table} {by_id} AND {readable}"


def _page() -> str:
    """Return revision, entries, texts that are being written, and images; null if too long."""
    after = f"coalesce(nullif({number_part(2)}, 0), {number_part(3)}, 0)"
    own = "e.lieutenant_id = (SELECT id FROM mine)"
    ids = (
        f"SELECT e.id FROM lieutenants_entry e WHERE {own} AND e.id > {after}"
        f" ORDER BY e.id LIMIT {PAGE_SIZE + 1}"
    )
    page = (
        "SELECT t.id FROM (SELECT s.id, row_number() OVER (ORDER BY s.id) AS place"
        f" FROM ({ids}) s) t WHERE t.place <= coalesce({number_part(4)}, {PAGE_SIZE}) + 1"
    )
    shared = json_sql.shared_ids("page")
    entries = f"{shared.table} p JOIN lieutenants_entry e ON e.id = p.id"
    chunks = (
        f"{entries} AND NOT e.final AND e.text = '' JOIN lieutenants_chunk c ON c.entry_id = e.id"
    )
    size = (
        f"(SELECT coalesce(sum(length(e.text) + {_LENGTH_OF_JSON[connection.vendor]}), 0)"
        f" FROM {entries}) + (SELECT coalesce(sum(length(c.text)), 0) FROM {chunks})"
    )
    listed = json_sql.together(
        json_sql.list_of(f"SELECT {_ENTRIES.select('e')} AS json FROM {entries} ORDER BY e.id"),
        json_sql.list_of(
            f"SELECT {json_sql.values('c.entry_id', 'c.text')} AS json FROM {chunks} ORDER BY c.id"
        ),
        json_sql.list_of(
            images(
                f"SELECT e.message_id FROM {entries} WHERE e.kind = 'user'"
                f" AND {texts.has_key('e.data', 'images')}"
            )
        ),
        json_sql.list_of(f"SELECT {json_sql.values('mine.rev')} AS json FROM mine"),
    )
    mine = readable_any("l.rev")
    return (
        f"(WITH mine AS ({mine}), page AS ({page}) SELECT CASE WHEN EXISTS (SELECT 1 FROM mine)"
        f" AND {size} <= {MAX_LOADED_PAGE} THEN {listed} END{shared.source})"
    )


def images(messages: str) -> str:
    """Return a query for the images of messages, see `messages.images.facts_by_message`."""
    columns = json_sql.values("i.message_id", "i.number", "i.media_type", "i.size")
    return (
        f"SELECT {columns} AS json FROM lieutenants_messageimage i"
        f" WHERE i.message_id IN ({messages}) ORDER BY i.message_id, i.number"
    )


def images_by_message(rows: list[list[Any]]) -> dict[str, list[ImageFacts]]:
    """Map messages to their images."""
    found: dict[str, list[ImageFacts]] = {}
    for each in rows:
        found.setdefault(each[0], []).append(ImageFacts(*each))
    return found


def _finish_page(found: bytes, key: str) -> bytes:
    rows, chunks, pictures, ((rev,),) = orjson.loads(found)
    limit = orjson.loads(key)[4] or PAGE_SIZE
    page = [_ENTRIES.read(each) for each in rows[:limit]]
    parts = {entry.pk: "" for entry in page if not entry.final and not entry.text}
    for entry_id, text in chunks:
        if entry_id in parts:
            parts[entry_id] += text
    entries = with_texts(page, parts, images_by_message(pictures))
    last = entries[-1]["id"] if len(rows) > limit else None
    return dumps({"entries": entries, "count": len(entries), "next": last, "rev": rev})


ROUTES = {
    "lieutenants.read": FastRoute(
        rf"{PATH}/{KEY}/read/?",
        _read,
        finish=_finish_read,
        long_texts=True,
        query={"tail": number(), "history": number()},
        by_caller=True,
    ),
    "lieutenants.transcript": FastRoute(
        rf"{PATH}/{KEY}/transcript/?",
        _page,
        finish=_finish_page,
        large=True,
        query={"cursor": number(), "after": number(), "limit": number(1, PAGE_SIZE)},
        by_caller=True,
    ),
}
