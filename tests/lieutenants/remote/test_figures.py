"""Costs of an answer on its way from a machine: bytes on the line, and time."""

from __future__ import annotations

import time

import pytest

from lieutenants.models import Answer, Chunk
from tests.lieutenants.remote.conftest import Site
from tests.waiting import until

# Prints pieces of 8 characters, each with the time at which it was printed.
STAMPS = (
    "import sys, time\n"
    "count, pause = sys.stdin.read().split()\n"
    "for number in range(int(count)):\n"
    "    sys.stdout.write('%07d ' % (int(time.time() * 1000) % 10_000_000))\n"
    "    sys.stdout.flush()\n"
    "    time.sleep(float(pause))\n"
)


@pytest.mark.parametrize(
    ("count", "pause"),
    [(300, 0.008), pytest.param(2500, 0.04, marks=pytest.mark.thorough)],
)
@pytest.mark.timeout(240)
def test_answer_in_small_pieces_takes_few_bytes(site: Site, count: int, pause: float) -> None:
    site.create("far", ["python3", "-c", STAMPS])
    before = site.line.sent + site.line.received
    site.fleet.send("far", f"{count} {pause}")
    until(lambda: site.fleet.get("far")["status"] == "working")
    site.fleet.wait("far", "idle", 200)
    text = Answer.objects.get().text
    assert len(text) == 8 * count
    assert site.line.sent + site.line.received - before < 6 * len(text)


@pytest.mark.thorough
def test_print_is_stored_soon_on_a_long_line(site: Site) -> None:
    site.line.delay = 0.05
    site.create("far", ["python3", "-c", STAMPS])
    site.fleet.send("far", "200 0.05")
    late: list[float] = []
    last = 0
    while len(late) < 150:
        for chunk in Chunk.objects.filter(pk__gt=last).order_by("pk"):
            now = int(time.time() * 1000) % 10_000_000
            last = chunk.pk
            late += [float(now - int(each)) for each in chunk.text.split()]
        time.sleep(0.005)
    late.sort()
    assert late[int(len(late) * 0.95)] < 400
