"""Usage as CSV: one row for each day, lieutenant and model."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import date, tzinfo
from decimal import Decimal
from itertools import groupby
from typing import Any

from lieutenants.usage.reports import TOKENS, Slots

COLUMNS = (
    *("day", "lieutenant_id", "lieutenant", "provider", "model", "calls"),
    *TOKENS,
    "cost_usd",
)
# A spreadsheet would take a text that begins like this for a formula.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
_NAMES = ("lieutenant_id", "lieutenant__name", "provider", "model")
_FIGURES = ("calls", *TOKENS, "cost")


class _Line:
    """A file that returns what is written into it."""

    def write(self, text: str) -> str:
        return text


def lines(slots: Slots, zone: tzinfo) -> Iterator[str]:
    """Yield the lines of the file; days are those of the zone, the oldest first."""
    write = csv.writer(_Line()).writerow
    yield write(COLUMNS)
    rows = slots.order_by("slot").values_list("slot", *_NAMES, *_FIGURES)
    for day, of_day in groupby(rows.iterator(), key=lambda row: row[0].astimezone(zone).date()):
        for row in _of_one_day(day, of_day):
            yield write(row)


def _of_one_day(day: date, rows: Iterator[tuple[Any, ...]]) -> Iterator[list[Any]]:
    sums: dict[tuple[str, ...], list[Any]] = {}
    for _, pk, name, provider, model, *figures in rows:
        found = sums.setdefault((pk, name, provider, model), [0] * len(figures))
        for place, figure in enumerate(figures):
            found[place] += figure
    for names, found in sorted(sums.items(), key=lambda item: item[0][1:]):
        *counts, cost = found
        dollars = f"{Decimal(cost):.9f}".rstrip("0").rstrip(".")
        yield [day.isoformat(), *map(_plain, names), *counts, dollars]


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) else text
