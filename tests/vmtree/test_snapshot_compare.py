"""Comparison of two snapshots, or of one and now: the tree, and the registry beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry import services as registry
from registry.services import Registration
from tests.conftest import Api
from vmtree import services
from vmtree.models import Node
from vmtree.services import NodeChange
from vmtree.snapshot_models import Snapshot


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Return the folder of this test's snapshots."""
    settings.DATA_DIR = tmp_path
    return tmp_path / "snapshots"


def take(api: Api) -> Snapshot:
    return Snapshot.objects.get(pk=api.post("/vm-tree/snapshot").json()["id"])


def test_compare_lists_differences_of_the_tree(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    old = take(api)
    services.create(services.NewNode("new one", "agent_vm", "cid", "bob"), by="x")
    services.remove("bob-1", by="x")
    services.change("ada-2", NodeChange(parent_vm_id="bob"), by="x")
    dna = {"organs": ["store"], "capabilities": ["ssh"]}
    services.change("ada-1", NodeChange(dna=dna, name="Ada One"), by="x")
    services.change(
        "roof", NodeChange(dna={"organs": ["store", "roof"], "capabilities": []}), by="x"
    )
    new = take(api)

    path = f"/vm-tree/snapshots/{old.pk}/compare"
    answer = api.get(f"{path}?with={new.pk}").json()
    assert api.get(f"{path}?to={new.pk}").json() == answer
    assert api.get(f"{path}?to=now&with={new.pk}").status_code == 400

    assert answer["counts"] == {
        "added": 1,
        "removed": 1,
        "moved": 1,
        "dnaChanged": 1,
        "renamed": 1,
        "kept": 0,
        "leftOut": 0,
    }
    assert answer["added"] == [
        {"vmId": "cid", "name": "new one", "category": "agent_vm", "parentVmId": "bob"}
    ]
    assert [each["vmId"] for each in answer["removed"]] == ["bob-1"]
    [moved] = answer["moved"]
    assert moved["vmId"] == "ada-2"
    assert moved["from"] == {"parentVmId": "ada"}
    assert moved["to"] == {"parentVmId": "bob"}
    [changed] = answer["dnaChanged"]
    assert changed["vmId"] == "ada-1"
    assert changed["added"] == {"organs": [], "capabilities": ["ssh"]}
    assert changed["removed"] == {"organs": ["ada-1"], "capabilities": []}
    [renamed] = answer["renamed"]
    assert renamed["to"] == {"name": "Ada One", "category": "swarm_vm"}
    with_now = api.get(f"/vm-tree/snapshots/{old.pk}/compare").json()
    assert with_now == {**answer, "to": "now"}
    short = api.get(f"/vm-tree/snapshots/{old.pk}/compare?limit=0").json()
    assert short["counts"] == answer["counts"]
    assert (short["added"], short["truncated"]) == ([], True)
    assert api.get(f"/vm-tree/snapshots/{new.pk}/compare").json()["counts"]["added"] == 0


def test_other_snapshot_must_exist_and_be_named_once(api: Api, family: dict[str, Node]) -> None:
    path = f"/vm-tree/snapshots/{take(api).pk}/compare"

    assert api.get(f"{path}?to=0").json() == {"error": "snapshot not found"}
    assert api.get(f"{path}?with=0").status_code == 404
    assert api.get(f"{path}?to=now&with=7").status_code == 400
    refused = api.get(f"{path}?to=yesterday")
    assert refused.status_code == 400
    assert refused.json() == {"error": "to: must be the id of a snapshot, or 'now'"}


def test_compare_lists_differences_of_the_registry(database: str, api: Api) -> None:
    def register(vm_id: str, **fields: Any) -> None:
        registry.register(Registration(vm_id, f"VM {vm_id}", "worker", "::1", "tests", **fields))

    for vm_id in ("stays", "goes", "changes"):
        register(vm_id)
    old = take(api)
    register("comes")
    registry.deregister("goes")
    registry.patch("stays", {})
    dna = {"organs": ["store"], "capabilities": []}
    registry.patch("changes", {"status": "paused", "reef_config": dna})

    path = f"/vm-tree/snapshots/{old.pk}/compare"
    answer = api.get(path).json()["registry"]

    assert answer["counts"] == {"added": 1, "removed": 1, "changed": 1}
    assert answer["added"] == [{"id": "comes", "name": "VM comes"}]
    assert answer["removed"] == [{"id": "goes", "name": "VM goes"}]
    [changed] = answer["changed"]
    assert changed["id"] == "changes"
    empty: dict[str, list[str]] = {"organs": [], "capabilities": []}
    assert changed["from"] == {"status": "running", "reefConfig": empty}
    assert changed["to"] == {"status": "paused", "reefConfig": dna}
    new = take(api)
    assert api.get(f"{path}?with={new.pk}").json()["registry"] == answer
    assert api.get(f"{path}?limit=0").json()["registry"]["added"] == []
    # A restore does not change the registry but reports the differences.
    plan = api.post(f"/vm-tree/snapshots/{old.pk}/restore").json()
    assert [each["id"] for each in plan["notRestored"]["registry"]["removed"]] == ["comes"]
    assert set(plan["counts"].values()) == {0}
