"""Output of tools and models as the page shows it."""

from __future__ import annotations

import re
import time

import pytest
from django.test import Client

from lieutenants.transcript.terminal import html, plain_text
from tests.lieutenants.rows import Told, enlist, page

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[31mFAILED\x1b[0m tests", '<span class="t-red">FAILED</span> tests'),
        (
            "\x1b[1;92mok\x1b[22m x\x1b[39m",
            '<span class="t-green t-bold">ok</span><span class="t-green"> x</span>',
        ),
        (
            "\x1b[38;5;196ma\x1b[38;2;0;0;255mb",
            '<span class="t-red">a</span><span class="t-blue">b</span>',
        ),
        # Nothing is hidden by a colour: a background is always the same one.
        ("\x1b[8mhid\x1b[0m\x1b[31;41mden", 'hid<span class="t-red t-block">den</span>'),
        ("\x1b[999999999999mx\x1b[31;?my\x1b[<3mz", "xyz"),
        ("one\ntwo\n\x1b[2A\x1b[2Kdone\n", "done\ntwo\n"),
        ("12 %\x1b[K\x1b[4D34 %\b!", "34 !"),
        ("old\x1b[2J\x1b[Hnew", "old\nnew"),
        ("\x1b[9999999Gx\x1b[9999999Ay", f"{' ' * 239}xy"),
        (
            "\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x1b\\ \x1b]8;;https://evil.example\x07me",
            "click me",
        ),
        ("\x1b]0;<b>title</b>\x07\x1bP<i>q\x1b\\<script>", "&lt;script&gt;"),
        ("\x1b]0;never ended <b>", "0;never ended &lt;b&gt;"),
        (
            "see https://a.example/x?a=1&b=2.",
            'see <a href="https://a.example/x?a=1&amp;b=2" rel="noopener noreferrer nofollow"'
            ' target="_blank">https://a.example/x?a=1&amp;b=2</a>.',
        ),
        ('https://a.example/"onclick=x', "example/</a>&quot;onclick=x"),
        ("xhttps://a javascript://b https://", "xhttps://a javascript://b https://"),
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
    output = re.split("data-output>", page(operator, "/lieutenants/ada/"))[1]
    assert f"{shown}</pre>" in output


@pytest.mark.parametrize(
    "printed",
    [
        "w" * 50_000 + "\rx" * 25_000,
        "\x1b[31mx\x1b[32my" * 9_000,
        "\x1b[999Gx\n" * 12_000,
        "abc\x1b[1D\x1b[K\x1b[A" * 7_000,
        "\x1b]0;" * 25_000,
        ("x" * 50_000 + "\r") + "y\x1b[K\x1b[1K" * 7_000,
        "https://((((((((((" * 5_000,
    ],
)
def test_hostile_output_of_100_kb_costs_little(printed: str) -> None:
    began = time.process_time()
    assert len(html(printed, 20_000)) < 200_000
    assert time.process_time() - began < 2


def test_long_output_keeps_its_ends_and_colours() -> None:
    shown = html("\x1b[31m" + "a" * 100 + "\x1b[0m" + "b" * 100, 20, left_out=5)
    assert (
        shown
        == f'<span class="t-red">{"a" * 10}</span>\n\n… 185 characters left out …\n\n{"b" * 10}'
    )


def test_answers_of_programs_are_printed_and_others_are_markdown(operator: Client) -> None:
    told = Told(enlist(agent="command", command=["make"]))
    told.entry("text", "\x1b[32m**ok**\x1b[0m\n50 %\r100 %")
    assert '<span class="t-green">**ok**</span>\n100 %</div>' in page(operator, "/lieutenants/ada/")
    Told(enlist("bob", agent="acp", command=["claude"])).entry("text", "**ok**")
    assert "<strong>ok</strong>" in page(operator, "/lieutenants/bob/")


def test_progress_of_megabytes_is_read_in_linear_time() -> None:
    wide = "w" * 1_000_000
    began = time.process_time()
    assert plain_text(wide + "\rx" * 500_000) == "x" + wide[1:]
    assert time.process_time() - began < 20


def test_nothing_in_a_command_or_answer_is_reordered(operator: Client) -> None:
    told = Told(enlist())
    told.call("c1", command="open evil\u202eexe.live")
    told.entry("text", "Run `evil\u202eexe.live` now")
    shown = page(operator, "/lieutenants/ada/")
    assert "\u202e" not in shown
    assert shown.count("evil[U+202E]exe.live") == 3
