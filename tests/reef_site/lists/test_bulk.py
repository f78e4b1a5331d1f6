"""Actions on many rows: the plan, exactly its rows, and a result for each."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from lieutenants import services
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Status
from reef_site.accounts import proof
from reef_site.common.eventlog.models import Event
from reef_site.common.lists.bulk import MAX_ROWS, Person, Result, Turn, bulk_lists
from reef_site.lists import retention, runner
from reef_site.lists.models import BulkItem, BulkRun, ItemState, RunState
from registry.models import VM
from tests.fleets import Pump, grow, plant
from tests.lieutenants.rows import enlist, page
from tests.reef_site.lists.conftest import Worker
from vmtree import snapshots
from vmtree.models import Node
from vmtree.operations.models import Job
from vmtree.snapshot_models import Snapshot

pytestmark = pytest.mark.django_db(transaction=True)


def plan(
    client: Client, action: str, *ids: str, where: str = "lieutenants", **form: Any
) -> BulkRun:
    """Plan an action and return it; its page opens."""
    answer = client.post(f"/lists/plan/{where}/", {"action": action, "id": ids, **form})
    assert answer.status_code == 302, answer.content.decode()
    assert client.get(answer["Location"]).status_code == 200
    return BulkRun.objects.get(pk=answer["Location"].split("/")[-2])


def confirm(client: Client, run: BulkRun, **form: Any) -> Any:
    return client.post(f"/lists/runs/{run.action}/{run.pk}/start", form)


def results(run: BulkRun) -> dict[str, tuple[str, str]]:
    """Map names to state and result."""
    rows = run.items.order_by("position").values_list("name", "state", "result")
    return {name: (state, result) for name, state, result in rows}


def statuses() -> dict[str, str]:
    return dict(Lieutenant.objects.values_list("name", "status"))


# -- plan and confirmation ---------------------------------------------------------------------


def test_plan_says_what_happens_to_each_and_changes_nothing(operator: Client) -> None:
    rows = [enlist("idle"), enlist("busy", Status.WORKING), enlist("resting", Status.PAUSED)]
    run = plan(operator, "pause", *(row.pk for row in rows), "unknown")

    html = page(operator, f"/lists/runs/{run.pk}/")
    assert "2 will be changed, 2 will not" in " ".join(html.split())
    assert "aborts the running answer" in html
    assert results(run)["resting"] == ("refused", "is paused")
    assert results(run)[""] == ("refused", "does not exist any more")
    assert statuses() == {"idle": "idle", "busy": "working", "resting": "paused"}


def test_confirmed_plan_changes_exactly_its_rows(operator: Client, worker: Worker) -> None:
    ids = [enlist(name).pk for name in ("a", "b")]
    resting = enlist("c", Status.PAUSED)
    run = plan(operator, "pause", all="1", query="q=tests&sort=name")
    # These match the filter by now, and were not in the plan.
    enlist("later")
    Lieutenant.objects.filter(pk=resting.pk).update(status=Status.IDLE)

    assert confirm(operator, run).status_code == 302
    worker.work()

    assert statuses() == {"a": "paused", "b": "paused", "c": "idle", "later": "idle"}
    run.refresh_from_db()
    assert run.state == RunState.DONE
    assert {each[0] for each in results(run).values()} == {"done", "refused"}
    assert set(run.items.filter(state="done").values_list("target", flat=True)) == set(ids)


def test_row_that_changed_since_fails_and_others_go_on(operator: Client, worker: Worker) -> None:
    rows = [enlist(name) for name in ("busy", "gone", "calm")]
    run = plan(operator, "pause", *(row.pk for row in rows))
    Lieutenant.objects.filter(name="busy").update(status=Status.WORKING)
    Lieutenant.objects.filter(name="gone").update(status=Status.DESTROYED)
    # Another one has the name by now.
    enlist("gone")
    confirm(operator, run)
    worker.work()

    found = results(run)
    assert found["busy"][0] == "failed"
    assert "aborts the running answer by now" in found["busy"][1]
    assert found["gone"] == ("failed", "it was destroyed before")
    assert found["calm"][0] == "done"
    assert statuses()["busy"] == "working"
    assert Lieutenant.objects.active().get(name="gone").status == "idle"


def test_warned_rows_are_changed(operator: Client, worker: Worker) -> None:
    busy = enlist("busy", Status.WORKING)
    confirm(operator, plan(operator, "pause", busy.pk))
    worker.work()

    assert statuses() == {"busy": "paused"}


def test_row_that_loses_less_than_was_confirmed_is_changed(
    operator: Client, worker: Worker
) -> None:
    busy = enlist("busy", Status.WORKING)
    for text in ("one", "two"):
        Message.objects.create(lieutenant=busy, text=text, mode="followUp", mode_asked="followUp")
    run = plan(operator, "destroy", busy.pk)
    Lieutenant.objects.update(status=Status.IDLE)
    Message.objects.filter(text="two").delete()
    confirm(operator, run)
    worker.work()

    assert results(run)["busy"][0] == "done"


def test_queued_messages_are_part_of_the_plan_of_an_abort(operator: Client, worker: Worker) -> None:
    busy = enlist("busy", Status.WORKING)
    Message.objects.create(lieutenant=busy, text="next", mode="followUp", mode_asked="followUp")
    run = plan(operator, "abort", busy.pk)
    assert run.items.get().warning == "drops 1 queued message"
    Message.objects.create(lieutenant=busy, text="more", mode="followUp", mode_asked="followUp")
    confirm(operator, run)
    worker.work()
    assert results(run)["busy"][0] == "failed"

    again = plan(operator, "abort", busy.pk)
    confirm(operator, again)
    worker.work()
    assert results(again)["busy"][0] == "done"
    assert set(Message.objects.values_list("state", flat=True)) == {"rejected"}


def test_one_message_goes_to_each(operator: Client, worker: Worker) -> None:
    ids = [enlist("ada").pk, enlist("bob", Status.PAUSED).pk, enlist("eve").pk]
    run = plan(operator, "send", *ids)

    empty = confirm(operator, run, text=" ")
    assert empty.status_code == 400
    assert "message: is required" in empty.content.decode()
    assert confirm(operator, run, text="Report.\r\nSoon.").status_code == 302
    worker.work()

    sent = Message.objects.order_by("lieutenant__name").values_list("lieutenant__name", "text")
    assert list(sent) == [("ada", "Report.\nSoon."), ("eve", "Report.\nSoon.")]
    run.refresh_from_db()
    assert run.text == "", "what was sent is with the messages"


def test_row_that_is_tried_again_is_sent_once(operator: Client, worker: Worker) -> None:
    run = plan(operator, "send", enlist("ada").pk)
    confirm(operator, run, text="hello")
    worker.work()
    # As if the worker had died before it could note the result.
    BulkItem.objects.update(state=ItemState.RUNNING)
    BulkRun.objects.update(state=RunState.OPEN, text="hello")
    runner.tick()
    worker.work()

    assert Message.objects.count() == 1
    assert results(run)["ada"][0] == "done"


@pytest.mark.parametrize("action", ["pause", "resume", "restart", "destroy", "send"])
def test_row_that_was_under_way_when_the_worker_died_is_done_once(
    operator: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    ada = enlist("ada", Status.PAUSED if action == "resume" else Status.IDLE)
    before = (ada.status, Event.objects.count())
    run = plan(operator, action, ada.pk)
    confirm(operator, run, text="hello")
    bulk_action = bulk_lists["lieutenants"].actions[action]

    def run_and_die(turn: Turn, person: Person) -> Result:
        bulk_action.run(turn, person)
        raise SoftTimeLimitExceeded

    dying = dataclasses.replace(bulk_action, run=run_and_die)
    monkeypatch.setattr(runner, "_action_of", lambda _: dying)
    with pytest.raises(SoftTimeLimitExceeded):
        worker.work()
    ada.refresh_from_db()
    assert (ada.status, Event.objects.count()) == before
    assert results(run)["ada"][0] == "running"

    monkeypatch.undo()
    assert Message.objects.count() == 0
    runner.advance(run.pk)

    assert results(run)["ada"][0] == "done"
    ada.refresh_from_db()
    assert ada.status != before[0]
    assert Message.objects.count() == (action == "send")


def test_row_that_was_left_under_way_is_cancelled_with_its_action(
    operator: Client, worker: Worker
) -> None:
    run = plan(operator, "pause", enlist("ada").pk)
    confirm(operator, run)
    BulkItem.objects.update(state=ItemState.RUNNING)
    operator.post(f"/lists/runs/{run.pk}/cancel")
    assert results(run)["ada"][0] == "running", "a worker may be at it"
    runner.tick()

    assert results(run)["ada"][0] == "cancelled"
    assert statuses() == {"ada": "idle"}


def test_destroying_needs_a_recent_proof_and_the_number(operator: Client, worker: Worker) -> None:
    run = plan(operator, "destroy", *(enlist(f"l{number}").pk for number in range(11)))
    session = operator.session
    session[proof.PROVED_AT] = time.time() - 31 * 60
    session.save()
    assert confirm(operator, run, count="11").status_code == 403
    session[proof.PROVED_AT] = time.time()
    session.save()

    # The action in the URL is the one that the proof depends on.
    assert operator.post(f"/lists/runs/pause/{run.pk}/start").status_code == 404
    wrong = confirm(operator, run, count="10")
    assert wrong.status_code == 400
    assert "Type 11" in wrong.content.decode()
    assert confirm(operator, run, count="11").status_code == 302
    worker.work()

    assert set(statuses().values()) == {"destroyed"}
    assert Snapshot.objects.count() == 0, "lieutenants alone need none"


def test_plan_is_confirmed_once_by_its_maker_and_soon(operator: Client, worker: Worker) -> None:
    run = plan(operator, "pause", enlist("ada").pk)
    other = Client()
    other.force_login(User.objects.create_superuser("other"))
    assert confirm(other, run).status_code == 404
    assert confirm(operator, run).status_code == 302
    assert confirm(operator, run).status_code == 409
    old = plan(operator, "pause", enlist("bob").pk)
    BulkRun.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(hours=2))
    assert confirm(operator, old).status_code == 409
    nothing = plan(operator, "resume", enlist("eve").pk)
    assert confirm(operator, nothing).status_code == 409


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"action": "pause"}, 400),
        ({"action": "explode", "id": "x"}, 400),
        ({"action": "pause", "id": "x\x00"}, 400),
        ({"action": "pause", "id": "x" * 256}, 400),
        ({"action": "pause", "all": "1", "query": "q=colour:red"}, 400),
        ({"action": "pause", "all": "1", "query": "q" * 1001}, 400),
        ({"action": "pause", "id": [f"x{number}" for number in range(MAX_ROWS)]}, 302),
    ],
)
def test_wrong_plans_are_refused(operator: Client, form: dict[str, Any], status: int) -> None:
    assert operator.post("/lists/plan/lieutenants/", form).status_code == status
    assert operator.post("/lists/plan/nowhere/", form).status_code == 404
    assert BulkRun.objects.count() == (status == 302)


def test_plan_of_too_many_matches_is_refused(operator: Client) -> None:
    Lieutenant.objects.bulk_create(
        Lieutenant(name=f"l{number}", role="r", host="h") for number in range(MAX_ROWS + 1)
    )
    answer = operator.post("/lists/plan/lieutenants/", {"action": "pause", "all": "1"})

    assert answer.status_code == 400
    assert "Narrow it" in answer.content.decode()


# -- who may -----------------------------------------------------------------------------------


def test_read_only_account_sees_results_and_changes_nothing(operator: Client) -> None:
    run = plan(operator, "pause", enlist("ada").pk)
    client = Client()
    client.force_login(User.objects.create_user("joe", is_staff=True))

    assert client.post("/lists/plan/lieutenants/", {"action": "pause"}).status_code == 403
    assert confirm(client, run).status_code == 403
    assert client.post(f"/lists/runs/{run.pk}/cancel").status_code == 403
    html = page(client, f"/lists/runs/{run.pk}/")
    assert "/start" not in html
    assert 'name="id"' not in page(client, "/lieutenants/")


def test_rights_are_checked_again_when_it_is_a_rows_turn(operator: Client, worker: Worker) -> None:
    run = plan(operator, "pause", enlist("ada").pk)
    confirm(operator, run)
    User.objects.update(is_superuser=False)
    worker.work()
    assert results(run)["ada"][0] == "failed"
    assert "operators" in results(run)["ada"][1]

    User.objects.update(is_superuser=True)
    again = plan(operator, "pause", Lieutenant.objects.get().pk)
    confirm(operator, again)
    User.objects.update(is_active=False)
    worker.work()
    assert results(again)["ada"][0] == "failed"
    assert statuses() == {"ada": "idle"}


# -- execution ---------------------------------------------------------------------------------


def test_cancelled_action_leaves_waiting_rows(operator: Client, worker: Worker) -> None:
    run = plan(operator, "pause", enlist("ada").pk)
    confirm(operator, run)
    assert operator.post(f"/lists/runs/{run.pk}/cancel").status_code == 302
    worker.work()

    assert results(run)["ada"][0] == "cancelled"
    assert statuses() == {"ada": "idle"}
    assert operator.post(f"/lists/runs/{run.pk}/cancel").status_code == 409


def test_lost_task_is_found_by_the_tick(operator: Client, worker: Worker) -> None:
    run = plan(operator, "pause", enlist("ada").pk)
    confirm(operator, run)
    worker.waiting.clear()
    runner.tick()
    worker.work()

    assert results(run)["ada"][0] == "done"


def test_row_with_an_unexpected_error_does_not_hold_up_others(
    operator: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan(operator, "pause", enlist("ada").pk, enlist("bob").pk)
    confirm(operator, run)
    pause = services.pause

    def broken(name: str, **options: Any) -> Any:
        if name == "ada":
            raise ZeroDivisionError
        return pause(name, **options)

    monkeypatch.setattr(services, "pause", broken)
    worker.work()

    assert results(run)["ada"][0] == "failed"
    assert "internal error" in results(run)["ada"][1]
    assert statuses() == {"ada": "idle", "bob": "paused"}


def test_long_action_continues_in_the_next_task(
    operator: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan(operator, "pause", *(enlist(f"l{number}").pk for number in range(3)))
    confirm(operator, run)
    monkeypatch.setattr(runner, "SECONDS_PER_TASK", 0.0)
    runner.advance(worker.waiting.popleft())
    assert len(worker.waiting) == 1
    monkeypatch.undo()
    runner.advance(run.pk)

    assert {state for state, _ in results(run).values()} == {"done"}


def test_old_plans_and_results_are_deleted(operator: Client, worker: Worker) -> None:
    old = plan(operator, "pause", enlist("ada").pk)
    done = plan(operator, "pause", enlist("bob").pk)
    confirm(operator, done)
    worker.work()
    fresh = plan(operator, "pause", enlist("eve").pk)
    long_ago = timezone.now() - timedelta(days=31)
    BulkRun.objects.filter(pk=old.pk).update(created_at=long_ago)
    BulkRun.objects.filter(pk=done.pk).update(created_at=long_ago, ended_at=long_ago)

    assert retention.prune() == 2
    assert BulkRun.objects.get() == fresh


# -- VMs ---------------------------------------------------------------------------------------


def test_vms_are_paused_with_everything_below(operator: Client, worker: Worker, pump: Pump) -> None:
    grow()
    run = plan(operator, "pause", "left", "leaf", "right", "nowhere", where="vms")
    items = {item.target: item for item in run.items.all()}
    assert (items["left"].count, items["right"].count) == (3, 1)
    assert items["leaf"].result == "is below left, which is chosen as well"
    assert items["nowhere"].result == "has no place in the tree"

    confirm(operator, run)
    worker.work()
    pump.work()

    paused = VM.objects.filter(status="paused").values_list("pk", flat=True)
    assert set(paused) == {"left", "leaf", "leaf2", "right"}
    assert Job.objects.count() == 2
    html = page(operator, f"/lists/runs/{run.pk}/")
    assert "3 done" in html
    assert "data-passing" not in html


def test_subtree_that_has_grown_is_not_changed(
    operator: Client, worker: Worker, pump: Pump
) -> None:
    grow()
    run = plan(operator, "pause", "left", "right", where="tree")
    Node.objects.filter(vm_id="right").update(parent=Node.objects.get(vm_id="leaf"))
    confirm(operator, run)
    worker.work()
    pump.work()

    assert results(run)["left"] == ("failed", "confirm: 4 VMs would be touched, not 3")
    assert results(run)["right"][0] == "done"


def test_destroying_vms_takes_one_snapshot(operator: Client, worker: Worker, pump: Pump) -> None:
    grow()
    run = plan(operator, "destroy", "leaf", "leaf2", "right", where="tree")
    assert confirm(operator, run).status_code == 302
    worker.work()
    pump.work()

    assert Snapshot.objects.count() == 1
    assert set(Node.objects.active().values_list("vm_id", flat=True)) == {"root", "left"}
    assert set(Job.objects.values_list("snapshot", flat=True)) == {Snapshot.objects.get().file}


def test_number_of_vms_is_confirmed_even_for_one_row(operator: Client) -> None:
    grow()
    for number in range(10):
        plant(f"more{number}", "right")
    run = plan(operator, "destroy", "root", where="tree")

    refused = confirm(operator, run, count="1")

    assert refused.status_code == 400
    assert "Type 15, how many are destroyed" in refused.content.decode()
    assert confirm(operator, run, count="15").status_code == 302


def test_nothing_is_destroyed_without_a_snapshot(
    operator: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> Any:
        raise ZeroDivisionError("no room")

    monkeypatch.setattr(snapshots, "take", broken)
    grow()
    run = plan(operator, "destroy", "leaf", where="tree")
    confirm(operator, run)
    worker.work()

    assert results(run)["leaf"][0] == "failed"
    assert not Job.objects.exists()


def test_all_matches_of_the_tree_are_planned(operator: Client) -> None:
    grow()
    run = plan(operator, "pause", where="tree", all="1", query="q=leaf")
    assert [item.target for item in run.items.all()] == ["leaf", "leaf2"]
    below = plan(operator, "pause", where="tree", all="1", query="under=left")
    assert [item.target for item in below.items.all()] == ["leaf", "leaf2"]
