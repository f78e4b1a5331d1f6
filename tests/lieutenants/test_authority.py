"""A lieutenant with nothing but its own token: whom it makes, whom it commands, whom it may not."""

from __future__ import annotations

from typing import Any

import pytest

from lieutenants import services
from lieutenants.models import Lieutenant, Message
from registry.models import VM
from tests.conftest import STANDIN, Api
from tests.lieutenants.fleets import database, postgres, postgres_cluster
from tests.vmtree.conftest import NodeApi
from vmtree import authority, tokens
from vmtree import services as tree
from vmtree.models import Node
from vmtree.services import NewNode

__all__ = ["database", "postgres", "postgres_cluster"]

AT = "/lieutenant/lieutenants"
VERBS = ("send", "pause", "resume", "restart", "abort")


@pytest.fixture(autouse=True)
def without_agents(database: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows alone: no worker is rung."""
    settings.PI_PATH = str(STANDIN)
    monkeypatch.setattr(services, "ring_worker", lambda *_: None)


def make(by: Api, name: str, **fields: object) -> Any:
    return by.post(AT, {"name": name, "role": "tests", "local": True, **fields})


def node(name: str) -> Node:
    return Node.objects.get(vm_id=Lieutenant.objects.living().get(name=name).pk)


def enter(name: str) -> NodeApi:
    """The API as this lieutenant sees it."""
    return NodeApi(tokens.issue(node(name), made_by="tests"))


def refused(answer: Any) -> bool:
    """Whether it is a 403 that names the rule."""
    return bool(answer.status_code == 403 and authority.RULE in answer.json()["error"])


def at_rest(*names: str) -> None:
    """Let these be idle."""
    Lieutenant.objects.filter(name__in=names).update(status="idle")


@pytest.fixture
def ada(api: Api) -> NodeApi:
    """ada → (ada-1 → ada-1-1, ada-2), and bob beside her; all idle."""
    assert make(api, "ada").status_code == make(api, "bob").status_code == 201
    ada = enter("ada")
    assert make(ada, "ada-1").status_code == make(ada, "ada-2").status_code == 201
    assert make(enter("ada-1"), "ada-1-1").status_code == 201
    at_rest("ada", "bob", "ada-1", "ada-2", "ada-1-1")
    return ada


def test_those_it_makes_stand_below_it(ada: NodeApi) -> None:
    assert node("ada-1").parent == node("ada-2").parent == node("ada")
    assert node("ada-1-1").parent == node("ada-1")
    assert node("ada").parent is None
    made = ada.get(f"{AT}/ada-1").json()
    assert made["parentAgent"] == "ada"
    assert VM.objects.get(pk=made["id"]).parent_vm_id == node("ada").vm_id
    move = Lieutenant.objects.get(name="ada-1").moves.first()
    assert move is not None
    assert move.actor == f"node {node('ada').vm_id}"


def test_it_may_name_the_place_below_itself(ada: NodeApi, api: Api) -> None:
    def made(name: str, parent: str) -> Any:
        return make(ada, name, parentVmId=parent)

    assert made("deep", node("ada-1-1").vm_id).status_code == 201
    assert node("deep").parent == node("ada-1-1")
    assert refused(made("beside", node("bob").vm_id))
    unknown = made("lost", "nobody")
    assert (unknown.status_code, unknown.json()["error"]) == (400, "parent VM 'nobody' not found")
    assert made("odd", "a\0b").status_code == 400
    assert not Lieutenant.objects.filter(name__in=["beside", "lost", "odd"]).exists()
    assert make(api, "asked", parentVmId=node("bob").vm_id).status_code == 201
    assert node("asked").parent == node("bob")


def test_it_commands_those_below_it(ada: NodeApi) -> None:
    sent = ada.post(f"{AT}/ada-1-1/send", {"message": "go"})
    assert sent.status_code == 200
    message = Message.objects.get(pk=sent.json()["messageId"])
    assert message.actor == f"node {node('ada').vm_id}"
    assert ada.post(f"{AT}/ada-1-1/abort").status_code == 200
    assert ada.post(f"{AT}/ada-1/pause").status_code == 200
    assert ada.post(f"{AT}/ada-1/resume").status_code == 200
    assert ada.post(f"{AT}/ada-2/restart").status_code == 200
    assert ada.delete(f"{AT}/ada-2").status_code == 200
    assert ada.delete(f"{AT}/ada-2").status_code == 200, "repeating is no error"


def test_it_commands_neither_itself_nor_those_beside_or_above(ada: NodeApi) -> None:
    below = enter("ada-1")
    statuses = dict(Lieutenant.objects.values_list("name", "status"))

    for caller, name in ((ada, "ada"), (ada, "bob"), (below, "ada"), (below, "ada-2")):
        for verb in VERBS:
            assert refused(caller.post(f"{AT}/{name}/{verb}", {"message": "x"})), (name, verb)
        assert refused(caller.delete(f"{AT}/{name}")), name

    assert dict(Lieutenant.objects.values_list("name", "status")) == statuses
    assert not Message.objects.exists()


def test_it_reads_all_of_them(ada: NodeApi) -> None:
    paths = ("", "/bob", "/bob/read", "/bob/transcript", "/bob/messages", "/bob/usage")
    assert {path: ada.get(AT + path).status_code for path in paths} == dict.fromkeys(paths, 200)


def test_destroy_all_is_all_below_it(ada: NodeApi) -> None:
    results = ada.post(f"{AT}/destroy-all").json()["results"]

    assert [line.partition(":")[0] for line in results] == ["ada-1", "ada-2", "ada-1-1"]
    living = Lieutenant.objects.living().values_list("name", flat=True)
    assert sorted(living) == ["ada", "bob"]
    assert refused(ada.delete(f"{AT}/bob"))


def test_discover_is_not_for_nodes(ada: NodeApi, api: Api) -> None:
    assert refused(ada.post(f"{AT}/discover"))
    assert api.post(f"{AT}/discover").status_code == 200


def test_one_that_is_unknown_is_not_found(ada: NodeApi) -> None:
    assert ada.post(f"{AT}/nobody/pause").status_code == 404
    assert ada.delete(f"{AT}/nobody").status_code == 404


def test_one_whose_place_is_elsewhere_now_is_out_of_reach(ada: NodeApi) -> None:
    moved = tree.Change(parent_vm_id=node("bob").vm_id)
    tree.change(node("ada-1").vm_id, moved, by="tests")

    assert refused(ada.post(f"{AT}/ada-1-1/pause"))
    assert enter("bob").post(f"{AT}/ada-1-1/pause").status_code == 200


def test_a_vm_that_is_no_lieutenant_makes_and_commands_the_same_way(ada: NodeApi) -> None:
    worker = tree.create(NewNode("worker", "agent_vm", "vm-1"), by="tests")
    vm = NodeApi(tokens.issue(worker, made_by="tests"))

    assert make(vm, "helper").status_code == 201
    assert node("helper").parent == worker
    at_rest("helper")
    assert vm.post(f"{AT}/helper/send", {"message": "go"}).status_code == 200
    assert refused(vm.post(f"{AT}/ada/send", {"message": "go"}))
