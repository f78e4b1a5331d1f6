"""Sends writes to Django and to the fast path of the edge, and compares responses and rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.db import transaction
from django.test import Client

from bootloader.models import BootReport
from reef_site.audit.models import Record
from reef_site.common.asgi import JSONResponse
from reef_site.common.eventlog.models import Event
from registry import bearer_tokens, fast_path, fast_writes, heartbeats
from registry.models import VM
from vmtree.models import Node, Revision, Trait

KINDS: Sequence[Any] = (VM, Node, Trait, Revision, Event, Record, BootReport)
TIMES = ("registeredAt", "lastSeen", "createdAt", "updatedAt")
Rows = dict[str, list[Any]]


class Case(NamedTuple):
    """A request; its body is JSON, or bytes as they are."""

    token: str
    method: str
    path: str
    body: Any

    @property
    def raw(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body, ensure_ascii=False).encode()


class Answer(NamedTuple):
    """The compared parts of a response: status, body without times, and headers."""

    status: int
    body: Any
    headers: dict[str, str | None]


def parse(case: Case, tokens: dict[str, str]) -> Any:
    """Return what the fast path makes of the request; None if it passes it on unread."""
    scope = {"method": case.method, "raw_path": case.path.encode()}
    route = fast_path.FastPath.route(scope)
    if route is None:
        return None
    # Unlike a running reef, a test may have another root token than the one before.
    bearer_tokens.forget_root_token()
    token = tokens.get(case.token, case.token)
    headers = {b"authorization": f"Bearer {token}".encode(), b"host": b"testserver"}
    return fast_path.parse(route, headers, case.raw, "127.0.0.1")


def send_fast(case: Case, tokens: dict[str, str]) -> Answer | None:
    """Return the answer of the fast path; None if it passes the request on."""
    parsed = parse(case, tokens)
    response = parsed
    if parsed is not None and not isinstance(parsed, JSONResponse):
        (response,) = fast_writes.write(lambda _: None, [parsed])
    if response is None:
        return None
    sent = {name.decode(): value.decode() for name, value in response.headers}
    return _answer(response.status, response.body, sent)


def send_django(case: Case, tokens: dict[str, str]) -> Answer:
    token = tokens.get(case.token, case.token)
    client = Client(headers={"authorization": f"Bearer {token}"})
    sent = client.generic(case.method, case.path, case.raw, content_type="application/json")
    headers = {name.lower(): value for name, value in sent.headers.items()}
    return _answer(sent.status_code, sent.content, headers)


def _answer(status: int, body: bytes, headers: dict[str, str]) -> Answer:
    found = json.loads(body)
    shown = {
        name: type(value).__name__ if name in TIMES else value for name, value in found.items()
    }
    compared = ("etag", "content-type", "www-authenticate")
    # As text: the order of keys is part of the contract.
    return Answer(status, json.dumps(shown), {name: headers.get(name) for name in compared})


def rows() -> Rows:
    """Return all rows without keys and times, in their order."""
    return {kind.__name__: [_values(row) for row in kind.objects.order_by("pk")] for kind in KINDS}


def _values(row: Any) -> dict[str, Any]:
    values = {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
    if isinstance(row.pk, int):
        del values["id"]
    for link in ("node", "parent"):
        if f"{link}_id" in values:
            values[f"{link}_id"] = str(getattr(row, link))
    return {
        name: "a time" if hasattr(value, "timestamp") else value for name, value in values.items()
    }


def tried(act: Callable[[], Any]) -> tuple[Any, Rows]:
    """Return the result, and the rows after it; then undo everything."""
    with transaction.atomic():
        result = act()
        after = rows()
        transaction.set_rollback(True)
    heartbeats.fleet.forget()
    return result, after


def check_plain(cases: dict[str, Case], tokens: dict[str, str]) -> None:
    """Check that the fast path answers these as Django does, with the same rows."""
    for name, case in cases.items():
        fast, fast_rows = tried(lambda: send_fast(case, tokens))  # noqa: B023
        django, django_rows = tried(lambda: send_django(case, tokens))  # noqa: B023
        assert fast is not None, name
        assert fast == django, name
        for kind, found in fast_rows.items():
            assert found == django_rows[kind], (name, kind)


def check_passed_on(cases: dict[str, Case], tokens: dict[str, str]) -> None:
    """Check that the fast path passes these on, and leaves no trace."""
    before = rows()
    for name, case in cases.items():
        assert send_fast(case, tokens) is None, name
        assert rows() == before, name
