"""Lists are sorted by the database, and keep order, filter and page in their URLs."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from lieutenants.lists.columns import COLUMNS, DEFAULT_SORT
from lieutenants.lists.filters import TERMS
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.common.lists.pages import PAGE_SIZE, ListPage
from reef_site.common.lists.sorting import Sorting
from reef_site.dashboard import tree_order, vm_list
from registry.models import VM
from tests.fleets import plant
from tests.lieutenants.rows import enlist, page, use
from vmtree.models import Node

pytestmark = pytest.mark.django_db

ODD = ("", "x", "-", "--name", "-task", "task", "name,pk", "password", "\x00", "-name " * 20)


def names(html: str) -> list[str]:
    """Return the texts of the rows' links."""
    return re.findall(r'<a id="to-[^"]*" href="[^"]*">([^<]*)</a>', html)


def listed(client: Client, query: str, path: str = "/lieutenants/") -> list[str]:
    return names(page(client, f"{path}?{query}"))


@pytest.fixture
def crew() -> dict[str, Lieutenant]:
    """Three lieutenants; each is the first one by another column."""
    now = timezone.now()
    rows = {
        "ada": enlist("ada", Status.PAUSED, model="z/z", host="c", last_activity_at=now),
        "bob": enlist("bob", Status.ERROR, model_in_use="m/m", host="b"),
        "eve": enlist("eve", Status.WORKING, model="a/a", host="a"),
    }
    for number, row in enumerate(rows.values()):
        at = now - timedelta(days=3, minutes=number)
        Lieutenant.objects.filter(pk=row.pk).update(created_at=at)
        if row.name != "ada":
            Lieutenant.objects.filter(pk=row.pk).update(last_activity_at=at)
    use(rows["bob"], cost=Decimal(1))
    long_ago = now - timedelta(days=9)
    use(rows["ada"], cost=Decimal(7), day=long_ago.date(), at=long_ago)
    return rows


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("", "ada bob eve"),
        ("name", "ada bob eve"),
        ("-name", "eve bob ada"),
        ("status", "bob eve ada"),
        ("-status", "ada eve bob"),
        ("model", "eve bob ada"),
        ("-today", "bob"),
        ("-cost", "ada bob eve"),
        ("host", "eve bob ada"),
        ("created", "eve bob ada"),
        ("-activity", "ada bob eve"),
    ],
)
def test_lieutenants_are_sorted(operator: Client, crew: Any, sort: str, expected: str) -> None:
    wanted = expected.split()
    assert listed(operator, f"sort={sort}")[: len(wanted)] == wanted


def test_headings_are_links_that_reverse_the_order(operator: Client, crew: Any) -> None:
    html = page(operator, "/lieutenants/?sort=name&q=a&page=1")

    assert html.count("aria-sort=") == 1
    assert re.search(
        r'<th scope="col" aria-sort="ascending">\s*<a href="/lieutenants/\?sort=-name&amp;q=a">'
        r"Name</a>",
        html,
    )
    # Money and times begin with the largest.
    assert re.search(r'<a href="/lieutenants/\?sort=-today&amp;q=a">Today</a>', html)


@pytest.mark.parametrize("sort", ODD)
def test_unknown_order_is_the_default_one(operator: Client, crew: Any, sort: str) -> None:
    values = QueryDict(mutable=True)
    values["sort"] = sort

    assert Sorting.of(values, COLUMNS, DEFAULT_SORT).word == DEFAULT_SORT
    for path in ("/lieutenants/", "/fleet/vms/", "/fleet/"):
        assert operator.get(path, {"sort": sort}).status_code == 200


def test_pages_of_equal_rows_are_stable_and_complete() -> None:
    Lieutenant.objects.bulk_create(
        Lieutenant(name=f"l{number}", role="r", host="same", status=Status.IDLE)
        for number in range(2 * PAGE_SIZE + 50)
    )
    for word in ("host", "-host", "-today", "status"):
        found = []
        for number in ("1", "2", "3"):
            values = QueryDict(f"sort={word}&page={number}")
            sorting = Sorting.of(values, COLUMNS, DEFAULT_SORT)
            found += ListPage.of(Lieutenant.objects.active(), sorting, values).keys
        assert len(found) == len(set(found)) == 2 * PAGE_SIZE + 50


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("state", "silent live paused"),
        ("-name", "silent paused live"),
        ("-seen", "live paused silent"),
        ("registered", "paused live silent"),
        ("parent", "silent"),
    ],
)
def test_vms_are_sorted(operator: Client, sort: str, expected: str) -> None:
    now = timezone.now()
    plant("live", last_seen=now, registered_at=now - timedelta(days=2))
    paused: dict[str, Any] = {
        "last_seen": now - timedelta(minutes=1),
        "registered_at": now - timedelta(days=3),
    }
    plant("paused", status="paused", **paused)
    plant("silent", "live", last_seen=now - timedelta(days=1), registered_at=now)
    wanted = expected.split()

    assert listed(operator, f"sort={sort}", "/fleet/vms/")[: len(wanted)] == wanted


def test_siblings_of_the_tree_are_sorted_page_by_page(operator: Client) -> None:
    now = timezone.now()
    for number, name in enumerate(["c", "a", "b"]):
        plant(name, last_seen=now - timedelta(minutes=number))

    def order(query: str, path: str = "/fleet/_tree") -> list[str]:
        return re.findall(r'data-vm="([^"]+)"', page(operator, f"{path}?{query}"))

    assert order("") == ["c", "a", "b"]
    assert order("sort=-age") == ["b", "a", "c"]
    assert order("sort=name") == ["a", "b", "c"]
    assert order("sort=seen") == ["b", "a", "c"]
    # A search keeps the order, and so do the pages of children.
    assert order("sort=-name&q=category:swarm_vm") == ["c", "b", "a"]
    assert order("sort=name&limit=2", "/fleet/_children/0") == ["a", "b"]
    assert order("sort=name&limit=2&after=1&place=2", "/fleet/_children/0") == ["c"]


def test_each_order_and_filter_works_on_both_databases(database: str, operator: Client) -> None:
    plant("a")
    plant("b", "a")
    lieutenant = enlist()
    use(lieutenant)
    lists: dict[str, Any] = {
        "/lieutenants/": COLUMNS,
        "/fleet/vms/": vm_list.COLUMNS,
        "/fleet/_tree": tree_order.COLUMNS,
    }
    for path, columns in lists.items():
        for column in columns:
            for sign in ("", "-"):
                page(operator, f"{path}?sort={sign}{column.key}&open=1.2")
    for term in TERMS.values():
        page(operator, f"/lieutenants/?q={term.name}{'' if term.flag else ':x'}")
    answer = operator.post("/lists/plan/tree/", {"action": "pause", "all": "1"})
    html = page(operator, answer["Location"])
    assert "is below a, which is chosen as well" in html


def test_open_nodes_cost_no_further_queries(operator: Client) -> None:
    for number in range(12):
        plant(f"top-{number}")
        for child in range(60 if number == 0 else 3):
            plant(f"{number}-{child}", f"top-{number}")
    keys = list(Node.objects.roots().order_by("pk").values_list("pk", flat=True))

    def cost(opened: list[int]) -> tuple[int, str]:
        query = ".".join(map(str, opened))
        with CaptureQueriesContext(connection) as queries:
            html = page(operator, f"/fleet/_tree?open={query}")
        return len(queries), html

    few, html = cost(keys[:1])
    assert html.count("data-vm=") == 12 + 50
    assert "10 not shown" in html
    many, html = cost([*keys, 999_999, *([1] * 200)])
    assert many == few
    assert 'data-vm="11-2"' in html
    for odd in ("x", "-1", "1." * 3000, "\x00", str(1 << 70)):
        assert operator.get("/fleet/", {"open": odd}).status_code == 200


# -- plans of the database ---------------------------------------------------------------------


def test_default_orders_of_large_tables_use_an_index() -> None:
    """The most used orders need no sorting of 100,000 rows."""
    if connection.vendor != "sqlite":
        pytest.skip("reads the plan of SQLite")
    for rows, columns, word in (
        (VM.objects.all(), vm_list.COLUMNS, "-registered"),
        (VM.objects.all(), vm_list.COLUMNS, "role"),
    ):
        sorting = Sorting.of(QueryDict(f"sort={word}"), columns, word)
        plan = sorting.apply(rows).values_list("pk", flat=True)[:100].explain()
        assert "USING COVERING INDEX" in plan or "USING INDEX" in plan, (word, plan)
    assert tree_order.BY_AGE.word == "age"
