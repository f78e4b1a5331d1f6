"""Messages and their outcomes: SQL for what `messages.serializers` and `outcomes` read."""

from __future__ import annotations

from typing import Any

import orjson
from django.db import connection

from lieutenants.fast_reads import texts
from lieutenants.fast_reads.lieutenants import PATH, sums_by_key, sums_of
from lieutenants.fast_reads.transcripts import (
    MAX_LOADED,
    images,
    images_by_message,
    readable_any,
)
from lieutenants.messages.outcomes import results_from
from lieutenants.messages.serializers import MessageFacts, with_answer, with_facts
from lieutenants.models import Answer, Entry, Message
from lieutenants.transcript import outputs
from lieutenants.transcript.outputs import Ending
from reef_site.common import json_sql
from reef_site.common.fast_routes import KEY, FastRoute, number, plain
from reef_site.common.json_columns import JsonColumns
from reef_site.common.json_format import dumps
from reef_site.common.json_sql import number_part, part

Json = dict[str, Any]
PAGE_SIZE = 100
_MESSAGES = JsonColumns(Message, without=("text", "idempotency_key"))
_ENTRIES = JsonColumns(Entry, only=("id", "answer", "message"))
_TURNS = JsonColumns(Answer, only=("id", "outcome", "error"))
_LATEST = {"sqlite": "'9999-12-31'", "postgresql": "'infinity'::timestamptz"}


def _all() -> str:
    """Return a page of messages with what belongs to them; null if its cursor is unknown."""
    own = "m.lieutenant_id = (SELECT id FROM mine)"
    last = f"SELECT m.id, m.created_at FROM lieutenants_message m WHERE m.id = {part(2)} AND {own}"
    # The first condition is one for the index.
    behind = (
        f"m.created_at <= coalesce((SELECT created_at FROM last), {_LATEST[connection.vendor]})"
        f" AND ({part(2)} IS NULL OR m.created_at < (SELECT created_at FROM last)"
        " OR m.id < (SELECT id FROM last))"
    )
    newest = (
        f"SELECT m.id, m.created_at FROM lieutenants_message m WHERE {own} AND {behind}"
        f" ORDER BY m.created_at DESC, m.id DESC LIMIT {PAGE_SIZE + 1}"
    )
    page = (
        "SELECT t.id FROM (SELECT s.id, row_number() OVER (ORDER BY s.created_at DESC, s.id DESC)"
        f" AS place FROM ({newest}) s) t"
        f" WHERE t.place <= coalesce({number_part(3)}, {PAGE_SIZE}) + 1"
    )
    text = texts.excerpt("m.text", str(outputs.MAX_SHOWN))
    head = f"WITH mine AS ({readable_any()}), last AS ({last}), page AS ({page})"
    known = f"({part(2)} IS NULL OR EXISTS (SELECT 1 FROM last))"
    return f"({head}, {_turns()} SELECT CASE WHEN {known} AND {_FOUND} THEN {_listed(text)} END)"


def _one() -> str:
    """Return a message with what belongs to it, and the end of its answer; null if too long."""
    own = f"m.id = {part(2)} AND m.lieutenant_id = (SELECT id FROM mine)"
    page = f"SELECT m.id FROM lieutenants_message m WHERE {own}"
    text = ("length(m.text)", f"substr(m.text, 1, {MAX_LOADED})", "NULL")
    head = f"WITH mine AS ({readable_any()}), page AS ({page})"
    part_of_turn = (
        "SELECT b.answer_id AS id, b.id AS after_id,"
        " (SELECT min(e.id) FROM later e WHERE e.id > b.id) AS before_id"
        " FROM begun b ORDER BY b.id DESC LIMIT 1"
    )
    pieces = texts.pieces_of_turns(part_of_turn, str(MAX_LOADED))
    columns = json_sql.values("t.turn", "t.entry_id", "t.size", "t.text")
    answer = f"SELECT {columns} AS json FROM ({pieces}) t ORDER BY t.entry_id, t.chunk_id"
    found = f"{_FOUND} AND EXISTS (SELECT 1 FROM page)"
    return f"({head}, {_turns()} SELECT CASE WHEN {found} THEN {_listed(text, answer)} END)"


_FOUND = "EXISTS (SELECT 1 FROM mine)"


def _queue() -> str:
    """Return the ids of the messages that `MessageQuerySet.positions` returns, in their order."""
    return (
        f"SELECT {json_sql.values('m.id')} AS json FROM lieutenants_message m"
        " WHERE m.lieutenant_id = (SELECT id FROM mine)"
        " AND m.state = 'queued' AND m.evidence IS NULL ORDER BY m.place, m.created_at, m.id"
    )


def _turns() -> str:
    """Return `begun`, entries of the page's messages, and `later`: see `outcomes.results_of`."""
    entries = f"e.kind = 'user' AND NOT ({texts.has_key('e.data', 'command')})"
    begun = (
        "SELECT e.id, e.answer_id, e.message_id FROM page"
        f" JOIN lieutenants_entry e ON e.message_id = page.id WHERE {entries}"
    )
    later = (
        "SELECT e.id, e.answer_id FROM lieutenants_entry e"
        " JOIN lieutenants_message m ON m.id = e.message_id AND NOT (m.mode = 'steer')"
        f" WHERE e.answer_id IN (SELECT answer_id FROM begun) AND {entries}"
    )
    return f"begun AS ({begun}), later AS ({later})"


def _listed(text: tuple[str, str, str], answer: str = "") -> str:
    """Return an expression for all rows of a page."""
    order = "ORDER BY m.created_at DESC, m.id DESC"
    ids = "SELECT id FROM page"
    rows = (
        f"SELECT {_MESSAGES.select('m', *text)} AS json FROM page"
        f" JOIN lieutenants_message m ON m.id = page.id {order}",
        f"SELECT {_ENTRIES.select('b')} AS json FROM begun b ORDER BY b.id",
        f"SELECT {_TURNS.select('a')} AS json FROM lieutenants_answer a"
        " WHERE a.id IN (SELECT answer_id FROM begun)",
        f"SELECT {json_sql.values('e.answer_id', 'e.id')} AS json FROM later e ORDER BY e.id",
        f"SELECT {sums_of('u.message_id')} AS json FROM lieutenants_usage u"
        f" WHERE u.message_id IN ({ids}) GROUP BY u.message_id",
        images(ids),
        _queue(),
    )
    more = (answer,) if answer else ()
    return json_sql.together(*map(json_sql.list_of, (*rows, *more)))


def _facts_of(found: list[list[Any]]) -> tuple[list[Message], MessageFacts]:
    """Return messages and what belongs to them, from the rows of `_listed`."""
    rows, begun, turns, later, sums, pictures, queue = found[:7]
    messages = []
    for each in rows:
        message, text = _MESSAGES.read(each), outputs.excerpt(*each[_MESSAGES.count :])
        message.text, message.left_out = text.text, text.left_out
        messages.append(message)
    parts: dict[int, list[int]] = {}
    for turn, entry_id in later:
        parts.setdefault(turn, []).append(entry_id)
    answers = {turn.pk: turn for turn in map(_TURNS.read, turns)}
    results = results_from(messages, map(_ENTRIES.read, begun), answers, parts)
    positions = {pk: number for number, (pk,) in enumerate(queue, start=1)}
    facts = MessageFacts(
        results, sums_by_key(sums), images_by_message(pictures), positions=positions
    )
    return messages, facts


def _finish_all(found: bytes, key: str) -> bytes:
    messages, facts = _facts_of(orjson.loads(found))
    limit = orjson.loads(key)[3] or PAGE_SIZE
    page = [with_facts(each, facts) for each in messages[:limit]]
    following = page[-1]["id"] if len(messages) > limit else None
    return dumps({"messages": page, "count": len(page), "next": following})


def _finish_one(found: bytes, _: str) -> bytes | None:
    rows = orjson.loads(found)
    (message,), facts = _facts_of(rows)
    size, pieces = rows[0][0][_MESSAGES.count], rows[7]
    output = outputs.ending_of([(entry_id, part, text) for _, entry_id, part, text in pieces])
    if size > MAX_LOADED or not output.is_whole:
        return None
    has_begun = facts.results[message.pk].answer_id is not None
    return dumps(with_answer(message, facts, output if has_begun else Ending()))


ROUTES = {
    "lieutenants.messages": FastRoute(
        rf"{PATH}/{KEY}/messages/?",
        _all,
        finish=_finish_all,
        large=True,
        query={"cursor": plain, "limit": number(1, PAGE_SIZE)},
        by_caller=True,
    ),
    "lieutenants.message": FastRoute(
        rf"{PATH}/{KEY}/messages/{KEY}/?",
        _one,
        finish=_finish_one,
        long_texts=True,
        by_caller=True,
    ),
}
