"""Creating, changing, moving, removing, and the history of all that."""

from __future__ import annotations

import pytest

from reef_site.common import events
from tests.conftest import Api
from tests.vmtree.conftest import Make, ids
from vmtree import services
from vmtree.models import Node, NodeToken, Revision, Trait
from vmtree.services import NodeChange

Family = dict[str, Node]
AT = "/vm-tree/vms"


def patch(api: Api, vm_id: str, **fields: object) -> dict[str, object]:
    answer = api.client.patch(f"{AT}/{vm_id}", data=fields, content_type="application/json")
    return {"status": answer.status_code, **answer.json()}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "name is required"),
        ({"name": "  "}, 400, "name is required"),
        ({"name": ["x"]}, 400, "name: must be a string"),
        ({"name": "x\0"}, 400, "name: has characters that are no text"),
        ({"name": "x" * 256}, 400, "name: at most 255 characters"),
        ({"name": "x"}, 400, "invalid category: undefined"),
        ({"name": "x", "category": None}, 400, "invalid category: null"),
        ({"name": "x", "category": "boss"}, 400, "invalid category: boss"),
        ({"name": "x", "category": "agent_vm", "vmId": True}, 400, "vmId: must be a string"),
        (
            {"name": "x", "category": "agent_vm", "vmId": "a/"},
            400,
            "vmId: must be printable and not end with a slash",
        ),
        (
            {"name": "x", "category": "agent_vm", "parentVmId": "nobody"},
            400,
            "parent VM 'nobody' not found",
        ),
        (
            {"name": "x", "category": "agent_vm", "reefConfig": {"organs": "store"}},
            400,
            "reefConfig.organs: must be a list of text",
        ),
        (
            {"name": "x", "category": "agent_vm", "reefConfig": {"bones": []}},
            400,
            "reefConfig: has no 'bones', only organs and capabilities",
        ),
        ({"name": "x", "category": "agent_vm", "vmId": "ada"}, 409, "VM 'ada' exists already"),
    ],
)
def test_invalid_vm_is_rejected_with_a_reason(
    db: None, api: Api, make: Make, body: dict[str, object], status: int, says: str
) -> None:
    make("ada")
    answer = api.post(AT, body)

    assert (answer.status_code, answer.json()) == (status, {"error": says})
    assert Node.objects.count() == 1


def test_vm_moves_with_its_descendants(family: Family, api: Api) -> None:
    moved = patch(api, "ada-2", parentVmId="bob")

    assert moved["parentVmId"] == "bob"
    assert ids(api.get(f"{AT}/ada-2-1/ancestors"), "ancestors") == [
        *("roof", "bob", "ada-2", "ada-2-1")
    ]
    assert patch(api, "ada-2", parentVmId=None)["parentVmId"] is None
    assert ids(api.get(f"{AT}/ada-2-1/ancestors"), "ancestors") == ["ada-2", "ada-2-1"]


@pytest.mark.parametrize("under", ["ada", "ada-2", "ada-2-1"])
def test_vm_cannot_move_below_itself(family: Family, api: Api, under: str) -> None:
    answer = patch(api, "ada", parentVmId=under)

    assert answer["status"] == 400
    assert "itself or below it" in str(answer["error"])
    assert Node.objects.get(vm_id="ada").parent == family["roof"]


def test_every_change_is_recorded_as_a_revision(family: Family, api: Api) -> None:
    patch(api, "ada-1", name="first")
    patch(api, "ada-1", reefConfig={"organs": ["cron"]}, category="infra_vm")
    patch(api, "ada-1", parentVmId="bob")
    patch(api, "ada-1", parentVmId="bob", name="first")
    patch(api, "ada-1")
    assert api.delete(f"{AT}/ada-1").json() == {"deleted": True}

    answer = api.get(f"{AT}/ada-1/history").json()

    assert [each["what"] for each in answer["history"]] == [
        *("removed", "changed", "changed", "changed", "created")
    ]
    assert [each["name"] for each in answer["history"]] == ["first"] * 4 + ["ada-1"]
    assert [each["parentVmId"] for each in answer["history"]] == ["bob", "bob", *["ada"] * 3]
    assert answer["history"][2]["reefConfig"] == {"organs": ["cron"], "capabilities": []}
    assert {each["actor"] for each in answer["history"]} == {"root token", "tests"}
    page = api.get(f"{AT}/ada-1/history?limit=2").json()
    for word in ("cursor", "before"):
        rest = api.get(f"{AT}/ada-1/history?limit=9&{word}={page['next']}").json()
        assert [*page["history"], *rest["history"]] == answer["history"]
    assert api.get(f"{AT}/ada-1/history?cursor=zz").status_code == 400


def test_removed_node_is_kept_and_its_id_is_never_reused(family: Family, api: Api) -> None:
    api.delete(f"{AT}/ada-1")

    again = api.post(AT, {"name": "x", "category": "agent_vm", "vmId": "ada-1"})

    assert again.status_code == 409
    assert again.json()["error"] == "VM 'ada-1' was removed; its id is never given again"
    assert api.get(f"{AT}/ada-1").status_code == 404
    assert api.get(f"{AT}/ada-1?includeRemoved=true").json()["removedAt"]
    assert "ada-1" not in ids(api.get(AT), "vms")
    assert "ada-1" in ids(api.get(f"{AT}?includeRemoved=true"), "vms")
    assert ids(api.get(f"{AT}/ada/children"), "children") == ["ada-2"]
    assert ids(api.get(f"{AT}/ada/children?includeRemoved=true"), "children") == ["ada-1", "ada-2"]
    assert api.get("/vm-tree/find/organ/ada-1").json()["count"] == 0
    below = api.post(AT, {"name": "x", "category": "agent_vm", "parentVmId": "ada-1"})
    assert below.status_code == 400


def test_subtree_is_removed_only_with_the_correct_count(family: Family, api: Api) -> None:
    assert api.delete(f"{AT}/ada").json() == {
        "error": "VM 'ada' has 2 children. Remove or reassign them first."
    }
    assert api.delete(f"{AT}/ada?subtree=true").json() == {
        "error": "confirm: must be 4, the number of VMs that would be removed"
    }
    wrong = api.delete(f"{AT}/ada?subtree=true&confirm=3")
    assert (wrong.status_code, Node.objects.active().count()) == (409, 7)

    answer = api.delete(f"{AT}/ada?subtree=true&confirm=4")

    assert answer.json() == {"deleted": True, "count": 4}
    assert sorted(ids(api.get(AT), "vms")) == ["bob", "bob-1", "roof"]
    assert Revision.objects.filter(what="removed").count() == 4


def test_stats_are_correct_and_lists_are_paginated(family: Family, api: Api) -> None:
    assert api.get("/vm-tree/stats").json() == {
        "total": 7,
        "byCategory": {"agent_vm": 1, "infra_vm": 1, "lieutenant": 2, "swarm_vm": 3},
        "roots": 1,
    }
    first = api.get(f"{AT}?limit=4").json()
    second = api.get(f"{AT}?limit=4&cursor={first['next']}").json()
    assert [each["vmId"] for each in first["vms"] + second["vms"]] == ids(api.get(AT), "vms")
    assert (first["count"], second["count"], second["next"]) == (4, 3, None)
    assert api.get(f"{AT}?limit=4&cursor=zz").status_code == 400


def test_find_matches_exact_names(database: str, api: Api, make: Make) -> None:
    make("a", organs=("store", "store", "ssh"), capabilities=("cron",))
    make("b", organs=("cron",), capabilities=("Store",))

    assert ids(api.get("/vm-tree/find/organ/store"), "vms") == ["a"]
    assert ids(api.get("/vm-tree/find/organ/cron"), "vms") == ["b"]
    assert ids(api.get("/vm-tree/find/capability/cron"), "vms") == ["a"]
    assert ids(api.get("/vm-tree/find/organ/s%25"), "vms") == []
    patch(api, "a", reefConfig={"organs": ["ssh"]})
    assert ids(api.get("/vm-tree/find/organ/store"), "vms") == []
    assert Trait.objects.filter(node__vm_id="a").count() == 1


def test_hostile_names_work_in_pages_and_paths(database: str, api: Api, make: Make) -> None:
    make("x/y z", name="<script>alert(1)</script>", organs=("<b>",), capabilities=("a&b",))

    panel = api.get("/vm-tree/_panel").content.decode()

    assert "<script>" not in panel
    assert "&lt;b&gt;" in panel
    assert api.get(f"{AT}/x%2Fy%20z").json()["vmId"] == "x/y z"
    assert ids(api.get(f"{AT}/x%2Fy%20z/ancestors"), "ancestors") == ["x/y z"]


def test_removal_is_published(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(events, "publish_nodes", told.extend)

    services.remove("ada", by="tests", subtree=True, confirm=4)
    services.change("bob", NodeChange(name="b"), by="tests")

    assert sorted(told[:4]) == ["ada", "ada-1", "ada-2", "ada-2-1"]
    assert told[4:] == ["bob"]


def test_tokens_of_removed_descendants_are_revoked(family: Family, api: Api) -> None:
    for vm_id in ("ada", "ada-2-1", "bob"):
        assert api.post(f"{AT}/{vm_id}/token").status_code == 201

    assert api.delete(f"{AT}/ada/token").json() == {"revoked": 2}
    assert [token.node.vm_id for token in NodeToken.objects.good()] == ["bob"]
    assert api.get(f"{AT}/ada/token").json()["tokens"][0]["revokedAt"]
