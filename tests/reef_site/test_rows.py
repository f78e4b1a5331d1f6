"""Readers made from the field list of a response: fields, their order, and what is absent."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from reef_site.common.api.fields import JsonValue, Text, Timestamp
from reef_site.common.api.rows import PositionalReader, object_reader
from reef_site.common.api.serializers import ResponseBody


class ThingResponse(ResponseBody):
    vm = Text(source="vm_id")
    owner = Text(source="owner.name")
    note = JsonValue(required=False, allow_null=True)
    made = Timestamp(source="made_at")
    ended = Timestamp(source="ended_at", allow_null=True)
    state = Text()
    facts = JsonValue("object", required=False)


class RowResponse(ThingResponse):
    owner = Text(source="owner_name")


PRESENT = {"note": "has_note", "facts": "facts"}
COLUMNS = ["vm_id", "owner_name", "note", "made_at", "ended_at", "facts", "has_note"]


def thing(**fields: Any) -> SimpleNamespace:
    usual = {"vm_id": "vm-1", "owner": SimpleNamespace(name="ada"), "made_at": 1, "ended_at": None}
    return SimpleNamespace(**{**usual, "note": None, "has_note": False, "facts": {}, **fields})


def test_object_has_the_fields_in_their_order() -> None:
    read = object_reader(ThingResponse, given=["state"], present=PRESENT)
    whole = read(thing(note=[1], has_note=True, facts={"a": 1}), "up")
    assert list(whole.items()) == [
        ("vm", "vm-1"),
        ("owner", "ada"),
        ("note", [1]),
        ("made", 1),
        ("ended", None),
        ("state", "up"),
        ("facts", {"a": 1}),
    ]


def test_optional_fields_are_absent() -> None:
    read = object_reader(ThingResponse, given=["state"], present=PRESENT)
    assert list(read(thing(), "up")) == ["vm", "owner", "made", "ended", "state"]
    assert read(thing(has_note=True), "up")["note"] is None


def test_missing_attribute_is_an_error() -> None:
    read = object_reader(ThingResponse)
    with pytest.raises(AttributeError, match="state"):
        read(thing())


def test_row_is_parsed_by_its_columns() -> None:
    reader = PositionalReader(RowResponse, "t", given=["state"], present=PRESENT)
    assert reader.columns == [f"t.{name}" for name in COLUMNS]

    def read(*row: Any) -> dict[str, Any]:
        return reader.read(row, json.loads, lambda value: f"<{value}>", "up")

    rest = {"vm": "vm-1", "owner": "ada", "made": "<1>", "ended": "<2>", "state": "up"}
    # Further columns of the query do not matter.
    row = read("vm-1", "ada", "[1]", 1, 2, '{"a":1}', True, "more")
    assert row == {**rest, "note": [1], "facts": {"a": 1}}
    assert list(row) == list(ThingResponse().fields)
    assert read("vm-1", "ada", None, 1, 2, "{}", 0) == rest
    assert read("vm-1", "ada", None, 1, None, "{}", 1) == {**rest, "note": None, "ended": None}
