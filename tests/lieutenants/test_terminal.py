"""Output of tools and models as the page shows it."""

from __future__ import annotations

import time

import pytest
from django.test import Client

from lieutenants.transcript.terminal import plain_text
from tests.lieutenants.rows import Told, enlist, page

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[31mFAILED\x1b[0m tests", "FAILED tests"),
        ("\x1b]0;title\x07done", "done"),
        ("10 %\r50 %\r100 %\nnext", "100 %\nnext"),
        ("a\r\nb", "a\nb"),
        ("wide line\rhm", "hmde line"),
        ("abcdef\r123\r\rx\r", "x23def"),
        ("evil\u202eexe.live", "evil[U+202E]exe.live"),
    ],
)
def test_output_of_tools_is_readable(operator: Client, printed: str, shown: str) -> None:
    told = Told(enlist())
    told.call("c1", command="run")
    told.result("c1", printed)
    html = page(operator, "/lieutenants/ada/")
    assert f"data-output>{shown}</pre>" in html


def test_progress_of_megabytes_is_read_in_linear_time() -> None:
    wide = "w" * 1_000_000
    began = time.process_time()
    assert plain_text(wide + "\rx" * 500_000) == "x" + wide[1:]
    assert time.process_time() - began < 20


def test_nothing_in_a_command_or_answer_is_reordered(operator: Client) -> None:
    told = Told(enlist())
    told.call("c1", command="open evil\u202eexe.live")
    told.entry("text", "Run `evil\u202eexe.live` now")
    html = page(operator, "/lieutenants/ada/")
    assert "\u202e" not in html
    assert html.count("evil[U+202E]exe.live") == 3
