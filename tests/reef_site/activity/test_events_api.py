"""`GET /events` as pages of JSON: order, filters, and what a caller may read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from reef_site.accounts.signin_links import make_operator
from reef_site.common import clock
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.models import Event
from tests.conftest import Api
from tests.fleets import database, grow
from vmtree import operator_tokens, tokens
from vmtree import services as tree
from vmtree.models import Node
from vmtree.services import NodeChange

__all__ = ["database"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def fleet_of_events() -> None:
    """Plant root → (left → leaf, leaf2; right), and record one event of each sort."""
    grow()
    Event.objects.all().delete()
    for kind, subject, vm_id in (
        ("vm.late", "left", None),
        ("lieutenant.error", "leaf", None),
        ("lieutenant.error", "right", None),
        ("boot.failed", "01BOOT", "leaf2"),
        ("config.set", "ANTHROPIC_API_KEY", "left"),
        ("config.set", "OPENAI_API_KEY", ""),
        ("snapshot.taken", "vms-1.sqlite", ""),
        ("permission.refused", "right", ""),
        ("later.version", "x", ""),
    ):
        recording.record(kind, subject, actor=f"by {kind}", detail={"reason": "x"}, vm_id=vm_id)


def get(client: Client, query: str = "") -> dict[str, Any]:
    answer = client.get(f"/events?{query}")
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def kinds(client: Client, query: str = "") -> list[tuple[str, str]]:
    return [(each["kind"], each["subject"]) for each in get(client, query)["events"]]


def with_token(vm_id: str) -> Client:
    token = tokens.issue(Node.objects.get(vm_id=vm_id), made_by="tests")
    return Client(headers={"authorization": f"Bearer {token}"})


def test_pages_continue_without_a_gap(api: Api) -> None:
    for number in range(5):
        recording.record("vm.registered", f"vm-{number}", actor="tests")
    first = get(api.client, "limit=2")
    second = get(api.client, f"limit=2&cursor={first['next']}")
    third = get(api.client, f"limit=2&cursor={second['next']}")

    found = [each["subject"] for page in (first, second, third) for each in page["events"]]
    assert found == [f"vm-{number}" for number in range(5)]
    assert third["next"] is None
    # To read on later.
    recording.record("vm.registered", "vm-5", actor="tests")
    assert [each["subject"] for each in get(api.client, f"cursor={third['last']}")["events"]] == [
        "vm-5"
    ]


def test_event_names_what_happened_to_what_by_whom(api: Api) -> None:
    recording.record("vm.late", "vm-7", actor="reef", detail={"name": "seven"})

    [found] = get(api.client)["events"]
    assert found.pop("at").endswith("Z")
    assert found == {
        "id": Event.objects.get().pk,
        "kind": "vm.late",
        "subject": "vm-7",
        "vmId": "vm-7",
        "actor": "reef",
        "detail": {"name": "seven"},
    }


@pytest.mark.usefixtures("fleet_of_events")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("kind=vm", ["left"]),
        ("kind=lieutenant.error", ["leaf", "right"]),
        ("kind=lieutenant.*&kind=vm.", ["left", "leaf", "right"]),
        ("kind=lieutenant.idle", []),
        ("kind=lieu", []),
        ("subtree=left", ["left", "leaf", "01BOOT", "ANTHROPIC_API_KEY"]),
        ("subtree=nothing", []),
        ("subject=leaf2", ["01BOOT"]),
        ("subject=ANTHROPIC_API_KEY", ["ANTHROPIC_API_KEY"]),
        ("actor=by vm.late", ["left"]),
        ("subtree=left&kind=boot", ["01BOOT"]),
        ("order=newest&limit=1", ["x"]),
    ],
)
def test_filters(api: Api, query: str, expected: list[str]) -> None:
    assert [subject for _, subject in kinds(api.client, query)] == expected


def test_since(api: Api) -> None:
    recording.record("vm.late", "early", actor="reef")
    recording.record("vm.late", "now", actor="reef")
    Event.objects.filter(subject="early").update(at=clock.now() - timedelta(hours=1))
    since = clock.format_timestamp(clock.now() - timedelta(minutes=1))

    assert kinds(api.client, f"since={since}") == [("vm.late", "now")]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("order=sideways", "order: must be one of oldest, newest"),
        ("limit=0", "limit: must be a whole number from 1 to 1000"),
        ("since=soon", "since: "),
        ("knid=vm", "knid: "),
    ],
)
def test_wrong_query_is_refused(api: Api, query: str, problem: str) -> None:
    answer = api.get(f"/events?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(problem)


def test_node_reads_what_it_may(database: str, request: pytest.FixtureRequest) -> None:
    """Of itself and below everything but refusals; of others what registry and tree show."""
    request.getfixturevalue("fleet_of_events")
    found = {subject: kind for kind, subject in kinds(with_token("left"))}

    assert found == {
        "left": "vm.late",
        "leaf": "lieutenant.error",
        "right": "lieutenant.error",
        "01BOOT": "boot.failed",
        "ANTHROPIC_API_KEY": "config.set",
    }
    details = {each["subject"]: each["detail"] for each in get(with_token("left"))["events"]}
    # The reason of another's error is part of its transcript.
    assert details["right"] is None
    assert details["leaf"] == {"reason": "x"}
    assert ("boot.failed", "01BOOT") not in kinds(with_token("right"))


@pytest.mark.usefixtures("fleet_of_events")
def test_move_in_the_tree_changes_what_a_node_reads() -> None:
    assert ("boot.failed", "01BOOT") in kinds(with_token("left"))
    tree.change("leaf2", NodeChange(parent_vm_id="right"), by="tests")

    assert ("boot.failed", "01BOOT") not in kinds(with_token("left"))
    assert ("boot.failed", "01BOOT") in kinds(with_token("right"))


@pytest.mark.usefixtures("fleet_of_events")
@pytest.mark.parametrize("scope", ["read", "everything"])
def test_operator_token_with_a_subtree_reads_like_its_node(scope: str) -> None:
    subtree = Node.objects.get(vm_id="left")
    _, token = operator_tokens.make("script", scope, subtree=subtree, by=make_operator())
    Event.objects.filter(kind="permission.token-made").delete()
    found = kinds(Client(headers={"authorization": f"Bearer {token}"}))

    assert found == kinds(with_token("left"))


@pytest.mark.usefixtures("fleet_of_events")
def test_account_reads_all_but_refusals(client: Client) -> None:
    client.force_login(get_user_model().objects.create_user("reader"))
    found = kinds(client)

    assert {topic.partition(".")[0] for topic, _ in found} == {
        *("vm", "lieutenant", "boot", "config", "snapshot"),
    }
    assert all(each["detail"] for each in get(client)["events"])


def test_without_credentials(client: Client) -> None:
    assert client.get("/events").status_code == 401


def test_root_reads_topics_of_later_versions(api: Api, fleet_of_events: None) -> None:
    assert ("later.version", "x") in kinds(api.client)
    assert ("permission.refused", "right") in kinds(api.client)
