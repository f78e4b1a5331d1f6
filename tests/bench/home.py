"""The home page with 300 lieutenants and 5,000 VMs: `python -m tests.bench.home [--profile]`.

Each figure is a request through Django, as an operator who is signed in: the CPU time of this
process until the first byte (median and worst; other work on the machine hardly changes it), the
number of queries, and the size. A page of 100 ms or more of CPU, or a number of queries that
depends on the number of rows, ends the run with exit code 1.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import cProfile
import os
import pstats
import statistics
import sys
import time
from datetime import timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants.models import Answer, Message, Question
from lieutenants.states import Outcome, Status
from reef_site.accounts.signin_links import make_operator
from reef_site.common import broker, clock
from reef_site.dashboard import root_row
from registry.models import Watch
from tests.bench.tree import sqlite
from tests.lieutenants.rows import enlist, process_of
from tests.vmtree.planted import plant

LIMIT_MS = 100
REPETITIONS = 15
PAGES = {"home": "/", "its live part": "/parts/"}


def people_fleet(count: int, start: int) -> None:
    """Add lieutenants: of each ten, one fails, one works, one asks, and three have finished."""
    now = timezone.now()
    for number in range(start, start + count):
        since = now - timedelta(minutes=number)
        state = {1: Status.ERROR, 2: Status.WORKING}.get(number % 10, Status.IDLE)
        reason = f"exit code {137 + number // 100}" if state == Status.ERROR else ""
        row = enlist(
            f"agent-{number}",
            state,
            status_since=since,
            error=reason,
            last_activity_at=now,
            waiting_for="the model" if state == Status.WORKING else "",
        )
        message = Message.objects.create(
            lieutenant=row, text="Refactor the payment module", mode="prompt"
        )
        if number % 10 == 3:
            asked = {"kind": "ask", "source": "tool", "text": f"Which port for {number}?"}
            Question(vm_id=row.pk, lieutenant=row, **asked).insert(actor=row.name)
        if number % 10 > 6:
            ended = {"outcome": Outcome.COMPLETED, "ended_at": since, "text": "All green. " * 50}
            began = {"process": process_of(row), "started_at": since}
            Answer.objects.create(lieutenant=row, message=message, **began, **ended)


def ask(client: Client, path: str) -> tuple[float, float, int, int]:
    """Return median and worst milliseconds of CPU, the number of queries, and bytes."""
    root_row.forget()
    with CaptureQueriesContext(connection) as queries:
        size = len(client.get(path).content)
    # Now and then a request also writes when this session was last used.
    count = sum(each["sql"].startswith(("SELECT", "WITH")) for each in queries)
    spent = []
    for _ in range(REPETITIONS):
        root_row.forget()
        began = time.process_time()
        assert client.get(path).status_code == 200
        spent.append((time.process_time() - began) * 1000)
    return statistics.median(spent), max(spent), count, size


def profile(client: Client, path: str) -> None:
    """Print where the time of a page goes."""
    with cProfile.Profile() as found:
        for _ in range(REPETITIONS):
            client.get(path)
    pstats.Stats(found).sort_stats("cumulative").print_stats(90)


def main(words: list[str]) -> bool:
    """Print the figures; return whether they are within the limits."""
    client = Client(headers={"host": "localhost"})
    client.force_login(make_operator())
    plant(500)
    people_fleet(30, 0)
    few = {name: ask(client, path)[2] for name, path in PAGES.items()}
    plant(5000)
    people_fleet(270, 30)
    # The sweep does not run here.
    Watch.objects.update(door_at=clock.now() + timedelta(hours=1))
    if "--profile" in words:
        profile(client, "/")
    is_good = True
    for name, path in PAGES.items():
        median, worst, count, size = ask(client, path)
        print(f"{name:15} {median:6.1f} ms CPU, worst {worst:6.1f}, {count} queries, {size:,} B")
        is_good &= median < LIMIT_MS and count <= few[name]
        if count > few[name]:
            print(f"{name:15} takes {few[name]} queries with few rows")
    return is_good


if __name__ == "__main__":
    # There is no Redis.
    broker.publish = lambda *_: None
    with sqlite():
        sys.exit(0 if main(sys.argv[1:]) else 1)
