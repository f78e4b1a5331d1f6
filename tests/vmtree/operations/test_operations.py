"""Operations on subtrees: the plan, the job and its steps, who may, what goes wrong."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.test import Client

from lieutenants.models import Lieutenant
from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
from registry.models import VM
from registry.vm_handler import RegistryHandler
from tests.conftest import Api, Fleet
from tests.dispatching import drop_tasks, intercept_tasks
from tests.fleets import Pump, grow, plant, states
from tests.lieutenants.rows import enlist
from tests.waiting import until
from vmtree import permissions, tokens
from vmtree import services as tree
from vmtree.models import Node
from vmtree.operations import handlers, runner, services
from vmtree.operations.handlers import Effect
from vmtree.operations.models import Job, Operation, Step
from vmtree.services import NewNode
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import creation, files

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database")]


def start_operation(api: Api, verb: str, vm_id: str = "root", **body: Any) -> Any:
    return api.post(f"/vm-tree/vms/{vm_id}/{verb}", body)


def begin(api: Api, verb: str, vm_id: str = "root", **body: Any) -> str:
    answer = start_operation(api, verb, vm_id, **body)
    assert answer.status_code == 202, answer.content
    job_id: str = answer.json()["job"]["id"]
    return job_id


def state_of(job_id: str) -> str:
    return Job.objects.get(pk=job_id).state


class ScriptedHandler(RegistryHandler):
    """Handler for VMs of a provider that fails or is slow, as the test says."""

    name = "fragile"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.slow: set[str] = set()

    def effects(self, verb: Operation, vm_ids: Any) -> dict[str, Effect]:
        return super().effects(verb, vm_ids)

    def act(self, verb: Operation, vm_id: str, actor: str) -> None:
        self.asked.append(vm_id)
        if vm_id in self.broken:
            raise BadInput("the provider says no")
        super().act(verb, vm_id, actor)

    def is_done(self, verb: Operation, vm_id: str) -> bool:
        return vm_id not in self.slow


@pytest.fixture
def fragile() -> Any:
    provider = ScriptedHandler()
    with handlers.vm_handlers.changed({"fragile": provider}):
        yield provider


# -- the plan ------------------------------------------------------------------------------------


def test_dry_run_returns_the_ordered_plan_and_changes_nothing(api: Api, pump: Pump) -> None:
    grow()
    VM.objects.filter(pk="leaf").update(status="paused", late_after=None, silent_after=None)
    tree.create(NewNode("never seen", "agent_vm", vm_id="ghost", parent_vm_id="right"), by="tests")
    answer = start_operation(api, "pause", dryRun=True)
    assert answer.status_code == 200
    plan = answer.json()["plan"]
    ids = [step["vmId"] for step in plan["steps"]]
    assert ids == ["ghost", "leaf2", "leaf", "right", "left", "root"]
    assert (plan["count"], plan["leftOut"], plan["order"]) == (4, 2, "leaves first")
    reasons = {step["vmId"]: step.get("leftOut") for step in plan["steps"]}
    assert reasons["leaf"] == "is paused already"
    assert "not registered" in reasons["ghost"]
    assert not Job.objects.exists()
    assert set(VM.objects.values_list("status", flat=True)) == {"running", "paused"}
    assert not pump.waiting


def test_resume_starts_at_the_root(api: Api, pump: Pump) -> None:
    grow()
    plan = start_operation(api, "resume", dryRun=True).json()["plan"]
    assert [step["vmId"] for step in plan["steps"]] == ["root", "left", "right", "leaf", "leaf2"]
    assert {step["leftOut"] for step in plan["steps"]} == {"is not paused but running"}


def test_children_outside_the_tree_are_listed_but_left_out(api: Api, pump: Pump) -> None:
    grow()
    stray = VM(id="stray", name="stray", role="worker", registered_by="t", parent_vm_id="leaf")
    stray.seen(stray.last_seen)
    stray.save()
    job = begin(api, "destroy")
    pump.work()
    assert states(job)["stray"] == "left-out"
    assert VM.objects.filter(pk="stray").exists()


DRY_NEAR = "{}: not known; did you mean dryRun? This route takes dryRun, confirm in its body"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"dryRun": "yes"}, "dryRun: must be true or false"),
        ({"dryRun": None}, "dryRun: must be true or false"),
        ({"dryrun": True}, DRY_NEAR.format("dryrun")),
        ({"dry_run": True, "confirm": 1}, DRY_NEAR.format("dry_run")),
        ({"confirm": -1}, "confirm: must be a whole number, 0 or more"),
        ({"confirm": True}, "confirm: must be a whole number, 0 or more"),
        (["dryRun"], "body: must be an object with dryRun or confirm, or absent"),
        ("null", "body: must be an object with dryRun or confirm, or absent"),
        ('"dryRun"', "body: must be an object with dryRun or confirm, or absent"),
    ],
)
def test_misspelt_dry_run_in_the_body_is_rejected(api: Api, body: Any, text: str) -> None:
    plant("root")
    answer = api.post("/vm-tree/vms/root/destroy", body)
    assert (answer.status_code, answer.json()["error"]) == (400, text)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            "dryrun=true",
            "dryrun: not known; did you mean dryRun? This route takes dryRun in its query",
        ),
        ("dryRun", "dryRun: must be true or false"),
        ("dryRun=yes", "dryRun: must be true or false"),
        ("confirm=1", "confirm: not known; this route takes dryRun in its query"),
    ],
)
def test_misspelt_dry_run_in_the_query_is_rejected(api: Api, query: str, text: str) -> None:
    plant("root")
    answer = api.post(f"/vm-tree/vms/root/destroy?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, text)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("query", "body"),
    [("dryRun=true", {}), ("dryRun=1", {"dryRun": False}), ("dryRun=false", {"dryRun": True})],
)
def test_dry_run_can_be_requested_in_the_query(api: Api, query: str, body: Any) -> None:
    plant("root")
    answer = api.post(f"/vm-tree/vms/root/destroy?{query}", body)
    assert (answer.status_code, answer.json()["dryRun"]) == (200, True)
    assert not Job.objects.exists()


def test_unknown_removed_and_miscounted_vms_are_rejected(api: Api, pump: Pump) -> None:
    grow()
    assert start_operation(api, "pause", "nobody").status_code == 404
    tree.remove("leaf2", by="tests")
    assert start_operation(api, "pause", "leaf2").status_code == 404
    answer = start_operation(api, "pause", confirm=5)
    assert answer.status_code == 409
    assert "4 VMs" in answer.json()["error"]
    assert not Job.objects.exists()


# -- the job -------------------------------------------------------------------------------------


def test_pause_and_resume_change_the_whole_subtree(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    before = dict(VM.objects.values_list("id", "last_seen"))
    job = begin(api, "pause", confirm=5)
    pump.work()
    assert state_of(job) == "done"
    assert set(VM.objects.values_list("status", "silent_after")) == {("paused", None)}
    order = fragile.asked.index
    assert max(order("leaf"), order("leaf2")) < order("left") < order("root")

    fragile.asked.clear()
    job = begin(api, "resume", "left")
    pump.work()
    assert state_of(job) == "done"
    assert fragile.asked[0] == "left"
    running = VM.objects.filter(status="running", silent_after__gt=clock.now())
    assert set(running.values_list("id", flat=True)) == {"left", "leaf", "leaf2"}
    # A command is not a heartbeat.
    assert dict(VM.objects.values_list("id", "last_seen")) == before


def test_destroy_takes_a_snapshot_and_soft_deletes_nodes(api: Api, pump: Pump) -> None:
    grow()
    job = begin(api, "destroy", "left")
    assert Node.objects.active().count() == 5
    pump.work()
    found = api.get(f"/vm-tree/jobs/{job}").json()
    assert found["job"]["state"] == "done"
    assert found["job"]["steps"]["done"] == 3
    assert [step["vmId"] for step in found["plan"]] == ["leaf2", "leaf", "left"]
    assert found["job"]["snapshot"] == Snapshot.objects.get(why="change").file
    assert set(Node.objects.active().values_list("vm_id", flat=True)) == {"root", "right"}
    assert set(VM.objects.values_list("id", flat=True)) == {"root", "right"}
    removed = Node.objects.get(vm_id="leaf")
    assert removed.removed_at
    assert removed.revisions.last().what == "removed"  # type: ignore[union-attr]


def test_nothing_is_destroyed_without_a_snapshot(
    api: Api, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow()

    def fail_on_full_disk(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vmtree.snapshots.take", fail_on_full_disk)
    job = begin(api, "destroy")
    pump.work()
    row = Job.objects.get(pk=job)
    assert (row.state, "No space left" in row.reason) == ("failed", True)
    assert Node.objects.active().count() == 5
    monkeypatch.setattr("vmtree.snapshots.take", creation.take)
    assert start_operation(api, "destroy").json()["job"]["id"] == job
    pump.work()
    assert state_of(job) == "done"


def test_failed_step_blocks_only_its_dependents(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    fragile.broken = {"leaf"}
    job = begin(api, "destroy")
    pump.work()
    assert state_of(job) == "failed"
    assert states(job) == {
        "leaf": "failed",
        "leaf2": "done",
        "right": "done",
        "left": "blocked",
        "root": "blocked",
    }
    assert Step.objects.get(job=job, vm_id="leaf").reason == "the provider says no"
    assert "'leaf'" in Step.objects.get(job=job, vm_id="root").reason

    fragile.broken, fragile.asked = set(), []
    answer = start_operation(api, "destroy").json()
    assert (answer["job"]["id"], answer["continued"]) == (job, True)
    pump.work()
    assert (state_of(job), set(states(job).values())) == ("done", {"done"})
    assert fragile.asked == ["leaf", "left", "root"]
    assert Step.objects.get(job=job, vm_id="leaf").attempts == 2


def test_failure_blocks_descendants_of_a_resume_but_no_ancestors_of_a_pause(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    fragile.broken = {"left"}
    job = begin(api, "pause")
    pump.work()
    assert states(job) == {"left": "failed"} | dict.fromkeys(
        ["root", "right", "leaf", "leaf2"], "done"
    )
    VM.objects.filter(pk="left").update(status="paused", late_after=None, silent_after=None)
    job = begin(api, "resume")
    pump.work()
    found = states(job)
    assert (found["left"], found["leaf"], found["leaf2"]) == ("failed", "blocked", "blocked")
    assert (found["root"], found["right"]) == ("done", "done")


def test_repeated_job_includes_new_descendants(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    fragile.broken = {"leaf"}
    job = begin(api, "destroy")
    pump.work()
    plant("late", "left")
    fragile.broken = set()
    first = Job.objects.get(pk=job).snapshot
    assert begin(api, "destroy") == job
    pump.work()
    assert states(job)["late"] == "done"
    assert not Node.objects.active().exists()
    # The first snapshot does not contain the new descendants, so another one is taken.
    second = Job.objects.get(pk=job).snapshot
    assert second not in ("", first)
    file = sqlite3.connect(files.path_of(second))
    assert file.execute("SELECT count(*) FROM nodes WHERE vm_id = 'late'").fetchone() == (1,)
    file.close()


def test_vm_created_during_a_job_keeps_its_parent(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    job = begin(api, "destroy")
    plant("late", "left")
    pump.work()
    assert state_of(job) == "failed"
    assert "1 children" in Step.objects.get(job=job, vm_id="left").reason
    assert Node.objects.active().filter(vm_id="late").exists()


def test_running_steps_are_limited(api: Api, pump: Pump, fragile: ScriptedHandler) -> None:
    plant("root")
    for number in range(30):
        plant(f"vm{number}", "root")
        fragile.slow.add(f"vm{number}")
    job = begin(api, "pause")
    for _ in range(60):
        name, what = pump.waiting.popleft()
        getattr(runner, name)(what)
        assert Step.objects.filter(job=job, state="running").count() <= runner.MAX_RUNNING_STEPS
    fragile.slow.clear()
    pump.work()
    assert state_of(job) == "done"


def test_unfinished_step_fails_after_the_timeout(
    api: Api, pump: Pump, fragile: ScriptedHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("root")
    fragile.slow = {"root"}
    monkeypatch.setattr(runner, "STEP_TIMEOUT", timedelta(0))
    job = begin(api, "pause")
    pump.work()
    assert "had not come to its end" in Step.objects.get(job=job).reason
    assert state_of(job) == "failed"


def test_tasks_may_run_twice(api: Api, pump: Pump, fragile: ScriptedHandler) -> None:
    grow()
    job = begin(api, "destroy")
    while pump.waiting:
        name, what = pump.waiting.popleft()
        getattr(runner, name)(what)
        getattr(runner, name)(what)
    assert state_of(job) == "done"
    assert sorted(fragile.asked) == ["leaf", "leaf2", "left", "right", "root"]
    assert set(Step.objects.values_list("attempts", flat=True)) == {1}
    assert Snapshot.objects.filter(why="change").count() == 1


def test_tick_recovers_lost_tasks_and_workers(
    api: Api, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow()
    job = begin(api, "pause")
    pump.waiting.clear()
    # A worker died after claiming a step.
    step = Step.objects.claim(Step.objects.get(vm_id="leaf").pk, timedelta(seconds=-1))
    assert step
    # Another one died while it held the lease of the job.
    Job.objects.filter(pk=job).update(leased_until=clock.now() - timedelta(seconds=1))
    runner.tick()
    pump.work()
    assert state_of(job) == "done"
    assert Step.objects.get(vm_id="leaf").attempts == 2


def test_step_that_kills_its_worker_fails_after_max_attempts(api: Api, pump: Pump) -> None:
    plant("root")
    job = begin(api, "pause")
    pump.waiting.clear()
    pk = Step.objects.get(vm_id="root").pk
    for _ in range(runner.MAX_ATTEMPTS):
        assert Step.objects.claim(pk, timedelta(seconds=-1))
        runner.advance(job)
    pump.waiting.clear()
    assert "lost 3 times" in Step.objects.get(pk=pk).reason
    assert state_of(job) == "failed"


def test_overlapping_job_with_another_operation_is_rejected(api: Api, pump: Pump) -> None:
    grow()
    first = begin(api, "pause", "left")
    for vm_id in ("root", "left", "leaf"):
        answer = start_operation(api, "destroy", vm_id)
        assert answer.status_code == 409, vm_id
        assert first in answer.json()["error"]
    assert start_operation(api, "destroy", "right").status_code == 202
    assert start_operation(api, "pause", "left").json()["continued"]
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.create(verb="pause", vm_id="left", actor="t")


def test_only_one_of_two_concurrent_jobs_starts(pump: Pump) -> None:
    grow()
    came: list[str] = []
    ready = threading.Barrier(2)

    def start(verb: Operation, vm_id: str) -> None:
        ready.wait(10)
        try:
            came.append(services.start(verb, vm_id, by="tests")[0].pk)
        except Conflict as error:
            came.append(f"refused: {error}")
        finally:
            connections.close_all()

    wishes = [(Operation.PAUSE, "root"), (Operation.DESTROY, "left")]
    threads = [threading.Thread(target=start, args=wish) for wish in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [text.startswith("refused") for text in sorted(came)] == [False, True]
    assert Job.objects.count() == 1


def test_cancelled_job_starts_no_further_step(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    fragile.slow = {"leaf"}
    job = begin(api, "destroy")
    pump.waiting.clear()
    runner.act([Step.objects.get(vm_id="leaf").pk])
    answer = api.post(f"/vm-tree/jobs/{job}/cancel")
    assert answer.json()["job"]["state"] == "cancelled"
    pump.work()
    assert states(job)["leaf"] == "running"
    steps = api.get(f"/vm-tree/jobs/{job}").json()["plan"]
    assert {step["state"] for step in steps if step["vmId"] != "leaf"} == {"cancelled"}
    assert all("cancelled" in step["reason"] for step in steps if step["vmId"] != "leaf")
    assert api.post(f"/vm-tree/jobs/{job}/cancel").status_code == 200
    fragile.slow.clear()
    runner.tick()
    assert states(job)["leaf"] == "done"
    assert Node.objects.active().count() == 4
    # The job can be continued.
    assert begin(api, "destroy") == job
    pump.work()
    assert not Node.objects.active().exists()


def test_step_of_a_lost_worker_in_a_cancelled_job_stays_cancelled(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    grow()
    job = begin(api, "destroy")
    pump.waiting.clear()
    assert Step.objects.claim(Step.objects.get(vm_id="leaf").pk, timedelta(0))
    api.post(f"/vm-tree/jobs/{job}/cancel")
    runner.tick()
    assert set(states(job).values()) == {"cancelled"}


def test_ended_job_cannot_be_cancelled(api: Api, pump: Pump) -> None:
    plant("alone")
    job = begin(api, "pause", "alone")
    pump.work()
    answer = api.post(f"/vm-tree/jobs/{job}/cancel")
    assert answer.status_code == 409
    assert "is done; there is nothing to cancel" in answer.json()["error"]
    assert state_of(job) == "done"


def test_job_without_changes_has_a_reason(api: Api, pump: Pump) -> None:
    plant("alone")
    did = begin(api, "pause", "alone")
    pump.work()
    did_not = begin(api, "pause", "alone")
    pump.work()
    assert api.get(f"/vm-tree/jobs/{did}").json()["job"]["reason"] is None
    found = api.get(f"/vm-tree/jobs/{did_not}").json()
    assert found["job"]["state"] == "done"
    assert "nothing was done: every VM was left out" in found["job"]["reason"]
    assert [step["state"] for step in found["plan"]] == ["left-out"]


def test_jobs_are_paginated(api: Api, pump: Pump) -> None:
    for number in range(5):
        plant(f"vm{number}")
        begin(api, "pause", f"vm{number}")
    first = api.get("/vm-tree/jobs?limit=3").json()
    second = api.get(f"/vm-tree/jobs?limit=3&cursor={first['next']}").json()
    names = [job["vmId"] for job in first["jobs"] + second["jobs"]]
    assert names == ["vm4", "vm3", "vm2", "vm1", "vm0"]
    assert second["next"] is None
    assert api.get("/vm-tree/jobs?limit=3&cursor=nothing").status_code == 400
    assert api.get("/vm-tree/jobs?vmId=vm3&state=open&verb=pause").json()["count"] == 1
    assert api.get("/vm-tree/jobs?state=asleep").status_code == 400
    assert api.get("/vm-tree/jobs/nothing").status_code == 404
    job = first["jobs"][0]["id"]
    assert api.get(f"/vm-tree/jobs/{job}?from=1").json()["count"] == 0


def test_long_chain_is_completed(api: Api, pump: Pump) -> None:
    parent = None
    for number in range(60):
        parent = Node.objects.create(vm_id=f"n{number}", category="swarm_vm", parent=parent)
    job = begin(api, "destroy", "n0")
    pump.work()
    assert state_of(job) == "done"


# -- permissions ---------------------------------------------------------------------------------


def test_node_may_operate_only_on_its_descendants(api: Api, pump: Pump) -> None:
    grow()
    token = tokens.issue(Node.objects.get(vm_id="left"), made_by="tests")
    client = Client(headers={"authorization": f"Bearer {token}"})
    post = partial(client.post, data={"dryRun": True}, content_type="application/json")
    for vm_id in ("left", "root", "right"):
        answer = post(f"/vm-tree/vms/{vm_id}/pause")
        assert answer.status_code == 403
        assert "rule:" in answer.json()["error"]
    assert post("/vm-tree/vms/leaf/pause").status_code == 200
    job = begin(api, "pause", "right")
    assert client.get(f"/vm-tree/jobs/{job}").status_code == 200
    assert client.post(f"/vm-tree/jobs/{job}/cancel").status_code == 403
    assert Client().post("/vm-tree/vms/leaf/pause").status_code == 401


def test_destroying_a_subtree_takes_the_right_to_destroy(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow()
    token = tokens.issue(Node.objects.get(vm_id="left"), made_by="tests")
    client = Client(headers={"authorization": f"Bearer {token}"})
    post = partial(client.post, data={"dryRun": True}, content_type="application/json")
    assert post("/vm-tree/vms/leaf/destroy").status_code == 200
    kind = permissions.CallerKind.LOCAL_AGENT
    without = dict(permissions.RIGHTS[kind])
    del without[permissions.Action.DESTROY]
    monkeypatch.setattr(permissions, "RIGHTS", {**permissions.RIGHTS, kind: without})
    assert post("/vm-tree/vms/leaf/pause").status_code == 200
    for body in ({"dryRun": True}, {}):
        answer = post("/vm-tree/vms/leaf/destroy", data=body)
        assert answer.status_code == 403
        assert "may not destroy leaf" in answer.json()["error"]
    assert not Job.objects.exists()


def test_unknown_route_is_a_404(api: Api) -> None:
    assert api.get("/vm-tree/vms/root/pause").status_code in (404, 405)
    assert api.post("/vm-tree/vms/root/explode").status_code in (404, 405)


# -- lieutenants ---------------------------------------------------------------------------------


def ensure_node(lieutenant: Lieutenant) -> None:
    """Create the lieutenant's node unless it exists."""
    if not Node.objects.filter(vm_id=lieutenant.pk).exists():
        new = NewNode(lieutenant.name, "lieutenant", vm_id=lieutenant.pk)
        tree.create(new, by="tests")


def test_operations_on_lieutenants_use_their_handler(
    api: Api, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_tasks(monkeypatch, "lieutenants.settle")
    ada = enlist("ada", "working")
    ensure_node(ada)
    eve = enlist("eve", "error")
    tree.create(NewNode("eve", "lieutenant", vm_id=eve.pk, parent_vm_id=ada.pk), by="tests")
    steps = start_operation(api, "pause", ada.pk, dryRun=True).json()["plan"]["steps"]
    assert [step["handler"] for step in steps] == ["lieutenant", "lieutenant"]
    assert steps[0]["leftOut"] == "is in error: no agent runs"
    assert "in the middle of its work" in steps[1]["does"]
    begin(api, "pause", ada.pk)
    pump.work()
    ada.refresh_from_db()
    assert ada.status == "paused"
    assert ada.moves.first().actor == "root token"  # type: ignore[union-attr]


def _run_in_a_thread(task: str, args: list[Any], countdown: float) -> None:
    """Run a task as workers do, with a second between checks."""

    def run_it() -> None:
        getattr(runner, task.removeprefix("operations."))(*args)
        connections.close_all()

    threading.Timer(countdown, run_it).start()


def test_real_agents_are_paused_resumed_and_destroyed(
    fleet: Fleet, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    intercept_tasks(monkeypatch, "operations.", _run_in_a_thread)
    ada = fleet.row(fleet.create("ada")["name"])
    ensure_node(ada)
    bea = fleet.row(fleet.create("bea")["name"])
    ensure_node(bea)
    tree.change(bea.pk, tree.NodeChange(parent_vm_id=ada.pk), by="tests")
    plant("worker", bea.pk)
    processes = [fleet.process("ada"), fleet.process("bea")]

    job = begin(api, "pause", ada.pk)
    until(lambda: state_of(job) == "done", 30)
    for process in processes:
        process.refresh_from_db()
        assert process.ended_at
    assert [fleet.row(name).status for name in ("ada", "bea")] == ["paused", "paused"]
    assert VM.objects.get(pk="worker").status == "paused"
    # Descendants were destroyed before their ancestors were asked to stop.
    ended = {step.vm_id: step for step in Step.objects.filter(job=job)}
    below, above = ended[bea.pk].ended_at, ended[ada.pk].started_at
    assert below
    assert above
    assert below <= above

    job = begin(api, "resume", ada.pk)
    until(lambda: state_of(job) == "done", 30)
    assert fleet.row("ada").status == fleet.row("bea").status == "idle"
    alive = [fleet.process(name) for name in ("ada", "bea")]

    job = begin(api, "destroy", ada.pk)
    until(lambda: state_of(job) == "done", 30)
    assert set(Lieutenant.objects.values_list("status", flat=True)) == {"destroyed"}
    for process in alive:
        process.refresh_from_db()
        assert process.ended_at
    assert not Node.objects.active().filter(vm_id__in=[ada.pk, bea.pk, "worker"]).exists()
    assert not VM.objects.filter(pk__in=[ada.pk, bea.pk, "worker"]).exists()


# -- handlers ------------------------------------------------------------------------------------


def test_registered_handler_takes_over_its_vms(fragile: ScriptedHandler) -> None:
    plant("one")
    assert handlers.handler_for("one").name == "fragile"
    handlers.vm_handlers.unregister("fragile")
    assert handlers.handler_for("one").name == "registry"
    with pytest.raises(NotFound):
        handlers.get_handler("fragile")


def test_step_of_an_unregistered_handler_fails_with_its_name(
    api: Api, pump: Pump, fragile: ScriptedHandler
) -> None:
    plant("one")
    job = begin(api, "pause", "one")
    handlers.vm_handlers.unregister("fragile")
    pump.work()
    assert "'fragile'" in Step.objects.get(job=job).reason


def test_services_raise_the_errors_of_the_api() -> None:
    plant("one")
    with pytest.raises(Conflict):
        services.start(Operation.PAUSE, "one", by="tests", confirm=7)
    with pytest.raises(ReefError):
        services.find("x\0y")
