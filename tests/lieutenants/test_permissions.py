"""A lieutenant with nothing but its own token: whom it makes, whom it commands, whom it may not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from bootloader.grants import services as grants
from bootloader.models import ProvisionGrant
from lieutenants.models import Lieutenant, Message, Usage
from lieutenants.serializers import PUBLIC_KEYS
from registry.models import VM
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.fleets import database
from tests.vmtree.conftest import NodeApi
from vmtree import permissions, tokens
from vmtree import services as tree
from vmtree.models import Node, NodeToken
from vmtree.operations.models import Job, Step
from vmtree.services import NewNode

__all__ = ["database"]

AT = "/lieutenant/lieutenants"
VERBS = ("send", "pause", "resume", "restart", "abort")


@pytest.fixture(autouse=True)
def without_agents(database: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows alone: no worker is rung."""
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")


def make(by: Api, name: str, **fields: object) -> Any:
    return by.post(AT, {"name": name, "role": "tests", "local": True, **fields})


def node(name: str) -> Node:
    return Node.objects.get(vm_id=Lieutenant.objects.active().get(name=name).pk)


def enter(name: str) -> NodeApi:
    """The API as this lieutenant sees it."""
    return NodeApi(tokens.issue(node(name), made_by="tests"))


def refused(answer: Any) -> bool:
    """Return whether it is a 403 that names the rule."""
    return bool(answer.status_code == 403 and permissions.RULE in answer.json()["error"])


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


def test_lieutenants_of_a_node_are_its_children(ada: NodeApi) -> None:
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


def grant(api: Api, name: str, **limits: object) -> None:
    path = f"/bootloader/grants/{node(name).vm_id}"
    answer = api.client.put(path, {"vms": 0, **limits}, content_type="application/json")
    assert answer.status_code == 200, answer.content


def test_grants_limit_the_lieutenants_of_a_node_and_below_it(ada: NodeApi, api: Api) -> None:
    grant(api, "ada", lieutenants=2)
    below = enter("ada-1")

    assert make(below, "one").status_code == 201
    assert make(below, "one").status_code == 409, "a failed request takes nothing"
    assert make(ada, "two").status_code == 201
    for by in (below, ada):
        refused = make(by, "three")
        assert refused.status_code == 403
        assert refused.json()["error"].startswith(f"rule: {grants.LIEUTENANTS_RULE}. ")
    assert make(api, "four", parentVmId=node("ada").vm_id).status_code == 201, "of the operator"
    assert make(enter("bob"), "five").status_code == 201
    assert ada.delete(f"{AT}/two").status_code == 200
    assert make(ada, "six").status_code == 403, "nothing is given back"
    assert set(Lieutenant.objects.active().values_list("name", flat=True)) == {
        *("ada", "ada-1", "ada-2", "ada-1-1", "bob", "one", "four", "five"),
    }


@pytest.mark.django_db(transaction=True)
def test_concurrent_requests_never_exceed_a_grant_of_lieutenants(ada: NodeApi, api: Api) -> None:
    grant(api, "ada", lieutenants=3)
    grant(api, "ada-1", lieutenants=2)
    below = enter("ada-1")

    def ask(number: int) -> int:
        try:
            by = NodeApi("")
            by.client.defaults = dict((ada if number % 2 else below).client.defaults)
            return int(make(by, f"n{number}").status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(ask, range(8)))

    left = dict(ProvisionGrant.objects.values_list("node__name", "lieutenants"))
    assert statuses == [201] * 3 + [403] * 5
    assert (left["ada"], left["ada-1"] in (0, 1, 2)) == (0, True)
    assert Lieutenant.objects.filter(name__startswith="n").count() == 3


def test_grants_limit_the_depth_of_lieutenants(ada: NodeApi, api: Api) -> None:
    grant(api, "ada", lieutenantLevels=2)

    assert make(ada, "one").status_code == 201
    assert make(enter("ada-1"), "two").status_code == 201
    assert make(enter("ada-1-1"), "three").status_code == 403
    assert make(ada, "four", parentVmId=node("ada-1-1").vm_id).status_code == 403


def test_node_commands_its_descendants(ada: NodeApi) -> None:
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


def test_node_commands_neither_itself_nor_siblings_nor_ancestors(ada: NodeApi) -> None:
    below = enter("ada-1")
    statuses = dict(Lieutenant.objects.values_list("name", "status"))

    for caller, name in ((ada, "ada"), (ada, "bob"), (below, "ada"), (below, "ada-2")):
        for verb in VERBS:
            body = {"message": "x"} if verb == "send" else {}
            assert refused(caller.post(f"{AT}/{name}/{verb}", body)), (name, verb)
        assert refused(caller.delete(f"{AT}/{name}")), name

    assert dict(Lieutenant.objects.values_list("name", "status")) == statuses
    assert not Message.objects.exists()


def test_node_reads_transcripts_of_its_line_only(ada: NodeApi, api: Api) -> None:
    message = api.post(f"{AT}/bob/send", {"message": "secret"}).json()["messageId"]
    reads = ("read", "transcript", "messages", f"messages/{message}", "usage", "stream")

    for name in ("ada", "ada-1", "ada-1-1"):
        mine = (each for each in reads if message not in each)
        assert {ada.get(f"{AT}/{name}/{each}").status_code for each in mine} == {200}, name
    for name in ("bob", node("bob").vm_id):
        assert all(refused(ada.get(f"{AT}/{name}/{each}")) for each in reads[1:]), name
    assert refused(ada.get(f"{AT}/bob/read"))
    assert refused(enter("ada-1").get(f"{AT}/ada/transcript"))


def test_node_sees_only_public_fields_of_others(ada: NodeApi, api: Api) -> None:
    Lieutenant.objects.filter(name="bob").update(error="secret", trouble="secret")
    rows = {each["name"]: each for each in ada.get(AT).json()["lieutenants"]}

    assert set(rows) == {"ada", "ada-1", "ada-1-1", "ada-2", "bob"}
    assert rows["ada-1"] == api.get(f"{AT}/ada-1").json()
    assert {"lastOutput", "outputHistory", "systemPrompt", "folder"} <= rows["ada-1"].keys()
    assert rows["bob"] == ada.get(f"{AT}/bob").json()
    assert set(rows["bob"]) <= set(PUBLIC_KEYS)
    assert {"id", "name", "role", "status", "vmId", "isLocal"} <= rows["bob"].keys()
    assert "secret" not in str(rows["bob"])


def test_node_sees_usage_of_its_line_only(ada: NodeApi, api: Api) -> None:
    for name, tokens_used in (("ada-1", 3), ("bob", 40)):
        Usage.objects.create(
            lieutenant=Lieutenant.objects.get(name=name),
            input=tokens_used,
            at=timezone.now(),
            day=timezone.now().date(),
        )
    assert ada.get("/lieutenant/usage").json()["total"]["input"] == 3
    assert api.get("/lieutenant/usage").json()["total"]["input"] == 43


def test_destroy_all_destroys_its_descendants(ada: NodeApi) -> None:
    results = ada.post(f"{AT}/destroy-all").json()["results"]

    assert [line.partition(":")[0] for line in results] == ["ada-1", "ada-2", "ada-1-1"]
    living = Lieutenant.objects.active().values_list("name", flat=True)
    assert sorted(living) == ["ada", "bob"]
    assert refused(ada.delete(f"{AT}/bob"))


def test_discover_is_not_for_nodes(ada: NodeApi, api: Api) -> None:
    assert refused(ada.post(f"{AT}/discover"))
    assert api.post(f"{AT}/discover").status_code == 200


def test_unknown_lieutenant_is_not_found(ada: NodeApi) -> None:
    assert ada.post(f"{AT}/nobody/pause").status_code == 404
    assert ada.delete(f"{AT}/nobody").status_code == 404


def test_one_whose_place_is_elsewhere_now_is_out_of_reach(ada: NodeApi) -> None:
    moved = tree.NodeChange(parent_vm_id=node("bob").vm_id)
    tree.change(node("ada-1").vm_id, moved, by="tests")

    assert refused(ada.post(f"{AT}/ada-1-1/pause"))
    assert enter("bob").post(f"{AT}/ada-1-1/pause").status_code == 200


@pytest.fixture
def vm(ada: NodeApi, api: Api) -> NodeApi:
    """A VM, and below it a lieutenant of this host, which an operator put there."""
    worker = tree.create(NewNode("worker", "lieutenant", "vm-1"), by="tests")
    assert make(api, "helper", parentVmId="vm-1").status_code == 201
    at_rest("helper")
    return NodeApi(tokens.issue(worker, made_by="tests"))


@pytest.mark.parametrize(
    "fields",
    [
        {"local": True},
        {},
        {"local": True, "folder": "/root"},
        # Its agent would get the keys of this host, for all on the VM to read.
        {"local": False, "vmId": "vm-1"},
        {"parentVmId": "vm-1"},
        {"parentVmId": "helper"},
        {"name": "", "local": True},
    ],
)
def test_a_vm_makes_no_lieutenant(vm: NodeApi, fields: dict[str, Any]) -> None:
    if fields.get("parentVmId") == "helper":
        fields = {"parentVmId": node("helper").vm_id}
    before = Lieutenant.objects.count()

    answer = vm.post(AT, {"name": "rce", "role": "r", **fields})

    assert refused(answer) or (answer.status_code, fields.get("name")) == (400, "")
    assert Lieutenant.objects.count() == before


def test_a_vm_neither_starts_nor_directs_a_lieutenant_of_this_host(vm: NodeApi) -> None:
    path = f"{AT}/helper"
    for verb in ("send", "resume", "restart"):
        assert refused(vm.post(f"{path}/{verb}", {"message": "x"} if verb == "send" else {})), verb
    for body in ({"model": "a/b", "restart": True}, {"restartPolicy": "on-failure"}):
        answer = vm.client.patch(path, body, content_type="application/json")
        assert refused(answer), body

    assert Lieutenant.objects.get(name="helper").status == "idle"
    assert not Message.objects.exists()


def test_a_vm_ends_a_lieutenant_below_itself_and_does_not_start_it_again(
    vm: NodeApi, api: Api
) -> None:
    assert vm.post(f"{AT}/helper/pause").status_code == 200
    assert refused(vm.post(f"{AT}/helper/resume"))
    for body in ({}, {"dryRun": True}):
        inner = tree.create(NewNode("inner", "agent_vm", "", "vm-1"), by="tests")
        tree.change(node("helper").vm_id, tree.NodeChange(parent_vm_id=inner.vm_id), by="tests")
        assert refused(vm.post(f"/vm-tree/vms/{inner.vm_id}/resume", body)), body
        assert api.post(f"/vm-tree/vms/{inner.vm_id}/resume", {"dryRun": True}).status_code == 200
    assert not Job.objects.exists()
    assert vm.delete(f"{AT}/helper").status_code == 200


def test_a_vm_does_not_become_a_lieutenant_of_this_host(vm: NodeApi) -> None:
    helper = node("helper").vm_id
    script = {"vmId": helper, "name": "helper", "type": "swarm"}

    assert refused(vm.post(f"/vm-tree/vms/{helper}/token"))
    assert refused(vm.post("/bootloader/generate", script))
    assert refused(vm.post("/bootloader/cloud-init", script))
    assert NodeToken.objects.good().filter(node__vm_id=helper).count() == 0


def test_a_lieutenant_of_another_host_starts_nothing_here(ada: NodeApi) -> None:
    Lieutenant.objects.filter(name="ada").update(data_folder="elsewhere")

    assert refused(make(ada, "new"))
    assert refused(ada.post(f"{AT}/ada-1/send", {"message": "go"}))
    assert ada.post(f"{AT}/ada-1/pause").status_code == 200


def test_a_destroyed_lieutenant_starts_nothing(ada: NodeApi) -> None:
    Lieutenant.objects.filter(name="ada").update(status="destroyed")

    assert refused(make(ada, "new"))


def test_reasons_of_a_job_are_told_to_the_line_of_the_vm(vm: NodeApi, api: Api) -> None:
    job = api.post(f"/vm-tree/vms/{node('helper').vm_id}/pause").json()["job"]["id"]
    stranger = api.post(f"/vm-tree/vms/{node('bob').vm_id}/pause").json()["job"]["id"]
    Step.objects.update(reason="printed")

    assert [step["reason"] for step in vm.get(f"/vm-tree/jobs/{job}").json()["plan"]] == ["printed"]
    assert "printed" not in vm.get(f"/vm-tree/jobs/{stranger}").content.decode()
    assert "printed" in api.get(f"/vm-tree/jobs/{stranger}").content.decode()


def test_permission_is_checked_before_values(ada: NodeApi) -> None:
    patch = ada.client.patch(f"{AT}/bob", {"model": 7}, content_type="application/json")

    assert refused(patch)
    assert refused(ada.post(f"{AT}/bob/pause", {"force": "perhaps"}))
    assert ada.post(f"{AT}/ada-1/pause", {"force": "perhaps"}).status_code == 400


def test_each_refusal_is_logged_in_plain_characters(
    ada: NodeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ada.post(f"{AT}/bob/pause")
    ada.get("/bootloader/reports/evil%1b[2J%e2%80%ae")

    lines = [each.getMessage() for each in caplog.records if "refused " in each.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith(f"refused POST '{AT}/bob/pause': ")
    assert "rule: " in lines[0]
    assert "evil\\x1b[2J\\u202e" in lines[1]
    assert all(line.isascii() and line.isprintable() for line in lines)
