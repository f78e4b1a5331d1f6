"""Requests for provisionings: each row is written once, and the limits hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bootloader.exceptions import ProviderRefused
from bootloader.inventory import machines
from bootloader.models import (
    BootReport,
    BootStep,
    LogLine,
    Machine,
    OwnProfile,
    ProvisionGrant,
    Provisioning,
)
from bootloader.provisioning import quota, rendering, runner, script_runner
from bootloader.states import State, StepName, StepState
from reef_site.accounts.signin_links import make_operator
from reef_site.common import clock
from tests.conftest import Api
from tests.dispatching import intercept_tasks
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids that were sent to the worker; no worker runs."""
    heard: list[str] = []

    def record(task: str, args: list[str], _countdown: float) -> None:
        heard.append("begin" if task == "bootloader.begin" else args[0])

    intercept_tasks(monkeypatch, "bootloader.", record)
    return heard


@pytest.fixture
def operator() -> Api:
    """Provide the browser of a signed-in operator."""
    api = Api()
    del api.client.defaults["HTTP_AUTHORIZATION"]
    api.client.force_login(make_operator())
    return api


@pytest.fixture
def family() -> dict[str, Node]:
    """Create root → (ada → ada-1, bob)."""
    places = [("roof", ""), ("ada", "roof"), ("ada-1", "ada"), ("bob", "roof")]
    return {
        vm_id: tree.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
        for vm_id, parent in places
    }


def node_api(node: Node) -> Api:
    api = Api()
    token = tokens.issue(node, made_by="tests")
    api.client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return api


REQUEST = {"name": "one", "type": "lightweight"}


def test_request_creates_one_row_with_ordered_steps(api: Api, dispatched: list[str]) -> None:
    answer = api.post("/bootloader/provision", REQUEST)

    assert answer.status_code == 202, answer.content
    found = answer.json()["provisioning"]
    assert found["state"] == "queued"
    assert found["provider"] == "vers"
    assert [step["name"] for step in found["steps"]] == list(StepName)
    assert {step["state"] for step in found["steps"]} == {"waiting"}
    assert dispatched == ["begin"]


def test_same_name_or_key_returns_the_same_row(api: Api) -> None:
    first = api.post("/bootloader/provision", REQUEST, **{"Idempotency-Key": "k"}).json()
    by_key = api.post("/bootloader/provision", REQUEST, **{"Idempotency-Key": "k"})
    by_name = api.post("/bootloader/provision", REQUEST)

    assert by_key.status_code == by_name.status_code == 200
    assert by_key.json()["continued"] is True
    for answer in (by_key, by_name):
        assert answer.json()["provisioning"]["id"] == first["provisioning"]["id"]
    assert Provisioning.objects.count() == 1


def test_different_request_with_same_name_or_key_is_rejected(api: Api) -> None:
    api.post("/bootloader/provision", REQUEST, **{"Idempotency-Key": "k"})

    other = api.post("/bootloader/provision", {**REQUEST, "type": "full"})
    reused = api.post(
        "/bootloader/provision", {**REQUEST, "name": "two"}, **{"Idempotency-Key": "k"}
    )

    assert other.status_code == reused.status_code == 409
    assert "'one' is queued" in other.json()["error"]
    assert "Idempotency-Key" in reused.json()["error"]


def test_twenty_vms_are_requested_at_once_and_only_once(api: Api) -> None:
    body = {**REQUEST, "name": "swarm", "count": 20}
    first = api.post("/bootloader/provision", body).json()
    again = api.post("/bootloader/provision", body).json()

    names = [each["name"] for each in first["provisionings"]]
    assert names[0] == "swarm-01"
    assert names[-1] == "swarm-20"
    assert first["count"] == 20
    assert len({each["batch"] for each in first["provisionings"]}) == 1
    assert [each["id"] for each in again["provisionings"]] == [
        each["id"] for each in first["provisionings"]
    ]
    assert Provisioning.objects.count() == 20


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": ""}, "name is required"),
        ({"name": "../etc"}, "name: must be"),
        ({"name": "a" * 65}, "name: must be"),
        ({"type": None}, "type is required"),
        ({"type": "nothing"}, "Unknown VM type: nothing"),
        ({"provider": "moon"}, "provider: must be one of"),
        ({"parentVmId": "nobody"}, "parent VM 'nobody' not found"),
        ({"count": 0}, "count: must be a whole number"),
        ({"count": "3"}, "count: must be a whole number"),
        ({"vcpus": -1}, "vcpus: must be"),
        ({"labels": []}, "labels: must be an object"),
        ({"onFailure": "burn"}, "onFailure: must be one of keep, delete"),
        ({"extraOrgans": "store"}, "extraOrgans: must be a list"),
        ({"commitId": "a\u0000b"}, "commitId: must be text"),
        ({"dryRun": "yes"}, "dryRun: must be true or false"),
        ({"commitId": "golden", "image": "big"}, "image: a commit is restored as it is"),
        ({"agentVersion": "newest"}, "agentVersion: has not the form that it must have"),
        ({"agentVersion": "$(reboot)"}, "agentVersion: has not the form"),
        ({"extraOrgans": ["heart"]}, "extraOrgans: 'heart' is not known; these are: "),
        ({"extraCapabilities": ["fly"]}, "extraCapabilities: 'fly' is not known; these are: "),
        (
            {"parentVMId": "x"},
            "parentVMId: not known; did you mean parentVmId? This route takes name, type",
        ),
    ],
)
def test_invalid_request_is_rejected_and_changes_nothing(
    api: Api, change: dict[str, Any], text: str
) -> None:
    answer = api.post("/bootloader/provision", {**REQUEST, **change})

    assert answer.status_code == 400, answer.content
    assert text in answer.json()["error"]
    assert not Provisioning.objects.exists()


def test_vm_limit_is_enforced(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEF_MAX_VMS", "3")

    assert api.post("/bootloader/provision", {**REQUEST, "count": 2}).status_code == 202
    refused = api.post("/bootloader/provision", {**REQUEST, "name": "x", "count": 2})

    assert refused.status_code == 409
    assert "REEF_MAX_VMS allows 3" in refused.json()["error"]


def test_concurrency_limit_is_enforced(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEF_PROVISION_AT_ONCE", "2")
    api.post("/bootloader/provision", {**REQUEST, "count": 5})

    assert len(quota.start_queued()) == 2
    assert quota.start_queued() == []
    Provisioning.objects.filter(state=State.RUNNING).first().move(State.DONE)  # type: ignore[union-attr]
    assert len(quota.start_queued()) == 1


def test_dry_run_shows_the_plan_and_changes_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-very-secret-key")

    found = api.post("/bootloader/provision", {**REQUEST, "dryRun": True, "vcpus": 3}).json()

    assert found["names"] == ["one"]
    assert found["spec"]["vcpus"] == 3
    assert found["script"].startswith("#!/bin/bash")
    assert found["diff"] is None
    assert found["userData"].startswith("#cloud-config")
    assert "sk-a-very-secret-key" not in str(found)
    assert not Provisioning.objects.exists()


# -- permissions ---------------------------------------------------------------------------------


def test_nodes_provision_only_below_themselves(family: dict[str, Node]) -> None:
    ada = node_api(family["ada"])
    ProvisionGrant.objects.create(node=family["ada"], vms=2, levels=2)

    own = ada.post("/bootloader/provision", REQUEST)
    below = ada.post("/bootloader/provision", {**REQUEST, "name": "two", "parentVmId": "ada-1"})
    beside = ada.post("/bootloader/provision", {**REQUEST, "name": "three", "parentVmId": "bob"})

    assert own.status_code == below.status_code == 202
    assert own.json()["provisioning"]["parentVmId"] == "ada"
    assert beside.status_code == 403


def test_nodes_cannot_choose_the_root_address(family: dict[str, Node]) -> None:
    body = {**REQUEST, "roofReefUrl": "http://elsewhere.example"}
    answer = node_api(family["ada"]).post("/bootloader/provision", body)
    assert answer.status_code == 403
    assert not Provisioning.objects.exists()


def test_nodes_retry_and_cancel_only_their_own_provisionings(
    api: Api, family: dict[str, Node]
) -> None:
    made = api.post("/bootloader/provision", {**REQUEST, "parentVmId": "ada"}).json()
    path = f"/bootloader/provisionings/{made['provisioning']['id']}"
    ada, bob = node_api(family["ada"]), node_api(family["bob"])

    assert bob.post(f"{path}/cancel", {"machine": "delete"}).status_code == 403
    assert bob.get(path).status_code == 200
    assert ada.post(f"{path}/cancel", {"machine": "delete"}).status_code == 202


@pytest.mark.parametrize("path", ["findings/1/act", "findings/1/dismiss", "reconcile"])
def test_nodes_cannot_read_findings(family: dict[str, Node], path: str) -> None:
    assert node_api(family["roof"]).post(f"/bootloader/{path}").status_code == 403


# -- retry and cancel ----------------------------------------------------------------------------


def failed_at(name: StepName, *, gone: bool = False) -> Provisioning:
    """Create a provisioning that has failed in this step."""
    machine = Machine.objects.create(provider="vers", machine_id=f"m-{name}", vm_id=f"m-{name}")
    if gone:
        Machine.objects.update(gone_at=machine.known_since)
    row = Provisioning.objects.create(name="one", profile="full", provider="vers", actor="t")
    row.machine = machine
    row.save(update_fields=["machine"])
    for position, each in enumerate(StepName):
        state = StepState.WAITING
        if position <= list(StepName).index(name):
            state = StepState.FAILED if each == name else StepState.DONE
        BootStep.objects.create(provisioning=row, position=position, name=each, state=state)
    row.move(State.RUNNING)
    row.move(State.FAILED, "it did not work")
    return row


@pytest.mark.parametrize(
    ("name", "gone", "first"),
    [
        (StepName.RESOLVE, False, StepName.RESOLVE),
        (StepName.SSH, False, StepName.SSH),
        (StepName.SSH, True, StepName.CREATE),
        (StepName.UPLOAD, False, StepName.UPLOAD),
        (StepName.RUN, False, StepName.UPLOAD),
        (StepName.RUN, True, StepName.CREATE),
        (StepName.HEALTH, False, StepName.UPLOAD),
    ],
)
def test_retry_begins_at_the_failed_step(
    api: Api, name: StepName, gone: bool, first: StepName
) -> None:
    row = failed_at(name, gone=gone)

    answer = api.post(f"/bootloader/provisionings/{row.pk}/retry")

    assert answer.status_code == 202
    assert answer.json()["provisioning"]["state"] == "queued"
    states = {step["name"]: step["state"] for step in answer.json()["provisioning"]["steps"]}
    order = list(StepName)
    assert all(states[each] == "done" for each in order[: order.index(first)])
    assert all(states[each] == "waiting" for each in order[order.index(first) :])


def test_completed_provisioning_cannot_be_cancelled_or_retried(api: Api) -> None:
    row = Provisioning.objects.create(
        name="one", profile="full", provider="vers", actor="t", state=State.DONE, vm_id="v"
    )
    path = f"/bootloader/provisionings/{row.pk}"

    cancelled = api.post(f"{path}/cancel", {"machine": "delete"})
    assert cancelled.status_code == 409
    assert "destroy VM 'v'" in cancelled.json()["error"]
    assert api.post(f"{path}/retry").status_code == 409


def test_cancelling_needs_a_cleanup_policy(api: Api, dispatched: list[str]) -> None:
    row = failed_at(StepName.SSH)
    path = f"/bootloader/provisionings/{row.pk}/cancel"

    assert "keep or delete" in api.post(path).json()["error"]
    assert api.post(path, {"machine": "keep"}).json()["provisioning"]["state"] == "cancelling"
    assert api.post(path, {"machine": "keep"}).status_code == 202
    assert row.pk in dispatched


def test_cancelling_without_a_vm_needs_no_policy(api: Api) -> None:
    made = api.post("/bootloader/provision", REQUEST).json()["provisioning"]
    path = f"/bootloader/provisionings/{made['id']}"

    assert api.post("/bootloader/provisionings/nothing/cancel").status_code == 404
    unknown = api.post("/bootloader/provisionings/nothing/cancel", {"machine": "burn"})
    assert unknown.status_code == 404
    assert api.post(f"{path}/cancel", {"machine": "burn"}).status_code == 400
    assert api.post(f"{path}/cancel").json()["provisioning"]["state"] == "cancelling"
    runner.advance(made["id"])

    found = api.get(path).json()["provisioning"]
    assert found["state"] == "cancelled"
    assert found["reason"].endswith("; no VM was made")
    assert {step["state"] for step in found["steps"]} == {"cancelled"}


@pytest.mark.parametrize(("leftover", "fate"), [("keep", "was kept"), ("delete", "was deleted")])
def test_cancelled_provisioning_has_no_running_step_and_names_the_cleanup(
    api: Api, monkeypatch: pytest.MonkeyPatch, leftover: str, fate: str
) -> None:
    row = failed_at(StepName.RUN)
    row.steps.filter(name=StepName.RUN).update(
        state=StepState.RUNNING, started_at=clock.now() - timedelta(minutes=5)
    )
    monkeypatch.setattr(machines, "_end", lambda _machine: "")
    monkeypatch.setattr(script_runner, "stop_script", lambda _context: None)
    path = f"/bootloader/provisionings/{row.pk}"
    api.post(f"{path}/cancel", {"machine": leftover})
    runner.advance(row.pk)

    found = api.get(path).json()["provisioning"]
    assert found["state"] == "cancelled"
    assert found["reason"].endswith(fate), found["reason"]
    steps = {step["name"]: step for step in found["steps"]}
    assert steps["run"]["state"] == steps["join"]["state"] == "cancelled"
    assert steps["run"]["durationMs"] >= 300_000
    assert steps["run"]["endedAt"]
    assert api.get(path).json()["provisioning"]["steps"] == found["steps"], "its time stands still"


def test_failed_cleanup_leaves_no_step_running(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_machine: Machine) -> str:
        raise ProviderRefused("not yours")

    row = failed_at(StepName.RUN)
    row.steps.filter(name=StepName.RUN).update(state=StepState.RUNNING, started_at=clock.now())
    monkeypatch.setattr(machines, "_end", refuse)
    path = f"/bootloader/provisionings/{row.pk}"
    api.post(f"{path}/cancel", {"machine": "delete"})
    runner.advance(row.pk)

    found = api.get(path).json()["provisioning"]
    assert (found["state"], found["steps"][5]["state"]) == ("failed", "failed")
    assert "not yours" in found["reason"]


def test_queued_provisioning_tells_why_it_waits(
    api: Api, operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_PROVISION_AT_ONCE", "5")
    api.post("/bootloader/provision", {**REQUEST, "count": 6})
    why = "waits for one of 5 places (REEF_PROVISION_AT_ONCE)"
    first = api.get("/bootloader/provisionings").json()["provisionings"][0]
    assert first["waitsFor"] == "begins as soon as a worker takes it"

    quota.start_queued()

    found = api.get("/bootloader/provisionings").json()["provisionings"]
    assert [each["waitsFor"] for each in found] == [why, *[None] * 5]
    page = operator.get(f"/provisioning/{found[0]['id']}/").content.decode()
    assert "Waits for one of 5 places (REEF_PROVISION_AT_ONCE)." in page
    assert why in operator.get("/provisioning/").content.decode()


def test_conflict_with_a_failed_provisioning_names_the_ways_out(api: Api) -> None:
    row = failed_at(StepName.SSH)
    refused = api.post("/bootloader/provision", REQUEST)
    assert refused.status_code == 409
    said = refused.json()["error"]
    assert "'one' is held by provisioning" in said
    for word in ("retry", "cancel"):
        assert f"/bootloader/provisionings/{row.pk}/{word}" in said


def test_filter_with_nul_is_rejected(api: Api) -> None:
    answer = api.get("/bootloader/provisionings?vmId=a%00b")
    assert answer.status_code == 400
    assert answer.json()["error"] == "vmId: has characters that are no text"


def test_script_preview_shows_agent_settings_without_secrets(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only VMs with the coding agent get these settings."""
    OwnProfile.objects.create(type="plain", agent=False, own_reef=True, description="No agent.")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-very-secret-key")
    monkeypatch.setenv("REEF_AGENT_MODEL", "ours/echo")
    monkeypatch.setenv("REEF_MODEL_URL", "http://models.example/v1")
    names = ("OPENAI_API_KEY", "REEF_AGENT_MODEL", "REEF_MODEL_URL")

    shown = api.post("/bootloader/provision", {**REQUEST, "dryRun": True}).json()["script"]
    assert all(name in shown for name in names)
    assert "'ours/echo'" in shown
    assert "'http://models.example/v1'" in shown
    assert "sk-a-very-secret-key" not in shown

    monkeypatch.setenv("REEF_MODEL_URL", "http://me:hunter2hunter2@models.example/v1")
    shown = api.post("/bootloader/provision", {**REQUEST, "dryRun": True}).json()
    assert "hunter2hunter2" not in str(shown)

    made = {"vmId": "p", "name": "p", "type": "plain"}
    script = api.post("/bootloader/generate", made).json()["script"]
    values = script.split("# -- from here on", 1)[0]
    assert "VERS_INFRA_URL" in values
    assert not [name for name in names if name in values]
    assert "sk-a-very-secret-key" not in script


def test_labels_are_shown_as_text(operator: Api) -> None:
    row = failed_at(StepName.SSH)
    Provisioning.objects.filter(pk=row.pk).update(spec={"labels": {"team": "a", "for": "b"}})
    assert "team=a, for=b" in operator.get(f"/provisioning/{row.pk}/").content.decode()


def test_running_step_of_the_script_shows_how_long_it_has_run(operator: Api) -> None:
    row = failed_at(StepName.RUN)
    Provisioning.objects.filter(pk=row.pk).update(vm_id="vm-1", state=State.RUNNING)
    began = clock.now() - timedelta(seconds=7)
    fields = {"vm_id": "vm-1", "run": "r", "began_at": began}
    BootReport.objects.create(step="dns", status="ok", duration_ms=425, **fields)
    BootReport.objects.create(step="agent", status="started", duration_ms=0, **fields)
    page = " ".join(operator.get(f"/provisioning/{row.pk}/").content.decode().split())
    assert "ok · 0.4 s" in page
    assert re.search(r"running for <time[^>]*>7 s</time>", page)


# -- lists, logs and pages -----------------------------------------------------------------------


def test_log_is_paginated_by_sequence_number(api: Api) -> None:
    row = failed_at(StepName.SSH)
    first = api.get(f"/bootloader/provisionings/{row.pk}/log?limit=1").json()
    LogLine.objects.create(provisioning=row, kind="note", text="later")
    rest = api.get(f"/bootloader/provisionings/{row.pk}/log?after={first['next']}").json()

    assert first["count"] == 1
    assert rest["lines"][-1]["text"] == "later"
    assert first["lines"][0]["id"] not in [line["id"] for line in rest["lines"]]


def test_list_is_paginated_by_cursor(api: Api) -> None:
    api.post("/bootloader/provision", {**REQUEST, "count": 7})
    seen: list[str] = []
    path: str | None = "/bootloader/provisionings?limit=3"
    while path:
        page = api.get(path).json()
        seen += [each["id"] for each in page["provisionings"]]
        path = f"/bootloader/provisionings?limit=3&cursor={page['next']}" if page["next"] else None
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, reverse=True)


def test_every_page_renders(operator: Api) -> None:
    row = failed_at(StepName.RUN)
    Provisioning.objects.filter(pk=row.pk).update(script="echo '<b>'", user_data="#cloud-config")
    one = f"/provisioning/{row.pk}"
    for path in (
        *("/provisioning/", "/provisioning/?state=failed", "/provisioning/?state=done"),
        *("/provisioning/new/", "/provisioning/machines/", "/provisioning/machines/?gone"),
        *("/provisioning/findings/", f"{one}/", f"{one}/used/", f"{one}/cancel/"),
        *(f"{one}/part/?after=0", "/provisioning/rows/"),
    ):
        answer = operator.get(path)
        assert answer.status_code == 200, path
        assert b"echo '<b>'" not in answer.content
    assert operator.get("/provisioning/nothing/").status_code == 404


def test_form_shows_a_preview_before_the_start(operator: Api) -> None:
    form = {"name": "one", "type": "lightweight", "on_failure": "keep", "provider": ""}
    shown = operator.client.post("/provisioning/new/", {**form, "preview": "yes"})
    assert shown.status_code == 200
    assert b"Boot script" in shown.content
    assert "JOIN_TOKEN=&#x27;***&#x27;" in shown.content.decode()
    assert "Processors: 2 (default)" in shown.content.decode()
    assert not Provisioning.objects.exists()

    started = operator.client.post("/provisioning/new/", {**form, "start": "yes", "key": "k"})
    again = operator.client.post("/provisioning/new/", {**form, "start": "yes", "key": "k"})

    row = Provisioning.objects.get()
    assert started.status_code == again.status_code == 302
    assert started.headers["Location"] == again.headers["Location"] == f"/provisioning/{row.pk}/"


@pytest.mark.parametrize("change", [{"name": "a b"}, {"vcpus": "many"}, {"parent_vm_id": "no"}])
def test_form_shows_errors_beside_their_fields(operator: Api, change: dict[str, str]) -> None:
    form = {"name": "one", "type": "full", "on_failure": "keep", "preview": "yes", **change}
    answer = operator.client.post("/provisioning/new/", form)
    field = next(iter(change))
    assert answer.status_code == 400
    assert f'id="id_{field}_error"' in answer.content.decode()


def test_anonymous_users_are_sent_to_sign_in(client: Callable[..., Any]) -> None:
    answer = client.get("/provisioning/")  # type: ignore[attr-defined]
    assert answer.status_code == 302
    assert answer.url.startswith("/signin")


# -- retention ------------------------------------------------------------------------------------


def test_texts_are_kept_for_a_month_and_the_latest_of_each_profile_forever() -> None:
    def row(name: str, days: int, state: State, profile: str = "swarm") -> str:
        ended = None if state == State.RUNNING else clock.now() - timedelta(days=days)
        made = Provisioning.objects.create(
            name=name,
            profile=profile,
            provider="vers",
            actor="tests",
            state=state,
            script="#!/bin/sh",
            user_data="#cloud-config",
            ended_at=ended,
        )
        return made.pk

    old, failed = row("old", 31, State.DONE), row("failed", 31, State.FAILED)
    kept = [
        row("recent", 29, State.DONE),
        row("still at it", 90, State.RUNNING),
        row("newest", 31, State.DONE),
        row("the only one", 90, State.DONE, "full"),
    ]

    rendering.sweep()

    left = Provisioning.objects.exclude(script="")
    assert set(left.values_list("pk", flat=True)) == set(kept)
    assert set(Provisioning.objects.filter(user_data="").values_list("pk", flat=True)) == {
        old,
        failed,
    }
