"""Queries, bodies and responses: what their declarations accept, and the values they give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from reef_site.common.api.fields import (
    Choice,
    Cursor,
    ListOf,
    NullableText,
    Text,
    WholeNumber,
    problem_of,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, OrderedFields, Query, ResponseBody


class PageQuery(OrderedFields, Query):
    from_ = Cursor(older_name=True)
    cursor = Cursor()
    names_ = ListOf(Text(), most=3, of="names")

    checked_first = ("cursor",)


class NoteBody(Body):
    class_ = Choice(["a", "b"])
    text = NullableText(length=5, default="")


class NoteResponse(ResponseBody):
    id = WholeNumber()
    author = Text(source="owner.name", allow_null=True)
    title = Text()
    length = WholeNumber(allow_null=True)


def query(text: str) -> Any:
    return PageQuery.parse(Request(APIRequestFactory().get(f"/?{text}"), parsers=[JSONParser()]))


def problem(body: object) -> str:
    with pytest.raises(ValidationError) as raised:
        NoteBody.parse_data(body)
    return problem_of(raised.value.detail)


def test_fields_may_have_names_that_are_keywords() -> None:
    assert PageQuery.names() == ("from", "cursor", "names")
    assert query("from=3")["cursor"] == 3
    assert NoteBody.parse_data({"class": "b"}) == {"class": "b", "text": ""}
    assert problem({"class": "c"}) == "class: must be one of a, b"


def test_field_that_is_checked_first_wins_over_its_older_name() -> None:
    assert query("from=3&cursor=5")["cursor"] == 5


def test_list_in_a_query_is_repeated_without_empty_values() -> None:
    assert query("names=a&names=&names=b")["names"] == ["a", "b"]
    assert query("names=")["names"] is None
    with pytest.raises(ValidationError):
        query("names=a&names=b&names=c&names=d")


def test_null_counts_as_an_empty_text() -> None:
    assert NoteBody.parse_data({"class": "a", "text": None})["text"] == ""
    assert problem({"class": "a", "text": 5}) == "text: must be a string"
    assert problem({"class": "a", "text": "long text"}) == "text: at most 5 characters"


def test_object_reader_follows_sources_and_makes_empty_nullable_texts_null() -> None:
    read = object_reader(NoteResponse, "length", blank_as_null=True)
    row = SimpleNamespace(id=7, owner=SimpleNamespace(name=""), title="")
    assert read(row) == {"id": 7, "author": None, "title": "", "length": None}
    assert list(read(row)) == ["id", "author", "title", "length"]
    assert object_reader(NoteResponse, "length")(row)["author"] == ""
