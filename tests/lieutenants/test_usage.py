"""Usage: sums by quarters of an hour, the page, CSV, and `GET /usage`."""

from __future__ import annotations

import csv
import importlib
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from lieutenants.models import Lieutenant, UsageSlot
from lieutenants.sessions.write_batch import WriteBatch
from lieutenants.usage import reports
from lieutenants.usage.models import slot_of
from reef_site.accounts.models import Preferences
from reef_site.common import clock
from tests.conftest import Api
from tests.fleets import database
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import enlist, page, use
from vmtree import services as tree
from vmtree.services import NewNode

__all__ = ["database", "operator"]
pytestmark = pytest.mark.django_db
PAGE = "/costs/"
# A Monday at 09:10 in Berlin, and 13:40 in Kathmandu, whose quarters are not those of Berlin.
NOW = datetime(2026, 3, 2, 8, 10, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)


def spend(lieutenant: Lieutenant, ago: timedelta, cost: str, model: str = "opus") -> None:
    at = NOW - ago
    use(lieutenant, at=at, day=at.date(), cost=Decimal(cost), model=model, provider="acme")


def in_tree(name: str, parent: str = "") -> Lieutenant:
    row = enlist(name)
    tree.create(NewNode(name, "lieutenant", row.pk, parent_vm_id=parent), by="tests")
    return row


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


@pytest.mark.django_db(transaction=True)
def test_calls_of_a_quarter_are_added_up(database: str) -> None:
    ada = enlist()
    spend(ada, timedelta(minutes=1), "0.25")
    spend(ada, timedelta(minutes=9), "0.50")
    spend(ada, timedelta(minutes=11), "1")
    spend(ada, timedelta(minutes=1), "2", model="haiku")

    rows = [
        (row.slot, row.model, row.calls, row.cost) for row in UsageSlot.objects.order_by("cost")
    ]
    assert rows == [
        (NOW.replace(minute=0), "opus", 2, Decimal("0.75")),
        (NOW.replace(hour=7, minute=45), "opus", 1, Decimal(1)),
        (NOW.replace(minute=0), "haiku", 1, Decimal(2)),
    ]
    assert UsageSlot.objects.filter(model="opus", calls=2).get().input == 2400


def test_follower_adds_to_the_sums() -> None:
    ada, batch = enlist(), WriteBatch()
    row = use(ada, at=NOW, day=NOW.date())
    row.pk = None
    batch.usage.append(row)
    batch.write()
    assert UsageSlot.objects.get().calls == 2


def test_migration_adds_up_earlier_usage() -> None:
    ada, bella = enlist(), enlist("bella")
    for each in (ada, bella, ada):
        spend(each, timedelta(minutes=3), "0.125")
    spend(ada, hours(1), "1", model="haiku")
    columns = ("lieutenant_id", "slot", "provider", "model", "calls", "input", "cost")
    before = sorted(UsageSlot.objects.values_list(*columns))
    UsageSlot.objects.all().delete()
    importlib.import_module("lieutenants.migrations.0027_usage_slots").sum_up(apps, None)
    assert sorted(UsageSlot.objects.values_list(*columns)) == before


def test_days_are_those_of_the_person(operator: Client) -> None:
    ada = enlist()
    spend(ada, hours(8.5), "1")  # 23:40 UTC, 00:40 in Berlin, 05:25 in Kathmandu
    spend(ada, hours(13.75), "2")  # 18:25 UTC, 19:25 in Berlin, 00:10 in Kathmandu
    spend(ada, hours(24 * 6.5), "4")

    def figures(**cookies: str) -> list[str]:
        operator.cookies.update(cookies)  # type: ignore[arg-type]
        return re.findall(r'<dd class="big">(.*?)</dd>', page(operator, PAGE))

    today, so_far, yesterday, week, rate, _tokens = figures()
    assert (today, so_far, yesterday, week, rate) == ("$0", "$0", "$3.00", "$3.00", "$0/h")
    operator.cookies["reef-zone"] = "Europe%2FBerlin"
    today, so_far, yesterday, week, *_ = figures()
    assert (today, so_far, yesterday, week) == ("$1.00", "$0", "$2.00", "$3.00")
    user = operator.session["_auth_user_id"]
    Preferences.objects.create(user_id=user, time_zone="Asia/Kathmandu")
    today, *_ = figures()
    assert today == "$3.00"


def test_rate_and_comparison_with_yesterday(operator: Client) -> None:
    ada = enlist()
    spend(ada, timedelta(minutes=30), "2.10")
    spend(ada, hours(24.5), "0.50")
    spend(ada, hours(17), "8")
    money = reports.fleet_money(None)
    assert (money.today, money.yesterday, money.yesterday_so_far) == (
        Decimal("2.10"),
        Decimal("8.50"),
        Decimal("0.50"),
    )
    # Slots since 07:00 make 70 minutes.
    assert money.rate == round(Decimal("2.10") * 60 / 70, 9)
    assert money.is_rising


def test_page_shows_lieutenants_models_and_subtrees(operator: Client) -> None:
    root = in_tree("chief")
    in_tree("mid", root.pk)
    leaf = in_tree("leaf", Lieutenant.objects.get(name="mid").pk)
    other = in_tree("other")
    spend(root, hours(1), "1")
    spend(leaf, hours(1), "2", model="<haiku>")
    spend(other, hours(30), "0.5")

    html = page(operator, PAGE)
    subtrees = html[html.index('id="by-subtree"') : html.index('id="by-lieutenant"')]
    assert re.findall(r'data-label="7 days" class="to-right">(.*?)<', subtrees) == [
        "$3.00",
        "$0.50",
    ]
    assert "&lt;haiku&gt;" in html
    assert html.count("<svg") == 2
    assert 'aria-label="Last 7 days: Tue 24 $0, ' in html
    # The fragment is the same.
    assert page(operator, f"{PAGE}_report").strip() in html
    below = page(operator, f"{PAGE}?below={root.pk}")
    subtrees = below[below.index('id="by-subtree"') : below.index('id="by-lieutenant"')]
    assert re.findall(r'data-label="7 days" class="to-right">(.*?)<', subtrees) == [
        "$2.00",
        "$1.00",
    ]
    assert ">other<" not in below
    page(operator, f"{PAGE}?below=nothing", 404)
    assert Client().get(PAGE).status_code == 302


def test_empty_page_says_what_will_appear(operator: Client) -> None:
    assert "No usage in the last 7 days" in page(operator, PAGE)


def test_number_of_queries_is_constant(operator: Client) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as seen:
            page(operator, PAGE)
        return len(seen)

    spend(in_tree("first"), hours(1), "1")
    few = count()
    for number in range(20):
        spend(in_tree(f"more-{number}"), hours(number), "1", model=f"model-{number}")
    assert count() == few


def test_csv_has_one_line_a_day_lieutenant_and_model(operator: Client) -> None:
    ada, bella = enlist(), enlist("bella")
    spend(ada, hours(1), "1.5")
    spend(ada, hours(2), "0.5")
    spend(ada, hours(1), "0.125", model="=cmd()")
    spend(bella, hours(30), "3")
    spend(bella, hours(24 * 9), "4")

    answer = operator.get(f"{PAGE}usage.csv?days=7")
    assert "attachment" in answer.headers["Content-Disposition"]
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    rows = list(csv.DictReader(text.splitlines()))
    found = [(row["day"], row["lieutenant"], row["model"], row["cost_usd"]) for row in rows]
    assert found == [
        ("2026-03-01", "bella", "opus", "3"),
        ("2026-03-02", "ada", "'=cmd()", "0.125"),
        ("2026-03-02", "ada", "opus", "2"),
    ]
    assert rows[2]["calls"] == "2"


@pytest.mark.django_db(transaction=True)
def test_api_reports_by_each_group(database: str, api: Api) -> None:
    root = in_tree("chief")
    leaf = in_tree("leaf", root.pk)
    spend(root, hours(1), "1")
    spend(leaf, hours(9), "2", model="haiku")

    def rows(query: str) -> list[tuple[str, float]]:
        found: Any = api.get(f"/usage?{query}").json()
        assert found["total"]["cost"] == sum(row["cost"] for row in found["rows"])
        return [(row["name"] or row["key"], row["cost"]) for row in found["rows"]]

    assert rows("") == [("2026-03-02", 1.0), ("2026-03-01", 2.0)]
    assert rows("by=day&zone=Europe/Berlin") == [("2026-03-02", 3.0)]
    assert rows("by=hour") == [("2026-03-02T07:00:00.000Z", 1.0), ("2026-03-01T23:00:00.000Z", 2.0)]
    assert rows("by=lieutenant") == [("leaf", 2.0), ("chief", 1.0)]
    assert rows("by=model") == [("acme/haiku", 2.0), ("acme/opus", 1.0)]
    assert rows("by=subtree") == [("chief", 3.0)]
    assert rows(f"by=subtree&below={root.pk}") == [("leaf", 2.0), ("chief", 1.0)]
    assert rows("since=2026-03-02T00:00Z") == [("2026-03-02", 1.0)]
    assert api.get("/usage").json()["ratePerHour"] > 0


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("zone=Mars/Base", "zone: must be a time zone, such as Europe/Berlin"),
        ("by=week", "by: must be one of day, hour, lieutenant, model, subtree"),
        ("by=hour&since=2025-01-01T00:00Z", "since: at most 32 days before `until`, by hour"),
        ("since=2027-01-01T00:00Z", "since: must not be after `until`"),
    ],
)
def test_api_refuses_invalid_queries(api: Api, query: str, error: str) -> None:
    answer = api.get(f"/usage?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_slots_begin_at_quarters() -> None:
    assert slot_of(NOW.replace(minute=59, second=59)) == NOW.replace(minute=45)
