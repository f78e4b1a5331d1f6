"""`reef usage`"""

from __future__ import annotations

import argparse
from typing import Any

from reef_site.client import output
from reef_site.client.commands import Options, add_command, show
from reef_site.client.http import Api

Json = dict[str, Any]
GROUPS = ("day", "hour", "lieutenant", "model", "subtree")
TOKENS = ("input", "output", "cacheRead", "cacheWrite")


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(parsers, "usage", "show tokens and cost, of seven days by default", run)
    parser.add_argument("--by", choices=GROUPS, default="day", help="(%(default)s)")
    parser.add_argument("--since", metavar="TIME", help="such as 2026-11-22T06:00Z")
    parser.add_argument("--until", metavar="TIME")
    parser.add_argument("--zone", help="whose days and hours, such as Europe/Berlin (UTC)")
    parser.add_argument("--below", metavar="VM_ID", help="only this VM and its descendants")


def run(api: Api, options: Options) -> None:
    names = ("by", "since", "until", "zone", "below")
    given = {name: getattr(options, name) for name in names}
    found = api.get("/usage", {name: value for name, value in given.items() if value})
    show({"details": found}, options, _text(found))


def _text(found: Json) -> str:
    head = (found["by"].upper(), "COST", "CALLS", "TOKENS")
    rows = [_cells(row["name"] or row["key"], row) for row in found["rows"]]
    rows.append(_cells("total", found["total"]))
    lines = [output.table(head, rows), f"${found['ratePerHour']:.4f} an hour now"]
    return "\n".join([*lines, _budget_text(found.get("budget"))])


def _budget_text(budget: Json | None) -> str:
    if budget is None:
        return "no limit of money"
    spent, limit, left = (f"${budget[each]:.4f}" for each in ("spent", "limit", "left"))
    return f"budget: {spent} of {limit} spent by {budget['node']} and below, {left} left"


def _cells(name: str, sums: Json) -> list[object]:
    return [name, f"${sums['cost']:.4f}", sums["calls"], sum(sums[each] for each in TOKENS)]
