"""Places in the tree: given to VMs that register below a node, or assigned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from registry import tasks
from registry.models import VM
from tests.conftest import Api
from tests.registry.conftest import Register
from tests.vmtree.conftest import NodeApi
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Category, Node
from vmtree.services import NewNode


@pytest.fixture
def top(database: str) -> Node:
    return tree.create(NewNode("top", "lieutenant", "top"), by="tests")


def as_node(node: Node) -> NodeApi:
    return NodeApi(tokens.issue(node, made_by="tests"))


def post_node(api: Api, vm_id: str, **more: Any) -> Any:
    return api.post("/vm-tree/vms", {"vmId": vm_id, "name": vm_id, "category": "swarm_vm", **more})


def history(vm_id: str) -> list[str]:
    return list(tree.find(vm_id).revisions.values_list("what", flat=True))


@pytest.mark.parametrize(
    ("role", "category"),
    [
        ("infra", Category.INFRA_VM),
        ("golden", Category.INFRA_VM),
        ("lieutenant", Category.LIEUTENANT),
        ("worker", Category.AGENT_VM),
        ("custom", Category.AGENT_VM),
    ],
)
def test_vm_registered_below_a_node_gets_a_place(
    register: Register, top: Node, role: str, category: str
) -> None:
    dna = {"organs": ["store"], "capabilities": ["ssh"]}
    register("child", role=role, parentVmId="top", reefConfig=dna)
    node = tree.find("child")
    assert (node.parent_vm_id, node.category, node.reef_config) == ("top", category, dna)
    assert Node.objects.with_trait("organ", "store").get() == node
    assert history("child") == ["placed"]
    register("child", role=role, parentVmId="top")
    assert history("child") == ["placed"]


def test_later_registration_can_assign_the_parent(register: Register, top: Node) -> None:
    register("first")
    register("second", parentVmId="late")
    assert not Node.objects.exclude(vm_id="top").exists()
    register("first", parentVmId="top")
    tree.create(NewNode("late", "lieutenant", "late"), by="tests")
    register("second")
    found = Node.objects.values_list("vm_id", "parent__vm_id")
    assert {("first", "top"), ("second", "late")} <= set(found)


def test_sweep_places_vms_below_a_new_parent(register: Register, top: Node) -> None:
    register("leaf", parentVmId="mid")
    register("mid", parentVmId="root")
    register("lonely", parentVmId="nobody")
    tree.create(NewNode("root", "infra_vm", "root"), by="tests")
    tasks.sweep()
    tasks.sweep()
    found = Node.objects.values_list("vm_id", "parent__vm_id")
    assert {("mid", "root"), ("leaf", "mid")} <= set(found)
    assert not Node.objects.filter(vm_id="lonely").exists()


def test_registration_does_not_change_removed_or_placed_nodes(
    register: Register, top: Node
) -> None:
    tree.create(NewNode("gone", "agent_vm", "gone", "top"), by="tests")
    tree.create(NewNode("root", "agent_vm", "elsewhere"), by="tests")
    tree.remove("gone", by="tests")
    register("gone", parentVmId="top")
    register("elsewhere", parentVmId="top")
    tasks.sweep()
    assert not Node.objects.active().filter(vm_id="gone").exists()
    assert tree.find("elsewhere").parent is None


def test_first_creation_of_a_placed_node_updates_it(
    api: Api, register: Register, top: Node
) -> None:
    dna = {"organs": ["store"], "capabilities": []}
    register("child", parentVmId="top", reefConfig=dna)
    answer = post_node(api, "child", parentVmId=None)
    assert answer.status_code == 201
    node = answer.json()
    assert (node["category"], node["parentVmId"], node["reefConfig"]) == ("swarm_vm", "top", dna)
    assert post_node(api, "child").status_code == 409
    assert history("child") == ["placed", "changed"]


def test_first_creation_may_confirm_or_move_a_placed_node(
    api: Api, register: Register, top: Node
) -> None:
    tree.create(NewNode("other", "lieutenant", "other"), by="tests")
    for vm_id in ("same", "moved"):
        register(vm_id, parentVmId="top")
    assert post_node(api, "same", category="agent_vm", parentVmId="top").status_code == 201
    assert post_node(api, "same", category="agent_vm", parentVmId="top").status_code == 409
    assert post_node(api, "moved", parentVmId="nobody").status_code == 400
    assert post_node(api, "moved", parentVmId="other").json()["parentVmId"] == "other"
    assert post_node(api, "top").status_code == 409


def test_creation_of_a_changed_node_is_a_conflict(api: Api, register: Register, top: Node) -> None:
    register("child", parentVmId="top")
    tree.change("child", tree.NodeChange(name="by hand"), by="tests")
    assert post_node(api, "child").status_code == 409


def test_node_manages_vms_that_it_registers_below_itself(
    api: Api, register: Register, top: Node
) -> None:
    register("stranger")
    mine = as_node(top)
    body = {"name": "child", "role": "worker", "address": "a", "registeredBy": "top"}
    assert mine.post("/registry/vms", {**body, "id": "child", "parentVmId": "top"}).status_code
    path = "/registry/vms/child"
    assert mine.post(f"{path}/heartbeat").status_code == 200
    assert mine.post("/registry/heartbeats", {"ids": ["child"]}).json()["count"] == 1
    patched = mine.client.patch(path, {"status": "stopped"}, content_type="application/json")
    assert patched.status_code == 200
    assert mine.delete(path).status_code == 200
    assert mine.delete("/vm-tree/vms/child").status_code == 200
    assert mine.post("/registry/vms/stranger/heartbeat").status_code == 403
    other = tree.create(NewNode("other", "lieutenant", "other"), by="tests")
    assert as_node(other).post("/registry/vms", {**body, "id": "c", "parentVmId": "top"})
    assert not VM.objects.filter(pk="c").exists()


def test_registered_vms_are_added_to_the_tree(api: Api, register: Register, top: Node) -> None:
    register("leaf", parentVmId="root", reefConfig={"organs": ["store"], "capabilities": []})
    register("root", role="infra")
    register("orphan", parentVmId="nobody")
    answer = api.post("/registry/place", {"ids": ["leaf", "orphan", "root", "unknown"]}).json()
    places = [(each["vmId"], each["parentVmId"], each["category"]) for each in answer["placed"]]
    assert places == [("root", None, "infra_vm"), ("leaf", "root", "agent_vm")]
    assert answer["count"] == 2
    assert answer["refused"] == [
        {"id": "orphan", "error": "parent VM 'nobody' not found"},
        {"id": "unknown", "error": "VM not found"},
    ]
    body_of_request = {"ids": ["orphan"], "parentVmId": "top", "category": "swarm_vm"}
    placed = api.post("/registry/place", body_of_request).json()["placed"]
    assert [(each["parentVmId"], each["category"]) for each in placed] == [("top", "swarm_vm")]
    again = api.post("/registry/place", body_of_request).json()
    assert again["refused"] == [{"id": "orphan", "error": "VM 'orphan' exists already"}]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "ids: must be a list of 1 to 1000 ids"),
        ({"ids": []}, "ids: must be a list of 1 to 1000 ids"),
        ({"ids": [5]}, "ids: must be a string"),
        ({"ids": ["a"], "category": "boat"}, "category: must be one of lieutenant, "),
        ({"ids": ["a"], "parentVmId": 5}, "parentVmId: must be a string"),
    ],
)
def test_invalid_placement_request_is_rejected_with_its_field(
    api: Api, database: str, body: object, word: str
) -> None:
    answer = api.post("/registry/place", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(word)


def test_node_places_vms_only_below_itself(register: Register, top: Node) -> None:
    register("stranger")
    register("mine", parentVmId="mid")
    tree.create(NewNode("mid", "agent_vm", "mid", "top"), by="tests")
    ids = ["stranger", "mine"]
    told = as_node(top).post("/registry/place", {"ids": ids, "parentVmId": "top"}).json()
    assert [each["vmId"] for each in told["placed"]] == ["mine"]
    assert "rule: a node reads the fleet" in told["refused"][0]["error"]
    assert not Node.objects.filter(vm_id="stranger").exists()
