"""Journal bytes to records, messages to commands; without process or database."""

from __future__ import annotations

import json

import pytest

from lieutenants.agents.base import Outgoing
from lieutenants.agents.pi import decode, rpc
from lieutenants.supervision import journal
from reef_site.common.text import is_storable


def test_complete_lines_are_read_and_a_torn_one_waits() -> None:
    data = b'["t",0,"one"]\n["t",0,"two"]\n["t",0,"thr'
    records, size = journal.split(data)
    assert records == [["t", 0, "one"], ["t", 0, "two"]]
    assert data[size:] == b'["t",0,"thr'


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_splitting_anywhere_gives_the_same_records(cut: int) -> None:
    data = '["t",0,"ä€😀"]\n["e",1,{"a":"\u2028"}]\n["s",2,"x"]\n'.encode()
    first, size = journal.split(data[:cut])
    second, rest = journal.split(data[size:])
    assert size + rest == len(data)
    assert first + second == journal.split(data)[0]
    assert first + second == [["t", 0, "ä€😀"], ["e", 1, {"a": "\u2028"}], ["s", 2, "x"]]


@pytest.mark.parametrize("data", [b"", b"no newline", b'["t",0,"x"]'])
def test_incomplete_input_consumes_nothing(data: bytes) -> None:
    assert journal.split(data) == ([], 0)


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON at all",
        b"\xff\xfe\x00",
        b'["t",0,"cut',
        b'{"an":"object"}',
        b"[]",
        b"[1,2]",
        b"null",
        b"[" * 100_000,
        b'["e",0,"\\u0000",' + b"[" * 100_000,
        b'["e",0,"\\u0000",NaN]',
        b'["e",0,"\\u0000",1e999]',
        b'["e",0,NaN]',
    ],
)
def test_unreadable_input_is_returned_as_garbage(line: bytes) -> None:
    records, size = journal.split(line + b'\n["s",1,"next"]\n')
    assert size == len(line) + 1 + len(b'["s",1,"next"]\n')
    assert records[0][0] == "g"
    assert len(records[0][2]) <= 500
    assert is_storable(records[0][2])
    assert records[1] == ["s", 1, "next"]


def test_unstorable_text_is_replaced() -> None:
    line = '["t",0,"a\\u0000b\\ud800c\\udfffd\\ud83d\\ude00"]\n'
    assert journal.split(line.encode())[0] == [["t", 0, "a�b�c�d😀"]]
    event = '["e",1,{"k\\u0000":["\\udc00"],"n":1}]\n'
    assert journal.split(event.encode())[0] == [["e", 1, {"k�": ["�"], "n": 1}]]


def test_surrogate_halves_joined_later_stay_halves() -> None:
    """Two deltas have one half of a pair each: neither can be stored, nor affects the other."""
    (first, second), _ = journal.split(b'["t",0,"x\\ud83d"]\n["t",0,"\\ude00y"]\n')
    assert first[2] + second[2] == "x��y"


@pytest.mark.parametrize("text", ["", "plain", "ä€😀", "\u2028\x07\x7f", "\ufffd"])
def test_text_is_storable(text: str) -> None:
    assert is_storable(text)


@pytest.mark.parametrize("text", ["\0", "a\ud800", "\udfffb"])
def test_text_is_not_storable(text: str) -> None:
    assert not is_storable(text)


def test_message_is_a_prompt_with_a_streaming_behaviour() -> None:
    assert rpc.prompt("id1", "hi", steer=False) == Outgoing(
        "id1",
        {"id": "id1", "type": "prompt", "message": "hi", "streamingBehavior": "followUp"},
    )
    assert rpc.prompt("id1", "hi", steer=True).line["streamingBehavior"] == "steer"


def test_dialog_reply_has_the_dialogs_id() -> None:
    assert rpc.dismiss("d-1").line == {
        "type": "extension_ui_response",
        "id": "d-1",
        "cancelled": True,
    }


@pytest.mark.parametrize(
    ("content", "text", "images"),
    [
        ("plain", "plain", 0),
        (
            [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}],
            "ab",
            1,
        ),
        ([{"text": 5}, None, "x", {"type": "image"}], "", 1),
        (None, "", 0),
        ({"text": "x"}, "", 0),
    ],
)
def test_content_of_any_shape_is_read(content: object, text: str, images: int) -> None:
    assert decode.text_of(content) == text
    assert decode.count_images(content) == images


def test_cleaned_value_is_valid_json() -> None:
    dirty = {"a\0": [1.5, True, None, "\ud800"]}
    assert json.loads(json.dumps(journal.clean(dirty))) == {"a�": [1.5, True, None, "�"]}
