"""Readers made from the field list of a response: fields, their order, and what is absent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reef_site.common.api.fields import JsonValue, Text, Timestamp
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody


class ThingResponse(ResponseBody):
    vm = Text(source="vm_id")
    owner = Text(source="owner.name")
    note = JsonValue(required=False, allow_null=True)
    made = Timestamp(source="made_at")
    ended = Timestamp(source="ended_at", allow_null=True)
    state = Text()
    facts = JsonValue("object", required=False)


PRESENT = {"note": "has_note", "facts": "facts"}


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
