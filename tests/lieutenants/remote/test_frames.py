"""Streams of relays, also of those that send what no relay sends."""

from __future__ import annotations

import json
import zlib

import pytest

from lieutenants.supervision.transports.ssh.answers import text_of
from lieutenants.supervision.transports.ssh.follow import MAX_BYTES, MAX_GAPS, Follow
from lieutenants.supervision.transports.ssh.frames import MAX_FRAME_BYTES, Decoder, Frame


def test_frames_are_decoded_across_pieces() -> None:
    text = b'{"n":1,"ok":true}\n' + b'{"r":1,"o":5,"z":3}\nabc'
    stream, decoder = zlib.compress(text), Decoder()
    found = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
    assert found == [Frame({"n": 1, "ok": True}), Frame({"r": 1, "o": 5, "z": 3}, b"abc")]


@pytest.mark.parametrize(
    "line",
    [b"[1]", b'"text"', b"no JSON", b"[" * 100_000, b'{"z":-1}', b'{"z":"4"}', b'{"z":1e99}'],
)
def test_lines_that_are_no_frames_damage_the_stream(line: bytes) -> None:
    with pytest.raises(ValueError, match="the relay sent"):
        Decoder().feed(zlib.compress(line + b"\n"))


def test_a_stream_is_not_inflated_beyond_the_limit() -> None:
    bomb = zlib.compress(b"\0" * (4 * MAX_FRAME_BYTES))
    decoder = Decoder()
    with pytest.raises(ValueError, match="too much"):
        decoder.feed(bomb)
    assert len(decoder._held) <= MAX_FRAME_BYTES + 1


def test_a_journal_with_a_hole_is_refused_and_repeated_bytes_are_dropped() -> None:
    follow = Follow(1, "~/x", 10)
    follow.add(10, b"abc")
    follow.add(11, b"bcd")
    assert follow.read(10, 99) == b"abcd"
    with pytest.raises(ValueError, match="left out"):
        follow.add(15, b"x")
    assert follow.read(10, 99) == b"abcd"


@pytest.mark.parametrize(("start", "end"), [(10, 10), (10, 3), (-1, 5), (10, 1 << 70)])
def test_gaps_with_wrong_offsets_are_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="offsets"):
        Follow(1, "~/x", 10).add_gap(start, end)


def test_gaps_without_an_end_are_refused() -> None:
    follow = Follow(1, "~/x", 0)
    for number in range(MAX_GAPS):
        follow.add_gap(number, number + 1)
    with pytest.raises(ValueError, match="more gaps"):
        follow.add_gap(MAX_GAPS, MAX_GAPS + 1)


def test_more_than_the_window_and_no_journal_are_refused() -> None:
    follow = Follow(1, "~/x", 0)
    with pytest.raises(ValueError, match="more than"):
        follow.add(0, b"x" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="NUL"):
        follow.add(0, b"a\0")


def test_texts_of_a_machine_can_be_stored() -> None:
    text = text_of(json.loads('"a\\u0000b\\ud800"') + "x" * 1000)
    assert text.startswith("a\ufffdb\ufffd")
    assert len(text) == 500
