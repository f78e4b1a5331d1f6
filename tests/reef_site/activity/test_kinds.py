"""Each kind of event is recorded once by the public action that causes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from bootloader.models import Provisioning
from bootloader.provisioning import services as provisioning
from bootloader.states import CleanupPolicy, State
from lieutenants.models import Lieutenant
from lieutenants.questions import services as questions
from lieutenants.states import Status
from reef_site.accounts.signin_links import make_operator
from reef_site.api.authentication import Caller
from reef_site.audit import refusals
from reef_site.common import clock
from reef_site.common.eventlog.models import Event
from registry import services as registry
from tests.bootloader.join_clients import BearerClient, issue_join_token
from tests.conftest import Api
from tests.fleets import Pump, grow, plant, pump
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import enlist
from vmtree import operator_tokens, tokens
from vmtree.models import Node, Snapshot
from vmtree.snapshots import drafts, retention
from vmtree.snapshots.drafts import SnapshotFailed

__all__ = ["operator", "pump"]
pytestmark = pytest.mark.django_db(transaction=True)

LIEUTENANTS = "/lieutenant/lieutenants"


class Log:
    """The events since the last look, as "<kind> <subject>"."""

    def __init__(self) -> None:
        self._seen = 0

    def new(self, topic: str) -> list[Event]:
        """Return the events of a topic since the last look, oldest first."""
        rows = list(Event.objects.filter(pk__gt=self._seen).order_by("pk"))
        self._seen = rows[-1].pk if rows else self._seen
        return [row for row in rows if row.topic == topic]

    def one(self, kind: str, subject: str, actor: str = "root token") -> dict[str, Any]:
        """Return the detail of the one new event of the topic, which must be this one."""
        [row] = self.new(kind.partition(".")[0])
        assert (row.kind, row.subject, row.actor) == (kind, subject, actor)
        return dict(row.detail)


@pytest.fixture
def log() -> Log:
    return Log()


def patch(api: Api, path: str, body: object) -> Any:
    return api.client.patch(path, data=body, content_type="application/json")


def put(api: Api, path: str, body: object) -> Any:
    return api.client.put(path, data=body, content_type="application/json")


# -- lieutenants ---------------------------------------------------------------------------------


def test_lieutenants(api: Api, operator: Client, log: Log) -> None:
    made = api.post(LIEUTENANTS, {"name": "ada", "role": "tests", "local": True}).json()
    pk, one = made["id"], f"{LIEUTENANTS}/ada"
    assert log.one("lieutenant.created", pk)["name"] == "ada"
    patch(api, one, {"idleLimitMinutes": 30})
    assert log.one("lieutenant.changed", pk)["idle_limit_minutes"] == 30
    Lieutenant.objects.update(status=Status.IDLE)
    sent = api.post(f"{one}/send", {"message": "hello"}).json()
    message, working = log.new("lieutenant")
    assert (message.kind, message.detail["messageId"]) == ("lieutenant.message", sent["messageId"])
    assert "hello" not in str(message.detail)
    assert (working.kind, working.detail["from"]) == ("lieutenant.working", "idle")
    api.post(f"{one}/abort")
    log.one("lieutenant.aborted", pk)
    api.post(f"{one}/pause", {"force": True})
    assert log.one("lieutenant.paused", pk)["reason"] == "pause requested"
    api.post(f"{one}/resume")
    log.one("lieutenant.starting", pk)
    api.delete(one)
    log.one("lieutenant.destroyed", pk)
    # A repeated request that changes nothing is no event.
    api.delete(one)
    assert log.new("lieutenant") == []


@pytest.mark.parametrize("status", [Status.IDLE, Status.ERROR])
def test_status_of_its_agent(log: Log, status: Status) -> None:
    ada = enlist(status="starting")
    ada.move(status, reason="tests")

    assert log.one(f"lieutenant.{status}", ada.pk, "reef")["reason"] == "tests"


def test_questions(api: Api, log: Log) -> None:
    grow()
    caller = Caller("node left", Node.objects.get(vm_id="left"))
    question = questions.ask(caller, "Which one?", options=["a", "b"])
    assert log.one("question.asked", question.pk, "node left")["text"] == "Which one?"
    assert Event.objects.latest("pk").vm_id == "left"
    path = f"/lieutenant/questions/{question.pk}/answer"
    assert api.post(path, {"answer": "b"}).status_code == 200
    answered = log.one("question.answered", question.pk)
    assert "answer" not in answered
    # Only the first answer counts, so the second is not an event.
    assert api.post(path, {"answer": "a"}).status_code == 409
    assert log.new("question") == []
    other = questions.ask(caller, "And now?")
    log.new("question")
    questions.withdraw(other.pk, actor=caller)
    log.one("question.withdrawn", other.pk, "node left")


# -- registry and tree ---------------------------------------------------------------------------


def register(api: Api, vm_id: str, **fields: object) -> None:
    body = {"id": vm_id, "name": vm_id, "role": "worker", "address": "::1", **fields}
    answer = api.post("/registry/vms", {**body, "registeredBy": "tests"})
    assert answer.status_code == 201, answer.content


def test_registered_vms(api: Api, log: Log) -> None:
    register(api, "vm")
    assert log.one("vm.registered", "vm")["role"] == "worker"
    # Neither a refreshed registration nor a heartbeat is an event.
    register(api, "vm")
    api.post("/registry/vms/vm/heartbeat")
    api.post("/registry/heartbeats", {"ids": ["vm"]})
    assert log.new("vm") == []
    patch(api, "/registry/vms/vm", {"status": "paused"})
    log.one("vm.paused", "vm")
    patch(api, "/registry/vms/vm", {"status": "running"})
    log.one("vm.running", "vm")
    registry.mark_stopped("vm")
    log.one("vm.stopped", "vm", "reef")
    api.delete("/registry/vms/vm")
    log.one("vm.deregistered", "vm")


def test_late_and_silent_vms(api: Api, log: Log) -> None:
    register(api, "vm")
    log.new("vm")
    now = clock.now()
    # As often as the tick, since after a pause of reef nobody counts as silent.
    for seconds in range(0, 900, 20):
        registry.sweep(now + timedelta(seconds=seconds))

    assert [(row.kind, row.subject) for row in log.new("vm")] == [
        ("vm.late", "vm"),
        ("vm.silent", "vm"),
    ]


def test_nodes(api: Api, log: Log) -> None:
    api.post("/vm-tree/vms", {"vmId": "top", "name": "top", "category": "infra_vm"})
    assert log.one("tree.created", "top")["category"] == "infra_vm"
    patch(api, "/vm-tree/vms/top", {"name": "other"})
    assert log.one("tree.changed", "top")["name"] == "other"
    register(api, "below", parentVmId="top")
    assert log.one("tree.placed", "below")["parentVmId"] == "top"
    api.post("/vm-tree/vms/below/token")
    log.one("tree.token-issued", "below")
    api.delete("/vm-tree/vms/below/token")
    assert log.one("tree.tokens-revoked", "below")["count"] == 1
    api.delete("/vm-tree/vms/top?subtree=true&confirm=2")
    assert [(row.kind, row.subject) for row in log.new("tree")] == [
        ("tree.removed", "top"),
        ("tree.removed", "below"),
    ]


def test_snapshots(api: Api, log: Log) -> None:
    grow()
    made = api.post("/vm-tree/snapshot").json()
    file, path = made["snapshot"].rpartition("/")[2], f"/vm-tree/snapshots/{made['id']}"
    assert log.one("snapshot.taken", file)["why"] == "asked"
    api.post(f"{path}/pin")
    log.one("snapshot.pinned", file)
    api.delete(f"{path}/pin")
    log.one("snapshot.unpinned", file)
    api.delete("/vm-tree/vms/right")
    log.new("tree")
    plan = api.post(f"{path}/restore").json()
    answer = api.post(f"{path}/restore", {"confirm": plan["confirm"]})
    assert answer.json()["restored"]
    rows = Event.objects.order_by("pk").filter(topic__in=["snapshot", "tree"])
    taken, restored_node, restored = list(rows)[-3:]
    assert [taken.kind, restored_node.kind, restored.kind] == [
        *("snapshot.taken", "tree.restored", "snapshot.restored"),
    ]
    assert (restored_node.subject, restored.detail["changed"]) == ("right", 1)


def test_failed_and_deleted_snapshots(api: Api, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SnapshotFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(drafts, "write", fail)
        assert api.post("/vm-tree/snapshot").status_code >= 500
    row = Snapshot.objects.get()
    assert "the disk is full" in log.one("snapshot.failed", row.file)["reason"]
    # Beyond the newest ones, of one day only one is kept.
    for _ in range(retention.KEEP_NEWEST + 1):
        api.post("/vm-tree/snapshot")
    taken = [row.subject for row in log.new("snapshot") if row.kind == "snapshot.taken"]
    deleted = Event.objects.filter(kind="snapshot.deleted").values_list("subject", "actor")
    assert list(deleted) == [(taken[0], "retention")]


def test_operations(api: Api, log: Log, pump: Pump) -> None:
    plant("one")
    started = api.post("/vm-tree/vms/one/pause").json()["job"]
    assert log.one("operation.open", "one")["job"] == started["id"]
    pump.work()
    log.one("operation.done", "one", f"job {started['id']}")
    plant("two")
    other = api.post("/vm-tree/vms/two/pause").json()["job"]
    log.new("operation")
    api.post(f"/vm-tree/jobs/{other['id']}/cancel")
    log.one("operation.cancelled", "two")


# -- config, VMs of providers, refusals ----------------------------------------------------------


def test_config(api: Api, log: Log) -> None:
    secret = "sk-ant-event-log-tests-0123456789"
    put(api, "/vers-config/ANTHROPIC_API_KEY", {"value": secret})
    row = log.new("config")[0]
    assert (row.kind, row.subject, row.vm_id) == ("config.set", "ANTHROPIC_API_KEY", "")
    assert secret not in str(row.detail)
    api.post(f"/vers-config/history/{row.detail['version']}/undo")
    undone = log.one("config.undone", "ANTHROPIC_API_KEY")
    api.post(f"/vers-config/history/{row.detail['version']}/put-back")
    assert log.one("config.put_back", "ANTHROPIC_API_KEY")["version"] > undone["version"]
    api.delete("/vers-config/ANTHROPIC_API_KEY")
    log.one("config.removed", "ANTHROPIC_API_KEY")


def test_imported_config(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vers").mkdir()
    keys = '{"keys": {"VERS_API_KEY": "sk-imported-by-tests-0123"}}'
    (tmp_path / ".vers" / "keys.json").write_text(keys)
    call_command("import_config", apply=True)

    log.one("config.imported", "VERS_API_KEY", "import_config")


def test_joined_vms(log: Log) -> None:
    answer = BearerClient(issue_join_token("vm-1")).join(vmId="vm-1")
    assert answer.status_code in (200, 201), answer.content
    assert log.one("boot.joined", "vm-1", "VM vm-1")["hostname"] == "box"


def test_destroyed_vms(api: Api, operator: Client, log: Log) -> None:
    """A node with children stays in the tree when its lieutenant is destroyed."""
    made = api.post(LIEUTENANTS, {"name": "ada", "role": "tests", "local": True}).json()
    plant("child", made["id"])
    log.new("tree")
    api.delete(f"{LIEUTENANTS}/ada")
    log.one("tree.destroyed", made["id"], "reef")


def test_provisionings(log: Log) -> None:
    row = Provisioning.objects.create(name="new", profile="minimal", provider="x", actor="ada")
    row.record("ada")
    assert log.one("boot.queued", row.pk, "ada")["profile"] == "minimal"
    row.move(State.RUNNING)
    log.one("boot.running", row.pk, "reef")
    row.move(State.FAILED, "no room")
    assert log.one("boot.failed", row.pk, "reef")["reason"] == "no room"
    provisioning.cancel(row.pk, CleanupPolicy.DELETE, by="bea")
    log.one("boot.cancelling", row.pk, "bea")


@pytest.mark.parametrize("repeats", [1, 5])
def test_refused_permissions(api: Api, log: Log, repeats: int) -> None:
    grow()
    token = tokens.issue(Node.objects.get(vm_id="left"), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})
    log.new("tree")
    for _ in range(repeats):
        answer = node.delete("/vm-tree/vms/right")
        assert answer.status_code == 403
    # Equal refusals of a minute are one row of the audit log, and one event.
    detail = log.one("permission.refused", "right", "node left")
    assert detail["reason"].startswith("rule: ")
    # Wrong tokens are no refused permission.
    Client(headers={"authorization": "Bearer wrong"}).get("/vm-tree/vms")
    refusals.write()
    assert log.new("permission") == []


def test_operator_tokens(log: Log) -> None:
    by = make_operator()
    row, token = operator_tokens.make("ci", "read", by=by)
    detail = log.one("permission.token-made", "ci", str(by))
    assert detail["scope"] == "read"
    assert token not in str(detail)
    for _ in range(2):
        operator_tokens.revoke(row.pk, by=by)
    log.one("permission.token-revoked", "ci", str(by))


def test_rolled_back_change_is_no_event(api: Api, log: Log) -> None:
    answer = api.post("/vm-tree/vms", {"vmId": "x", "name": "x", "category": "swarm_vm"})
    log.new("tree")
    again = api.post("/vm-tree/vms", {"vmId": "x", "name": "x", "category": "swarm_vm"})

    assert (answer.status_code, again.status_code) == (201, 409)
    assert log.new("tree") == []
