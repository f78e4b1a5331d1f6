"""Calls of tools on the page: changes as diffs, files and commands as code."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from lieutenants.transcript import diffs
from lieutenants.transcript.tool_views import Budget, output_html, parts_of
from tests.lieutenants.rows import Told, block, enlist, page


def shown(arguments: Any, budget: int = 100_000) -> dict[str, str]:
    return {part.name: part.html for part in parts_of(arguments, Budget(budget))}


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "a.py", "oldText": "one\ntwo\n", "newText": "one\n2 <b>\n"},
        {"path": "a.py", "edits": [{"oldText": "one\ntwo\n", "newText": "one\n2 <b>\n"}]},
        {"file_path": "a.py", "old_string": "one\ntwo", "new_string": "one\n2 <b>"},
    ],
)
def test_an_edit_is_a_diff_with_marks(arguments: Any) -> None:
    parts = parts_of(arguments, Budget(0))
    assert [(part.html, part.is_diff) for part in parts] == [
        ("a.py", False),
        ("  one\n<del>- two</del>\n<ins>+ 2 &lt;b&gt;</ins>\n", True),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"edits": [{"oldText": "a", "newText": "b"}, {"oldText": 1}]},
        {"edits": "text"},
        {"edits": [None]},
        {"oldText": "a"},
        {"oldText": "x" * 50_000, "newText": "y" * 50_000},
        ["<b>"],
        "<b>",
        7,
        {"": None},
    ],
)
def test_arguments_of_other_shapes_are_shown_whole_and_escaped(arguments: Any) -> None:
    parts = parts_of(arguments, Budget(0))
    assert not any(part.is_diff for part in parts)
    assert "<b>" not in "".join(part.html for part in parts)
    assert len(parts) == (len(arguments) if isinstance(arguments, dict) else 1)


def test_lines_around_a_diff_are_shown_whole() -> None:
    text = "--- a\n+++ b\n@@ -1,2 +1,2 @@\n kept\n-old\n+new\n\\ No newline\nDone: 1 file\n\nend"
    assert diffs.unified(text)[3:] == [
        *((" ", "kept"), ("-", "old"), ("+", "new"), (" ", "\\ No newline")),
        *((" ", "Done: 1 file"), (" ", ""), (" ", "end")),
    ]


def test_files_and_commands_are_coloured_within_the_budget() -> None:
    written = {"path": "src/x.py", "content": "def f(): pass"}
    assert '<span class="s-k">def </span>' in shown(written)["content"]
    assert "span" not in shown(written, budget=5)["content"]
    assert "span" not in shown({**written, "path": "x.unknown"})["content"]
    assert '<span class="s-' in shown({"command": "if true; then echo 'x'; fi"})["command"]
    html, _ = output_html("read", {"path": "x.py"}, "import os", Budget(100), max_chars=99)
    assert html.startswith('<span class="s-k">import')
    html, is_diff = output_html("bash", {}, "diff --git a b\n-<x>", Budget(0), max_chars=99)
    assert (html, is_diff) == (
        '<span class="d-at">diff --git a b</span>\n<del>- &lt;x&gt;</del>\n',
        True,
    )


def test_unchanged_lines_far_away_are_counted() -> None:
    old = "\n".join(map(str, range(100)))
    lines = diffs.compare(old, old.replace("\n50\n", "\nfifty\n"))
    assert [mark for mark, _ in lines] == [*"@   -+   @"]
    assert lines[0] == ("@", "… 47 unchanged lines …")


@pytest.mark.parametrize("middle", ["a\nb\n" * 3_000, "\n".join(map(str, range(9_000)))])
def test_long_changes_are_compared_in_little_time(middle: str) -> None:
    began = time.process_time()
    lines = diffs.compare(f"x\n{middle}\nz", f"x\n{middle[::-1]}\nz")
    assert {mark for mark, _ in lines} <= {*" -+@"}
    assert time.process_time() - began < 3


@pytest.mark.django_db
def test_names_and_paths_of_tools_are_escaped_and_not_reordered(operator: Client) -> None:
    told = Told(enlist())
    arguments = {"path": "<i>\u202egnp.py", "oldText": "<script>", "newText": "\u202ex"}
    call = told.entry(
        "tool_call", tool="<u>edit\u202e", call_id="c1", data={"arguments": arguments}
    )
    told.entry(
        "tool_result", "\x1b]0;<b>\x07<s>", tool="edit", call_id="c1", data={"durationMs": 192_400}
    )
    html = block(page(operator, "/lieutenants/ada/"), call)
    for tag in ("<i>", "<script>", "<u>", "<s>", "\u202e", "\x1b"):
        assert tag not in html
    assert "<ins>+ [U+202E]x</ins>" in html
    assert "3 min 12 s" in html
