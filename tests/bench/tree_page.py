"""The live tree's pages at 100,000 nodes: `python -m tests.bench.tree_page [sqlite|postgresql]`.

Each figure is a request through Django, from the URL to the answer's bytes, as an operator who is
signed in: median and worst in milliseconds, and how many statements it took, at 100 nodes and at
100,000. A first page of 300 ms or more, or a number of statements that depends on the number of
nodes, ends the run with exit code 1.
"""

# Django must be set up before its models are imported.
# ruff: noqa: E402
from __future__ import annotations

import os
import statistics
import sys
import time
from datetime import timedelta

from reef_site.common import clock

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.accounts.signin_links import make_operator
from reef_site.dashboard import root_row
from registry.models import Watch
from tests.bench.tree import postgresql, sqlite
from tests.vmtree.planted import plant
from vmtree.models import Node

LIMIT_MS = 300


def ask(client: Client, path: str, body: object = None) -> tuple[float, float, int, int]:
    """Return median and worst milliseconds, number of statements, and bytes."""
    spent, size = [], 0
    # The summary of a large fleet is cached by the first request.
    root_row.forget()
    with CaptureQueriesContext(connection) as queries:
        _once(client, path, body)
    statements = len(queries)
    for _ in range(7):
        root_row.forget()
        start = time.perf_counter()
        size = _once(client, path, body)
        spent.append((time.perf_counter() - start) * 1000)
    return statistics.median(spent), max(spent), statements, size


def _once(client: Client, path: str, body: object) -> int:
    answer = client.post(path, body, content_type="application/json") if body else client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return len(answer.content)


def pages() -> dict[str, tuple[str, object]]:
    """Return the requested pages by name."""
    busy = Node.objects.filter(parent__isnull=True).values_list("pk", flat=True)[0]
    shown = [0, *Node.objects.values_list("pk", flat=True)[:60]]
    changed = list(Node.objects.order_by("-pk").values_list("vm_id", flat=True)[:50])
    return {
        "first page": ("/fleet/", None),
        "dashboard": ("/", None),
        "children of one": (f"/fleet/_children/{busy}?level=3", None),
        "search: silent": ("/fleet/_tree?q=silent", None),
        "search: organ:store": ("/fleet/_tree?q=organ:store", None),
        "search: text": ("/fleet/_tree?q=agent+99", None),
        "news of 50": ("/fleet/_news", {"shown": shown, "changed": changed}),
        "news of many": ("/fleet/_news", {"shown": shown, "many": True}),
        "one VM": (f"/fleet/{busy}/_facts", None),
        "an earlier moment": ("/fleet/then/?second=1", None),
        "from above (1,000)": ("/fleet/picture/_drawing", None),
    }


def main(vendor: str) -> bool:
    """Print the figures; whether they are within the limits."""
    client = Client(headers={"host": "localhost"})
    client.force_login(make_operator())
    plant(1000)
    few = {name: ask(client, *what)[2] for name, what in pages().items()}
    plant(100_000)
    # The sweep does not run here.
    Watch.objects.update(door_at=clock.now() + timedelta(hours=1))
    print(f"-- {vendor}, 100,000 nodes, 1,000 silent, 1,000 late, 200 paused")
    good = True
    for name, what in pages().items():
        median, worst, statements, size = ask(client, *what)
        same = statements == few[name]
        slow = name == "first page" and median >= LIMIT_MS
        good &= same and not slow
        print(
            f"{name:22} {median:7.1f} ms, worst {worst:7.1f}, {statements} statements"
            f"{'' if same else f' (at 1,000 nodes {few[name]})'}, {size / 1000:.0f} kB"
        )
    return good


if __name__ == "__main__":
    asked = sys.argv[1:] or ["sqlite"]
    results = []
    for vendor in asked:
        with {"sqlite": sqlite, "postgresql": postgresql}[vendor]():
            results.append(main(vendor))
    sys.exit(0 if all(results) else 1)
