"""A VM registered below a VM of the tree gets a place there; others are placed by hand."""

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


def put(api: Api, vm_id: str, **more: Any) -> Any:
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
def test_who_registers_below_a_vm_of_the_tree_stands_there(
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


def test_a_later_registration_brings_the_parent_or_finds_it(register: Register, top: Node) -> None:
    register("first")
    register("second", parentVmId="late")
    assert not Node.objects.exclude(vm_id="top").exists()
    register("first", parentVmId="top")
    tree.create(NewNode("late", "lieutenant", "late"), by="tests")
    register("second")
    found = Node.objects.values_list("vm_id", "parent__vm_id")
    assert {("first", "top"), ("second", "late")} <= set(found)


def test_those_who_waited_follow_their_parent(register: Register, top: Node) -> None:
    register("leaf", parentVmId="mid")
    register("mid", parentVmId="root")
    register("lonely", parentVmId="nobody")
    tree.create(NewNode("root", "infra_vm", "root"), by="tests")
    tasks.sweep()
    tasks.sweep()
    found = Node.objects.values_list("vm_id", "parent__vm_id")
    assert {("mid", "root"), ("leaf", "mid")} <= set(found)
    assert not Node.objects.filter(vm_id="lonely").exists()


def test_who_was_removed_or_stands_elsewhere_is_left_alone(register: Register, top: Node) -> None:
    tree.create(NewNode("gone", "agent_vm", "gone", "top"), by="tests")
    tree.create(NewNode("root", "agent_vm", "elsewhere"), by="tests")
    tree.remove("gone", by="tests")
    register("gone", parentVmId="top")
    register("elsewhere", parentVmId="top")
    tasks.sweep()
    assert not Node.objects.active().filter(vm_id="gone").exists()
    assert tree.find("elsewhere").parent is None


def test_the_first_hand_upon_it_is_no_duplicate(api: Api, register: Register, top: Node) -> None:
    dna = {"organs": ["store"], "capabilities": []}
    register("child", parentVmId="top", reefConfig=dna)
    answer = put(api, "child", parentVmId=None)
    assert answer.status_code == 201
    said = answer.json()
    assert (said["category"], said["parentVmId"], said["reefConfig"]) == ("swarm_vm", "top", dna)
    assert put(api, "child").status_code == 409
    assert history("child") == ["placed", "changed"]


def test_nor_when_it_says_the_same_or_moves_it(api: Api, register: Register, top: Node) -> None:
    tree.create(NewNode("other", "lieutenant", "other"), by="tests")
    for vm_id in ("same", "moved"):
        register(vm_id, parentVmId="top")
    assert put(api, "same", category="agent_vm", parentVmId="top").status_code == 201
    assert put(api, "same", category="agent_vm", parentVmId="top").status_code == 409
    assert put(api, "moved", parentVmId="nobody").status_code == 400
    assert put(api, "moved", parentVmId="other").json()["parentVmId"] == "other"
    assert put(api, "top").status_code == 409


def test_who_was_changed_by_hand_is_a_duplicate(api: Api, register: Register, top: Node) -> None:
    register("child", parentVmId="top")
    tree.change("child", tree.NodeChange(name="by hand"), by="tests")
    assert put(api, "child").status_code == 409


def test_a_node_beats_and_ends_what_it_registers_below_itself(
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


def test_registered_vms_are_put_into_the_tree(api: Api, register: Register, top: Node) -> None:
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
    wish = {"ids": ["orphan"], "parentVmId": "top", "category": "swarm_vm"}
    placed = api.post("/registry/place", wish).json()["placed"]
    assert [(each["parentVmId"], each["category"]) for each in placed] == [("top", "swarm_vm")]
    again = api.post("/registry/place", wish).json()
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
def test_what_is_wrong_with_a_wish_for_places_is_named(
    api: Api, database: str, body: object, word: str
) -> None:
    answer = api.post("/registry/place", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(word)


def test_a_node_places_below_itself_only(register: Register, top: Node) -> None:
    register("stranger")
    register("mine", parentVmId="mid")
    tree.create(NewNode("mid", "agent_vm", "mid", "top"), by="tests")
    ids = ["stranger", "mine"]
    told = as_node(top).post("/registry/place", {"ids": ids, "parentVmId": "top"}).json()
    assert [each["vmId"] for each in told["placed"]] == ["mine"]
    assert "rule: a node reads the fleet" in told["refused"][0]["error"]
    assert not Node.objects.filter(vm_id="stranger").exists()
