"""Retention rules for the rows and files of lieutenants."""

from __future__ import annotations

from django.conf import settings

from lieutenants.models import Entry, Question, Usage
from lieutenants.questions import deadlines
from lieutenants.transcript import old_data
from lieutenants.usage import sums
from reef_site.common.retention import FOREVER, Rule, days, retention_rules


def register() -> None:
    """Register the rules of lieutenants."""
    for key, rule in _rules().items():
        retention_rules.register(rule, key=key)


def _rules() -> dict[str, Rule]:
    return {
        "questions": Rule(
            "questions",
            lambda: f"{days(settings.QUESTION_DAYS)} after they were decided",
            ("REEF_QUESTION_DAYS",),
            (Question,),
            prune=deadlines.prune,
        ),
        "tool data": Rule(
            "transcripts",
            lambda: (
                f"{FOREVER}; long arguments of tool calls: {days(settings.TOOL_DATA_DAYS)} after "
                "their process ended"
            ),
            ("REEF_TOOL_DATA_DAYS",),
            (Entry,),
            prune=old_data.shorten_old,
        ),
        "usage": Rule(
            "single model calls",
            lambda: f"{days(settings.USAGE_DAYS)}; their sums by quarter of an hour: {FOREVER}",
            ("REEF_USAGE_DAYS",),
            (Usage,),
            prune=sums.delete_old_calls,
        ),
        "journals": Rule(
            "journals of agents",
            lambda: "until their process has ended; what is stored in the database is cut off",
            folders=("journals",),
        ),
    }
