"""Requests that no client should send: for every call of the schema, each is refused as declared.

`test_conformance` varies the values of fields; here bodies, queries and headers are broken.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.test import Client

from tests.wire.declared import SCHEMA, STREAM
from tests.wire.populated import Populated, reef, undone

pytestmark = pytest.mark.django_db
__all__ = ["reef"]

METHODS = ("get", "post", "put", "patch", "delete")
JSON = "application/json"
CLIENT = Client(raise_request_exception=False)
HUGE = "9" * 5000
# Values of query parameters. Each is sent alone, and all of one name together.
LONG = "9" * 400
TEXTS = ["", " ", "\0", "\x1b[0m", LONG, "-1", "1e999", "NaN", "true", "'\"%_\\", "x" * 400, "é"]
BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "no JSON": b"{",
    "two values": b"{}{}",
    "not UTF-8": b'{"name": "\xff"}',
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "NUL": b"\0",
    "null": b"null",
    "true": b"true",
    "number": b"7",
    "huge number": HUGE.encode(),
    "infinite": b"1e999",
    "text": b'"text"',
    "list": b"[]",
    "list of objects": b"[{}]",
    "deep": b"[" * 100_000,
    "deep and whole": b'{"name":' * 5_000 + b"1" + b"}" * 5_000,
    "form": b"name=x&name=y",
    "unknown name": b'{"zzzz": 1}',
    "empty name": b'{"": 1}',
    "surrogate in a name": b'{"\\ud800": 1}',
}
# JSON texts that take the place of a field's value.
VALUES = [
    *("null", "true", "[]", "{}", '""', '" "', "-1", "0.5", "1e999", "NaN", "-0", HUGE, f"-{HUGE}"),
    *(r'"\ud800"', r'"a\u0000b"', r'"\u202e"', '["\\ud800"]', '{"\\u0000": "\\u0000"}', "[null]"),
    *(f'"{"x" * 300}"', f'"{"x" * 70_000}"', "[[[[]]]]", "9223372036854775808", "[1, 1, 1]"),
]
TYPES = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x" * 300]
CREDENTIALS = ["", "Bearer", "Bearer nope", "Basic eDp5", "Bearer \xff", "Bearer " + "x" * 9000]


class Operation:
    """One call of the schema, with valid values for its parts."""

    def __init__(self, path: str, method: str, declared: dict[str, Any]) -> None:
        self.path, self.method, self.declared = path, method, declared
        parameters = declared.get("parameters", [])
        self.query = [each["name"] for each in parameters if each["in"] == "query"]
        content = declared.get("requestBody", {}).get("content", {}).get(JSON, {})
        examples = list(content.get("examples", {}).values())
        self.body: dict[str, Any] = examples[0]["value"] if examples else {}
        self.fields = list(_resolved(content.get("schema", {})).get("properties", {}))

    def url(self, reef: Populated) -> str:
        path = self.path
        for each in self.declared.get("parameters", []):
            if each["in"] == "path":
                words = each["schema"].get("enum", ["x"])
                values = reef.values_for(self.path, each["name"]) or words
                path = path.replace("{" + each["name"] + "}", quote(str(values[0]), safe=""))
        return path

    def check(self, response: Any, *more: str) -> None:
        """Fail unless the operation declares this response, or has one of `more` statuses."""
        content = getattr(response, "content", b"")
        shown = f"{response.status_code} {content[:300]!r}"
        assert response.status_code < 500, shown
        responses = self.declared["responses"] | {key: {} for key in more}
        declared = responses.get(str(response.status_code))
        assert declared is not None, f"undeclared: {shown}"
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        contents = declared.get("content", {})
        if contents and STREAM not in contents:
            assert kind in contents, f"{kind}: {shown}"
        if kind == JSON and response.status_code >= 400:
            assert list(response.json()) == ["error"], shown
            assert len(content) < 2000, shown


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = SCHEMA["components"]["schemas"][name] if name else schema
    return found


def operations(*, with_body: bool = False) -> list[Any]:
    return [
        pytest.param(Operation(path, method, declared), id=f"{method} {path}")
        for path, methods in SCHEMA["paths"].items()
        for method, declared in methods.items()
        if method in METHODS and ("requestBody" in declared or not with_body)
    ]


def send(operation: Operation, reef: Populated, url: str = "", *more: str, **request: Any) -> None:
    request = {"data": b"", "content_type": JSON, "headers": reef.callers["root"], **request}
    with undone():
        response = CLIENT.generic(operation.method.upper(), url or operation.url(reef), **request)
    operation.check(response, *more)


@pytest.mark.parametrize("operation", operations())
def test_examples(operation: Operation, reef: Populated) -> None:
    send(operation, reef, data=json.dumps(operation.body).encode())


@pytest.mark.parametrize("operation", operations(with_body=True))
def test_broken_bodies(operation: Operation, reef: Populated) -> None:
    for body in BODIES.values():
        send(operation, reef, data=body)
    for kind in TYPES:
        send(operation, reef, data=b'{"zzzz": 1}', content_type=kind)


@pytest.mark.parametrize("operation", operations(with_body=True))
def test_broken_values_of_fields(operation: Operation, reef: Populated) -> None:
    """Each field gets every third value."""
    for number, field in enumerate(operation.fields):
        others = {name: value for name, value in operation.body.items() if name != field}
        head = json.dumps(others)[:-1] + (", " if others else "")
        for value in VALUES[number % 3 :: 3]:
            send(operation, reef, data=f'{head}"{field}": {value}}}'.encode())
        twice = f'{head}"{field}": 1, "{field}": {{"a": [null]}}}}'
        send(operation, reef, data=twice.encode())


@pytest.mark.parametrize("operation", operations())
def test_broken_queries(operation: Operation, reef: Populated) -> None:
    url = operation.url(reef)
    body = json.dumps(operation.body).encode()
    for name in operation.query:
        for text in TEXTS:
            send(operation, reef, f"{url}?{urlencode({name: text})}", data=body)
        several = urlencode([(name, text) for text in TEXTS[:8]])
        send(operation, reef, f"{url}?{several}", data=body)
        send(operation, reef, f"{url}?{name}=%ff%fe&{name}=%ed%a0%80&{name}", data=body)
    for query in ("zzzz=1", "=", "&&", "%00=%00", "%ff=1", "a[]=1&a[b]=2", "x" * 3000):
        send(operation, reef, f"{url}?{query}", data=body)


@pytest.mark.parametrize("operation", operations())
def test_broken_paths(operation: Operation, reef: Populated) -> None:
    names = [each["name"] for each in operation.declared.get("parameters", [])]
    places = [name for name in names if "{" + name + "}" in operation.path]
    for place in places:
        for value in ("%00", "%ff", "%ed%a0%80", "%2f", "..", "%2e%2e%2f", "é", " ", LONG, "%25"):
            path = operation.path.replace("{" + place + "}", quote(value, safe="%"))
            other = Operation(path, operation.method, operation.declared)
            # It may be the path of another call, which has other methods.
            send(operation, reef, other.url(reef), "405")


@pytest.mark.parametrize("operation", operations())
def test_wrong_credentials(operation: Operation, reef: Populated) -> None:
    for value in CREDENTIALS:
        with undone():
            response = CLIENT.generic(
                operation.method.upper(),
                operation.url(reef),
                b"{",
                content_type=JSON,
                headers={"authorization": value} if value else {},
            )
        # A call without `security` is open to everybody.
        is_open = "security" not in operation.declared
        assert is_open or response.status_code == 401, response.content
        operation.check(response)


@pytest.mark.parametrize("path", SCHEMA["paths"])
def test_unknown_methods(path: str, reef: Populated) -> None:
    methods = SCHEMA["paths"][path]
    url = Operation(path, "get", next(iter(methods.values()))).url(reef)
    known = {method.upper() for method in methods}
    for method in {*map(str.upper, METHODS), "TRACE", "QUERY", "BREW"} - known:
        with undone():
            response = CLIENT.generic(
                method, url, b"{}", content_type=JSON, headers=reef.callers["root"]
            )
        assert (response.status_code, response.json()) == (405, {"error": "method not allowed"})
