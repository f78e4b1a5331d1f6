"""Secrets in diffs are masked as in transcripts, wherever a line ends."""

from __future__ import annotations

from lieutenants.changes import answers, diffs
from lieutenants.changes.questions import Base, Question
from lieutenants.models import Lieutenant
from versconfig.screening.screen import Screen, Secret

KEY = "sk-live-0123456789-abcdefghij-KLMNOPQRST"
HALF = len(KEY) // 2
OTHERS = Screen([Secret("KEY", KEY)])
OWN = Screen([], [Secret("KEY", KEY)])


def test_key_over_two_lines_is_masked_on_both_sides() -> None:
    lines = ["@@ -1,2 +1,3 @@", f" a={KEY[:HALF]}", f"-{KEY[HALF:]}", f"+{KEY[HALF:]}", "+b"]
    shown = diffs.cover(lines, OTHERS)
    assert shown == ["@@ -1,2 +1,3 @@", " a=[KEY]", "-[KEY]", "+[KEY]", "+b"]
    assert KEY[HALF:] not in str(diffs.cover([f" {KEY[:HALF]}", "-x", f"+{KEY[HALF:]}"], OTHERS))


def test_part_of_a_key_of_the_agents_own_is_masked() -> None:
    assert diffs.cover([f"+k={KEY[5:30]}"], OWN) == ["+k=[KEY]"]


def test_key_at_the_end_of_what_is_shown_of_a_line_is_masked() -> None:
    line = "+" + "x" * 1980 + KEY + "y" * 900
    answer = {"file": {}, "lines": [line]}
    question = Question(against="head", path="a")
    found = answers.result_of(Lieutenant(), question, Base({}), answer, OTHERS)
    shown = found["lines"][0]
    assert KEY[:HALF] not in shown
    assert shown.startswith("+" + "x" * 1980 + "[KEY]")
    assert shown.endswith("… (the line goes on)")
