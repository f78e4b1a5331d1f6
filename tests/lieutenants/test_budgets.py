"""Budgets: what the lieutenants of a node and everything below it may cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bootloader.grants import budgets
from bootloader.models import ProvisionGrant
from lieutenants import services
from lieutenants.membership import deregister
from lieutenants.models import Lieutenant, Message
from lieutenants.usage.spending import Reading
from reef_site.accounts.signin_links import make_operator
from reef_site.api.authentication import Caller
from reef_site.common import clock
from reef_site.common.eventlog.models import Event
from reef_site.common.tools import ToolResult, declared_tools
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.fleets import database
from tests.lieutenants.rows import enlist, use
from tests.vmtree.conftest import NodeApi
from tests.vmtree.entrances import ACTS, ALLOWED, ENTRANCES, REFUSED, Act, run_client
from vmtree import operator_tokens, tokens
from vmtree import services as tree
from vmtree.models import Node
from vmtree.services import NewNode, NodeChange

__all__ = ["database"]
pytestmark = pytest.mark.django_db

AT = "/lieutenant/lieutenants"
SEND = next(act for act in ACTS if act.action == "SEND")
CREATE = Act(
    "START_BELOW",
    "reef_lt_create",
    lambda name: {"name": name, "role": "tests"},
    lambda name: ["lieutenants", "create", name, "tests"],
    lambda name: ("POST", AT, {"name": name, "role": "tests", "local": True}),
)


@pytest.fixture(autouse=True)
def family(settings: Any, monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    """ada → (ada-1 → ada-1-1, ada-2), and bob, all lieutenants of this host, and idle."""
    if "database" in request.fixturenames:
        request.getfixturevalue("database")
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")
    for name, parent in (
        *(("ada", ""), ("ada-1", "ada"), ("ada-1-1", "ada-1")),
        *(("ada-2", "ada"), ("bob", "")),
    ):
        lieutenant(name, parent)


def lieutenant(name: str, parent: str) -> Lieutenant:
    row = enlist(name, id=name, data_folder=settings.DATA_FOLDER_ID, folder="/")
    tree.create(NewNode(name, "lieutenant", name, parent_vm_id=parent), by="tests")
    return row


def node(name: str) -> Node:
    return Node.objects.get(vm_id=name)


def token_of(name: str) -> str:
    return tokens.issue(node(name), made_by="tests")


def enter(name: str) -> NodeApi:
    return NodeApi(token_of(name))


def put(by: Api, name: str, **limits: object) -> Any:
    path = f"/bootloader/grants/{name}"
    return by.client.put(path, {"vms": 0, **limits}, content_type="application/json")


def give(name: str, dollars: float, **limits: object) -> dict[str, Any]:
    answer = put(Api(), name, dollars=dollars, **limits)
    assert answer.status_code == 200, answer.content
    grant: dict[str, Any] = answer.json()["grant"]
    return grant


def spend(name: str, dollars: str) -> None:
    use(Lieutenant.objects.get(name=name), cost=Decimal(dollars))


def send(by: Api, name: str, **more: object) -> Any:
    return by.post(f"{AT}/{name}/send", {"message": "go on", **more})


def used_up() -> list[tuple[str, str, str]]:
    rows = Event.objects.filter(kind="grant.used-up").order_by("pk")
    return [(row.subject, row.actor, row.detail["reason"]) for row in rows]


# -- what is refused -----------------------------------------------------------------------------


def test_agents_begin_no_work_at_any_entrance_once_the_budget_is_used_up() -> None:
    give("ada", 1)
    token = token_of("ada")
    spend("ada-1-1", "0.75")
    for way, through in ENTRANCES.items():
        assert through(token, SEND, "ada-1") == ALLOWED, way
        assert through(token, CREATE, f"new-{way[:3]}") == ALLOWED, way
    spend("ada-2", "0.30")
    sent = Message.objects.count()

    for way, through in ENTRANCES.items():
        assert through(token, SEND, "ada-1") == REFUSED, way
        assert through(token, CREATE, f"more-{way[:3]}") == REFUSED, way

    assert Message.objects.count() == sent
    assert not Lieutenant.objects.filter(name__startswith="more").exists()
    assert used_up() == [("ada", "node ada", "$1.05 of $1.00")], "once"


def test_the_refusal_names_node_spent_and_limit() -> None:
    since = give("ada", 1)["dollarsSince"]
    spend("ada-1", "1")
    ada = enter("ada")
    answer = send(ada, "ada-1")
    assert answer.status_code == 403
    assert answer.json()["error"] == (
        f"rule: {budgets.RULE}. The budget of ada is used up: $1.00 of $1.00 since {since}"
    )
    assert send(enter("ada-1"), "ada-1-1").status_code == 403, "below, too"
    signal = enter("ada-1-1").post("/lieutenant/signal", {"to": "parent", "message": "done"})
    assert signal.status_code == 403
    made = operator_tokens.make("ci", "everything", subtree=node("ada"), by=make_operator())
    assert send(NodeApi(made[1]), "ada-2").status_code == 403
    for action in ("send", "start-below"):
        can = ada.get(f"/can?action={action}&target=ada-1").json()
        assert (can["allowed"], can["rule"]) == (False, budgets.RULE)
    assert ada.get("/can?action=command&target=ada-1").json()["allowed"] is True


def test_steering_and_aborting_stay_possible() -> None:
    give("ada", 0)
    ada = enter("ada")
    assert send(ada, "ada-1", mode="steer").status_code == 403, "it is idle: that begins work"
    Lieutenant.objects.filter(name="ada-1").update(status="error", restart_at=clock.now())
    Message.objects.create(lieutenant=Lieutenant.objects.get(name="ada-1"), text="waits")
    assert send(ada, "ada-1", mode="steer").status_code == 403, "its restart begins with it"
    Lieutenant.objects.filter(name="ada-1").update(status="working")
    for mode in ("prompt", "followUp"):
        assert send(ada, "ada-1", mode=mode).status_code == 403
    assert send(ada, "ada-1", mode="steer").json()["mode"] == "steer"
    assert ada.post(f"{AT}/ada-1/abort").status_code < 300


def test_operators_are_warned(api: Api) -> None:
    give("ada", 1)
    assert "note" not in send(api, "ada-1-1").json()
    spend("ada-1", "2.5")

    note = "the budget of ada is used up: $2.50 of $1.00"
    assert send(api, "ada-2").json()["note"] == note
    body = {"name": "new", "role": "tests", "local": True}
    made = api.post(AT, {**body, "parentVmId": "ada-1"})
    assert (made.status_code, made.json()["note"]) == (201, note)
    other = api.post(AT, {**body, "name": "other", "parentVmId": "bob"})
    assert (other.status_code, "note" in other.json()) == (201, False)
    result = declared_tools()["reef_lt_create"].call(
        Caller("root"), {"name": "third", "role": "tests", "local": True, "parentVmId": "ada"}
    )
    assert result.text.endswith(f"  Note: {note}")
    assert used_up() == [("ada", "root token", "$2.50 of $1.00")]


def test_the_nearest_and_the_farthest_budget_both_limit() -> None:
    give("ada", 10)
    give("ada-1", 1)
    ada, below = enter("ada"), enter("ada-1")
    spend("ada-1-1", "2")

    assert send(ada, "ada-2").status_code == 200
    refused = send(ada, "ada-1-1")
    assert refused.status_code == 403
    assert "The budget of ada-1 is used up: $2.00 of $1.00" in refused.json()["error"]
    assert send(below, "ada-1-1").status_code == 403
    give("ada-1", 3)
    assert send(below, "ada-1-1").status_code == 200
    spend("ada-2", "8")
    assert "budget of ada is used" in send(below, "ada-1-1").json()["error"]
    assert send(Api(), "bob").json().get("note") is None


# -- when it is read -----------------------------------------------------------------------------


def send_below_ada() -> Any:
    return send(enter("ada"), "ada-1")


def create_below_ada() -> Any:
    body = {"name": "ada-3", "role": "tests", "local": True}
    return enter("ada").post(AT, body, content_type="application/json")


BEGINNINGS = pytest.mark.parametrize(
    ("begin", "table"),
    [(send_below_ada, "lieutenants_message"), (create_below_ada, "lieutenants_lieutenant")],
    ids=["message", "creation"],
)


@BEGINNINGS
def test_sums_of_usage_are_read_before_the_transaction_of_new_work(
    database: str, begin: Callable[[], Any], table: str
) -> None:
    give("ada", 1)
    spend("ada-1", "0.5")
    with CaptureQueriesContext(connection) as captured:
        assert begin().status_code in (200, 201)

    said = [each["sql"] for each in captured.captured_queries]
    stored = next(at for at, sql in enumerate(said) if f'INTO "{table}"' in sql)
    begun = max(
        at for at, sql in enumerate(said[:stored]) if sql.startswith(("SAVEPOINT", "BEGIN"))
    )
    ended = said.index(said[begun].replace("SAVEPOINT", "RELEASE SAVEPOINT"))
    sums = [at for at, sql in enumerate(said) if 'FROM "lieutenants_usageslot"' in sql]
    assert min(sums) < begun
    assert not [at for at in sums if begun < at < ended]


@BEGINNINGS
def test_call_that_is_stored_meanwhile_uses_up_the_budget(
    database: str, monkeypatch: pytest.MonkeyPatch, begin: Callable[[], Any], table: str
) -> None:
    give("ada", 1)
    spend("ada-1-1", "0.6")
    really_read = Reading.of

    def read(vm_id: str) -> Reading:
        reading = really_read(vm_id)
        spend("ada-1-1", "0.5")
        return reading

    monkeypatch.setattr(Reading, "of", read)
    assert begin().status_code == 403
    assert used_up() == [("ada", "node ada", "$1.10 of $1.00")]


def test_call_that_is_stored_during_the_reading_counts_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give("ada", 1)
    really_read = budgets.budgets_of
    readings = 0

    def read(target: Node | str) -> list[budgets.Budget]:
        nonlocal readings
        readings += 1
        if readings == 1:
            spend("ada-1-1", "0.6")
        return really_read(target)

    monkeypatch.setattr(budgets, "budgets_of", read)
    assert send(enter("ada"), "ada-1").status_code == 200
    assert used_up() == []


# -- what counts ---------------------------------------------------------------------------------


def test_usage_counts_from_the_time_when_the_budget_was_set(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 3, 2, 8, 10, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: now)

    def spend_at(name: str, minutes: int, cost: str) -> None:
        at = now + timedelta(minutes=minutes)
        use(Lieutenant.objects.get(name=name), at=at, day=at.date(), cost=Decimal(cost))

    assert give("ada", 9)["dollarsSince"] == "2026-03-02T08:10:00.000Z"
    for minutes in (-1440, -60, -9, -1):
        spend_at("ada-1", minutes, "100")
    for minutes, cost in ((0, "0.1"), (4, "0.2"), (5, "0.3"), (60, "0.4"), (1440, "0.5")):
        spend_at("ada-1-1", minutes, cost)
    spend_at("bob", 1, "100")
    give("ada-1", 8)

    upper, lower = budgets.budgets_of("ada-1-1")
    assert (upper.spent, lower.spent) == (Decimal("1.5"), Decimal("1.5"))
    assert (upper.vm_id, lower.vm_id) == ("ada", "ada-1")
    gone = Lieutenant.objects.get(name="ada-1-1")
    Lieutenant.objects.filter(pk=gone.pk).update(status="destroyed")
    deregister(gone, actor="tests")
    assert budgets.budgets_of("ada")[0].spent == Decimal("1.5"), "of a destroyed one, too"


def test_a_lieutenant_takes_its_usage_along() -> None:
    give("ada-1", 1)
    give("bob", 1)
    spend("ada-1-1", "1.5")
    assert send(enter("ada"), "ada-1").status_code == 403

    tree.change("ada-1-1", NodeChange(parent_vm_id="bob"), by="tests")

    assert send(enter("ada"), "ada-1").status_code == 200
    assert send(enter("bob"), "ada-1-1").status_code == 403


def test_a_budget_begins_anew_only_if_asked() -> None:
    first = give("ada", 1)
    spend("ada-1", "1")
    assert give("ada", 2)["dollarsSince"] == first["dollarsSince"]
    assert budgets.budgets_of("ada")[0].left == 1
    assert give("ada", 2, renewDollars=True)["dollarsSince"] > first["dollarsSince"]
    assert budgets.budgets_of("ada")[0].left == 2
    assert put(Api(), "ada").json()["grant"]["dollarsSince"] is None
    assert budgets.budgets_of("ada") == []


def test_crossing_is_recorded_once_for_each_limit() -> None:
    give("ada", 1)
    budgets.record_all_used_up()
    assert used_up() == []
    spend("ada-1", "1")
    for _ in range(2):
        budgets.record_all_used_up()
    assert used_up() == [("ada", "reef", "$1.00 of $1.00")]
    give("ada", 1, lieutenants=5)
    budgets.record_all_used_up()
    assert len(used_up()) == 1, "the budget is the same"
    give("ada", 2)
    spend("ada-2", "1")
    budgets.record_all_used_up()
    assert used_up()[1:] == [("ada", "reef", "$2.00 of $2.00")]


# -- passing on ----------------------------------------------------------------------------------


def test_a_node_passes_on_at_most_what_it_has_left() -> None:
    ada = enter("ada")
    assert put(ada, "ada-1", dollars=50).status_code == 200, "nothing limits it"
    give("ada", 5)
    spend("ada-2", "2")

    assert put(ada, "ada-1", dollars=40).status_code == 200, "it may be lowered"
    give("ada-1", 0)
    for limits, words in (
        ({"dollars": 3.01}, "it has $3.00 left, not $3.01"),
        ({}, "it has $3.00 left, not any amount"),
    ):
        refused = put(ada, "ada-1", **limits)
        assert refused.status_code == 403
        assert refused.json()["error"].endswith(words)
    assert put(ada, "ada-1", dollars=3).status_code == 200
    assert put(enter("ada-1"), "ada-1-1", dollars=3.5).status_code == 403
    for name in ("ada", "bob"):
        assert put(ada, name, dollars=1).status_code == 403, name
    kept = dict(ProvisionGrant.objects.values_list("node__vm_id", "dollars"))
    assert kept == {"ada": 5, "ada-1": 3}


def test_a_node_without_a_grant_raises_no_limit_that_others_have_set() -> None:
    give("ada-1", 5, lieutenants=3)
    ada, kept = enter("ada"), {"lieutenants": 3}
    for limits in (
        {"dollars": 5},
        {"dollars": 5, "lieutenants": 4},
        {**kept},
        {**kept, "dollars": 6},
        {**kept, "dollars": 5, "renewDollars": True},
    ):
        assert put(ada, "ada-1", **limits).status_code == 403, limits
    assert put(ada, "ada-1", dollars=4, lieutenants=2).status_code == 200, "they may be lowered"
    row = ProvisionGrant.objects.get()
    assert row.dollars == 4
    assert row.lieutenants == 2


# -- what is told --------------------------------------------------------------------------------


def ask(caller: object, **arguments: object) -> ToolResult:
    tool = declared_tools()["reef_usage"]
    return tool.call(caller, tool.parse(arguments))


def test_agents_learn_what_is_left() -> None:
    since = give("ada", 5)["dollarsSince"]
    give("ada-1", 20)
    spend("ada-1-1", "1.25")
    expected = {"limit": 5.0, "spent": 1.25, "left": 3.75, "node": "ada", "since": since}

    for name in ("ada", "ada-1-1"):
        caller = Caller(f"node {name}", node(name))
        for told in (ask(caller), ask(caller, by="model")):
            assert told.details["budget"] == expected
            assert told.text.endswith(
                f"Budget: $1.25 of $5.00 spent by ada and below since {since}, $3.75 left."
            )
        assert enter(name).get("/whoami").json()["budget"] == expected
        assert enter(name).get("/usage").json()["budget"] == expected
    whoami = enter("ada-1").get("/whoami").json()
    assert whoami["grant"]["dollars"] == 20
    assert [each["dollars"] for each in whoami["limits"]] == [5, 20]
    _, printed, _ = run_client(token_of("ada-1"), ["usage"])
    assert "budget: $1.2500 of $5.0000 spent by ada and below, $3.7500 left" in printed


def test_callers_without_a_budget_learn_that(api: Api) -> None:
    give("ada", 5)
    for caller in (Caller("root"), Caller("node bob", node("bob"))):
        told = ask(caller)
        assert told.details["budget"] is None
        assert told.text.endswith("Budget: no limit of money.")
    assert api.get("/whoami").json()["budget"] is None
    assert api.get("/usage").json()["budget"] is None


# -- queries -------------------------------------------------------------------------------------


def queries_of_send() -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        services.send("ada-1-1", "go on", actor=Caller("node ada", node("ada")))
    return [each["sql"] for each in queries if "provisiongrant" in each["sql"]]


def test_sending_costs_no_query_without_budgets_and_few_with_them(database: str) -> None:
    put(Api(), "ada", lieutenants=3)
    [shared] = queries_of_send()
    assert 'FROM "lieutenants_lieutenant"' in shared, "a query that is made anyway"

    give("ada", 5)
    Lieutenant.objects.filter(name="ada-1-1").update(status="idle")
    with CaptureQueriesContext(connection) as one:
        budgets.budgets_of("ada-1-1")
    give("ada-1", 5)
    give("ada-1-1", 5)
    with CaptureQueriesContext(connection) as three:
        assert len(budgets.budgets_of("ada-1-1")) == 3
    assert len(one) == len(three) <= 6
