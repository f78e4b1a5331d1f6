"""`reef_wait` for an event of the log: which one ends the wait, and what its caller may read."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from lieutenants.conditions import Conditions
from reef_site.common import clock
from reef_site.common.eventlog import reading, recording
from tests.conftest import Api
from tests.fleets import database, grow
from tests.lieutenants.rows import enlist
from tests.vmtree.conftest import NodeApi
from vmtree import services, tokens
from vmtree.models import Node
from vmtree.services import NewNode

__all__ = ["database"]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _tree() -> None:
    """Plant root → (left → leaf, leaf2; right)."""
    grow()


def wait(client: Any, **arguments: object) -> Any:
    """Return the result of a wait for no time."""
    answer = client.post("/tools/reef_wait", {"seconds": 0, **arguments})
    assert answer.status_code == 200, answer.content
    return answer.json()


def record(kind: str, subject: str, vm_id: str | None = None) -> int:
    recording.record(kind, subject, actor="tests", detail={"reason": "x"}, vm_id=vm_id)
    return reading.last_id()


def of_node(vm_id: str) -> NodeApi:
    return NodeApi(tokens.issue(Node.objects.get(vm_id=vm_id), made_by="tests"))


def test_wait_ends_with_the_first_later_event_that_matches(api: Api) -> None:
    record("vm.late", "leaf")
    start = reading.last_id()
    event = {"kind": ["vm.late", "question"], "subtree": "left"}
    begun = wait(api, event=event)
    given = json.dumps({**event, "cursor": start})
    assert begun["text"] == (
        "Not yet: event vm.late or question in the subtree of left is awaited. "
        f"Call reef_wait with event {given} to go on waiting."
    )
    for kind, subject in (("vm.late", "right"), ("vm.silent", "leaf"), ("lieutenant.idle", "leaf")):
        record(kind, subject)
    again = wait(api, **begun["details"]["again"])
    assert (again["details"]["done"], begun["details"]["done"]) == (False, False)
    assert again["details"]["again"]["event"]["cursor"] == reading.last_id() == start + 3

    first = record("question.asked", "01Q", "leaf2")
    record("vm.late", "leaf")
    done = wait(api, **again["details"]["again"])
    assert done["text"] == f"Done: event {first} is question.asked about 01Q by tests."
    [found] = done["details"]["waits"]
    assert (found["kind"], found["met"], found["event"]["id"]) == ("event", True, first)
    assert found["event"]["detail"] == {"reason": "x"}
    assert "again" not in done["details"]


def test_earlier_events_count_from_a_time_or_number_on(api: Api) -> None:
    before, first = reading.last_id(), record("vm.late", "leaf")
    event = {"kind": ["vm"], "subject": "leaf"}
    for start in (
        {"cursor": before},
        {"cursor": 0},
        {"since": (clock.now() - timedelta(minutes=1)).isoformat()},
    ):
        [found] = wait(api, event={**event, **start})["details"]["waits"]
        assert found["event"]["id"] == first
    # A number of another database: from now on.
    later = {"cursor": first + 1000}
    assert wait(api, event={**event, **later})["details"]["again"]["event"]["cursor"] == first


def test_an_event_is_one_condition_among_others(api: Api) -> None:
    ada = enlist("ada", status="working")
    services.create(NewNode("ada", "lieutenant", ada.pk), by="tests")
    # By its name, as agents know it.
    event = {"subject": "ada", "cursor": reading.last_id()}
    given = {"event": event, "lieutenants": ["ada"]}
    assert wait(api, until="any", **given)["details"]["done"] is False
    record("lieutenant.aborted", ada.pk)
    assert wait(api, **given)["details"]["done"] is False
    either = wait(api, until="any", **given)
    assert either["text"].startswith("Done: ada is working; event ")
    assert either["text"].endswith(f" is lieutenant.aborted about {ada.pk} (ada) by tests.")


def test_nodes_wait_for_events_that_they_may_read(api: Api) -> None:
    leaf = of_node("leaf")
    boot = {"event": {"kind": ["boot"], "cursor": reading.last_id()}}
    record("boot.failed", "01A", "right")
    assert wait(leaf, **boot)["details"]["done"] is False
    own = record("boot.failed", "01B", "leaf")
    assert wait(leaf, **boot)["details"]["waits"][0]["event"]["id"] == own
    # Everybody sees the status of a lieutenant; why it has it is part of its transcript.
    status = {"event": {"kind": ["lieutenant"], "cursor": own}}
    record("lieutenant.error", "right")
    assert wait(leaf, **status)["details"]["waits"][0]["event"]["detail"] is None
    assert wait(api, **status)["details"]["waits"][0]["event"]["detail"] == {"reason": "x"}

    refused = wait(leaf, event={"kind": ["snapshot.taken"]})
    assert refused == {
        "text": "Error: event.kind: you read no events of the topic 'snapshot'; topics that you "
        "read: lieutenant, vm, tree, operation, boot, config, question",
        "isError": True,
    }


def test_edge_goes_on_with_the_rights_and_the_place_of_the_call(api: Api) -> None:
    leaf = of_node("leaf")
    body = {"event": {"kind": ["boot"]}, "seconds": 9}
    header = leaf.post("/tools/reef_wait", body).headers["Reef-Wait"]
    conditions = Conditions.parse(header)
    assert conditions.seconds == 9
    record("boot.failed", "01A", "right")
    assert not conditions.is_over()
    own = record("boot.failed", "01B", "leaf")
    assert conditions.is_over()
    assert conditions.arguments["event"] == {"kind": ["boot"], "cursor": own - 1}
    assert wait(leaf, **conditions.arguments)["details"]["waits"][0]["event"]["id"] == own


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ("vm.late", "event: must be an object"),
        ({"kind": "vm.late"}, "event.kind: must be a list of 0 to 20 kinds"),
        ({"since": "soon"}, "since: must be a time such as 2026-11-22T06:21:09.098Z"),
        ({"cursor": -1}, "event.cursor: must be a whole number from 0 to 9007199254740992"),
    ],
)
def test_invalid_events_are_refused(api: Api, event: object, error: str) -> None:
    answer = api.post("/tools/reef_wait", {"event": event})
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    unknown = api.post("/tools/reef_wait", {"event": {"kinds": ["vm"]}})
    assert unknown.json()["error"].startswith("kinds: not known; did you mean kind? ")
