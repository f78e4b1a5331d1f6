"""Text helpers: what can be stored, what fits, which numbers are read."""

from __future__ import annotations

import pytest

from reef_site.common import text
from reef_site.common.batches import batched


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("plain ü 😀", "plain ü 😀"),
        ("a\0b", "a\ufffdb"),
        ("half \ud83d", "half \ufffd"),
        ("whole \ud83d\ude00", "whole 😀"),
    ],
)
def test_text_is_made_storable(given: str, stored: str) -> None:
    assert text.to_storable(given) == stored
    assert text.is_storable(stored)
    assert text.is_storable(given) is (given == stored)


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["text"]])
def test_only_text_is_storable(value: object) -> None:
    assert not text.is_storable(value)


def test_surrogates_are_found_and_replaced() -> None:
    value = {"beats": [{"id": "good"}, {"id": "\udc00"}]}
    assert text.find_surrogate(value) == "beats[1].id"
    assert text.replace_surrogates(value) == {"beats": [{"id": "good"}, {"id": "?"}]}
    assert text.find_surrogate({"id": "good"}) == ""


def test_clipped_text_ends_with_an_ellipsis() -> None:
    assert text.clip("exactly", 7) == "exactly"
    assert text.clip("exactly8", 7) == "exactl…"


def test_control_characters_are_escaped() -> None:
    assert text.escape_unprintable("a\x1b\u202eb", 100) == r"a\x1b\u202eb"
    assert len(text.escape_unprintable("\x1b" * 100, 100)) == 100


@pytest.mark.parametrize(
    ("given", "number"),
    [("0", 0), ("00042", 42), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("", None)],
)
def test_numbers_of_eighteen_digits_are_read(given: str, number: int | None) -> None:
    assert text.parse_number(given) == number


@pytest.mark.parametrize("given", ["-1", "+1", "1.0", " 1", "²", "١"])
def test_other_digits_are_not_numbers(given: str) -> None:
    assert text.parse_number(given) is None


def test_batches_keep_order_and_have_at_most_their_size() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((0, "0 s"), (0.04, "0 s"), (0.45, "0.4 s"), (3, "3 s"), (3.25, "3.2 s"), (59.9, "59 s")),
        *((60, "1 min"), (192, "3 min 12 s"), (3600, "1 h"), (3660, "1 h 1 min")),
        *((90_000, "1 d 1 h"), (-5, "0 s")),
    ],
)
def test_durations_have_two_units(seconds: float, shown: str) -> None:
    assert text.format_duration(seconds) == shown
