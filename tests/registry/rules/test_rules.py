"""Lifecycle rules: whom they find, that they fire once, what they do, what holds them back."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from lieutenants.models import Answer, Lieutenant
from reef_site.common import clock
from registry.models import VM, Watch
from registry.rules import conditions, engine
from registry.rules.models import Firing, Rule
from registry.vm_handler import RegistryHandler
from tests.conftest import STANDIN, Api, Fleet
from tests.dispatching import drop_tasks, intercept_tasks
from tests.fleets import Pump, plant
from tests.lieutenants.rows import enlist, process_of
from tests.waiting import until
from vmtree import tokens
from vmtree.models import Node
from vmtree.operations import handlers
from vmtree.operations.models import Job
from vmtree.snapshot_models import Snapshot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database")]


@pytest.fixture(autouse=True)
def dispatched(database: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the dispatched rule executions, and delete the initial rules."""
    Rule.objects.all().delete()
    sent: list[int] = []
    intercept_tasks(monkeypatch, "rules.", lambda _task, args, _countdown: sent.append(args[0]))
    return sent


def rule(event: str, action: str = "note", **fields: Any) -> Rule:
    usual = {"name": f"{event} {action}", "enabled": True, "watched_from": ago(days=2)}
    return Rule.objects.create(event=event, action=action, **{**usual, **fields})


def ago(**span: float) -> datetime:
    return clock.now() - timedelta(**span)


def create_silent_vm(vm_id: str, minutes: float = 10, **fields: Any) -> VM:
    """Create a VM whose silence began this long ago."""
    plant(vm_id, **fields)
    rows = VM.objects.filter(pk=vm_id)
    rows.update(
        last_seen=ago(minutes=minutes + 5),
        late_after=ago(minutes=minutes + 2.5),
        silent_after=ago(minutes=minutes),
    )
    return rows.get()


def tick_and_act(at: datetime | None = None) -> None:
    for pk in engine.tick(at):
        engine.act(pk)


def only_execution() -> Firing:
    return Firing.objects.get()


def let_waits_pass() -> None:
    """Let waiting times pass."""
    Firing.objects.update(due_at=ago(seconds=1))


# -- conditions ----------------------------------------------------------------------------------


def test_silent_vm_fires_once_per_silence(dispatched: list[int]) -> None:
    rule("vm-silent", minutes=5)
    create_silent_vm("gone", 10)
    create_silent_vm("not long enough", 3)
    plant("well")
    for _ in range(3):
        tick_and_act()
    found = only_execution()
    assert (found.subject, found.state, found.cause_at) == (
        "gone",
        "done",
        VM.objects.get(pk="gone").last_seen,
    )
    assert found.evidence["status"] == "running"
    assert found.evidence["last_seen"]
    assert dispatched == [found.pk]

    VM.objects.filter(pk="gone").update(last_seen=ago(minutes=8))
    tick_and_act()
    assert Firing.objects.filter(subject="gone").count() == 2


def test_vm_is_late_before_it_is_silent() -> None:
    rule("vm-late")
    vm = plant("slow")
    VM.objects.filter(pk=vm.pk).update(late_after=ago(seconds=1))
    tick_and_act()
    assert only_execution().subject == "slow"


@pytest.mark.parametrize("event", ["vm-late", "vm-silent"])
def test_downtime_of_reef_causes_no_firing(event: str) -> None:
    rule(event)
    create_silent_vm("gone", 60)
    now = clock.now()
    Watch.objects.create(up_since=now - timedelta(minutes=1), ticked_at=now)
    tick_and_act()
    assert not Firing.objects.exists()
    Watch.objects.update(up_since=now - timedelta(minutes=6))
    tick_and_act()
    assert only_execution().state == "done"


def test_paused_and_deregistered_vms_are_not_silent() -> None:
    rule("vm-silent")
    create_silent_vm("paused")
    create_silent_vm("gone")
    VM.objects.filter(pk="paused").update(status="paused", late_after=None, silent_after=None)
    VM.objects.filter(pk="gone").delete()
    tick_and_act()
    assert not Firing.objects.exists()


def test_role_category_and_name_filter_subjects() -> None:
    for vm_id, category in (("web-1", "swarm_vm"), ("web-2", "infra_vm"), ("db-1", "swarm_vm")):
        create_silent_vm(vm_id, category=category)
    create_silent_vm("web.x")
    VM.objects.filter(pk="web-2").update(role="infra")
    assert engine.record_cases(rule("vm-silent", name="a", role="infra"), clock.now()) == 1
    assert engine.record_cases(rule("vm-silent", name="b", category="infra_vm"), clock.now()) == 1
    assert engine.record_cases(rule("vm-silent", name="c", name_pattern="web-?"), clock.now()) == 2
    assert engine.record_cases(rule("vm-silent", name="d", name_pattern="*b.*"), clock.now()) == 1
    assert engine.record_cases(rule("vm-silent", name="e", name_pattern="web"), clock.now()) == 0
    assert engine.record_cases(rule("vm-silent", name="f", name_pattern="db*"), clock.now()) == 1


def test_registration_before_the_rule_does_not_fire() -> None:
    plant("old", registered_at=ago(hours=2))
    rule("vm-registered", watched_from=ago(hours=1))
    plant("new")
    tick_and_act()
    tick_and_act()
    assert only_execution().subject == "new"


def test_error_idle_and_finished_lieutenants_fire() -> None:
    enlist("well", "working")
    enlist("retrying", "error", status_since=ago(hours=1), restart_at=clock.now())
    broken = enlist("broken", "error", status_since=ago(hours=1), error="it died")
    idle = enlist("idle", status_since=ago(hours=1), last_activity_at=ago(hours=1))
    enlist("busy once", status_since=ago(hours=1), last_activity_at=ago(minutes=1))
    process = process_of(idle)
    Answer.objects.create(
        lieutenant=idle,
        process=process,
        started_at=ago(hours=2),
        ended_at=ago(minutes=40),
        outcome="completed",
    )
    Answer.objects.create(
        lieutenant=idle,
        process=process,
        started_at=ago(hours=2),
        ended_at=ago(minutes=41),
        outcome="aborted",
    )
    for event in ("lieutenant-error", "lieutenant-idle", "lieutenant-finished"):
        rule(event, minutes=30)
    tick_and_act()
    found = {each.event: each for each in Firing.objects.all()}
    assert len(found) == Firing.objects.count() == 3
    assert found["lieutenant-error"].subject == broken.pk
    assert found["lieutenant-error"].evidence["error"] == "it died"
    assert found["lieutenant-idle"].subject == idle.pk
    assert found["lieutenant-finished"].subject == idle.pk
    assert found["lieutenant-finished"].subject_name == "idle"


def test_firings_per_hour_are_limited() -> None:
    for number in range(12):
        create_silent_vm(f"vm{number:02}", 20 - number)
    storm = rule("vm-silent", most_an_hour=5)
    tick_and_act()
    tick_and_act()
    assert sorted(Firing.objects.values_list("subject", flat=True)) == [
        f"vm{number:02}" for number in range(5)
    ]
    Firing.objects.update(at=ago(hours=2))
    tick_and_act()
    assert Firing.objects.filter(rule=storm).count() == 10


def test_tick_uses_few_queries_for_any_fleet() -> None:
    rule("vm-silent")

    def statements() -> int:
        with CaptureQueriesContext(connection) as seen:
            engine.tick()
        return len(seen)

    create_silent_vm("a")
    few = statements()
    for number in range(40):
        create_silent_vm(f"b{number}")
    assert statements() <= few


@pytest.mark.parametrize("event", ["vm-late", "vm-silent", "vm-registered", "lieutenant-finished"])
def test_conditions_use_indexes(event: str) -> None:
    if connection.vendor == "postgresql":
        pytest.skip("it reads small tables through, whatever indexes there are")
    for action in ("note", "destroy") if event == "vm-silent" else ("note",):
        one = rule(event, action, grace_minutes=10)
        plan = conditions.unfired_rows(one, clock.now())[:100].explain()
        assert "SCAN registry_vm" not in plan
        assert "SCAN lieutenants_answer" not in plan


def test_constraint_lets_a_cause_fire_once() -> None:
    one = rule("vm-silent")
    same = {"rule": one, "rule_name": "x", "event": "vm-silent", "action": "note", "subject": "a"}
    now = clock.now()
    Firing.objects.create(**same, cause_at=now)
    with pytest.raises(IntegrityError), transaction.atomic():
        Firing.objects.create(**same, cause_at=now)


# -- actions -------------------------------------------------------------------------------------


def test_rules_mark_stopped_pause_and_resume() -> None:
    rule("vm-silent", "mark-stopped", minutes=60)
    rule("vm-silent", "pause", minutes=5)
    before = create_silent_vm("dead", 70).last_seen
    create_silent_vm("quiet", 10)
    rule("vm-registered", "resume", name_pattern="quiet")
    tick_and_act()
    assert VM.objects.get(pk="dead").status == "stopped"
    assert VM.objects.get(pk="dead").last_seen == before
    outcomes = dict(Firing.objects.filter(subject="dead").values_list("action", "outcome"))
    assert outcomes["mark-stopped"] == "marked stopped"
    # Paused by one rule and, later in the same tick, resumed by another.
    assert VM.objects.get(pk="quiet").status in ("running", "paused")
    assert Firing.objects.filter(subject="quiet", state="done").count() == 2


def test_case_that_is_over_is_dropped() -> None:
    rule("vm-silent", "mark-stopped", grace_minutes=10)
    vm = create_silent_vm("back")
    tick_and_act()
    assert (only_execution().state, VM.objects.get().status) == ("waiting", "running")
    VM.objects.filter(pk=vm.pk).update(silent_after=clock.now() + timedelta(minutes=5))
    let_waits_pass()
    tick_and_act()
    assert (only_execution().state, VM.objects.get().status) == ("dropped", "running")


def test_disabled_or_changed_rule_runs_no_action() -> None:
    one = rule("vm-silent", "mark-stopped", grace_minutes=10)
    create_silent_vm("a")
    engine.tick()
    let_waits_pass()
    Rule.objects.filter(pk=one.pk).update(enabled=False)
    engine.act(only_execution().pk)
    assert only_execution().outcome == "the rule was switched off"
    assert VM.objects.get().status == "running"


def test_firings_outlive_their_rule() -> None:
    one = rule("vm-silent")
    create_silent_vm("a")
    tick_and_act()
    one.delete()
    assert (only_execution().rule, only_execution().rule_name) == (None, "vm-silent note")


def test_firing_is_run_by_one_of_many_workers() -> None:
    rule("vm-silent", "pause")
    create_silent_vm("a")
    (pk,) = engine.tick()
    assert Firing.objects.claim(pk, timedelta(minutes=1))
    engine.act(pk)
    assert only_execution().state == "waiting"
    # The worker died; its lease expires.
    Firing.objects.update(leased_until=ago(seconds=1))
    tick_and_act()
    assert (only_execution().state, only_execution().attempts) == ("done", 2)
    engine.act(pk)
    assert only_execution().attempts == 2


def test_lieutenant_is_restarted_once_per_error(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    drop_tasks(monkeypatch, "lieutenants.settle")
    settings.PI_PATH = str(STANDIN)
    ada = enlist("ada", "error", status_since=ago(minutes=20), error="x")
    rule("lieutenant-error", "restart", minutes=15)
    tick_and_act()
    ada.refresh_from_db()
    assert ada.status == "starting"
    assert ada.moves.first().actor == "rule lieutenant-error restart"  # type: ignore[union-attr]
    tick_and_act()
    assert Firing.objects.count() == 1


def test_one_snapshot_serves_many_firings() -> None:
    rule("vm-silent", "snapshot")
    for number in range(5):
        create_silent_vm(f"vm{number}")
    tick_and_act()
    assert set(Firing.objects.values_list("state", flat=True)) == {"done"}
    assert Snapshot.objects.count() == 1


# -- destroying ----------------------------------------------------------------------------------


class ReportingHandler(RegistryHandler):
    """Handler of a provider that knows which of its VMs are gone."""

    name = "told"
    gone: frozenset[str] = frozenset()

    def evidence_of_death(self, vm_id: str) -> str | None:
        return "the provider has no such VM" if vm_id in self.gone else None


@pytest.fixture
def provider() -> Iterator[ReportingHandler]:
    handler = ReportingHandler()
    with handlers.vm_handlers.changed({"told": handler}):
        yield handler


def destroying_rule(event: str = "vm-silent", **fields: Any) -> Rule:
    return rule(event, "destroy", **{"grace_minutes": 10, **fields})


def test_silence_alone_is_not_enough_to_destroy(pump: Pump) -> None:
    destroying_rule()
    create_silent_vm("quiet", 600)
    tick_and_act()
    let_waits_pass()
    tick_and_act()
    found = only_execution()
    assert found.state == "waiting"
    assert "not proven dead" in found.outcome
    assert found.due_at > clock.now()
    assert not Job.objects.exists()
    assert Node.objects.active().filter(vm_id="quiet").exists()


def test_vm_is_destroyed_after_grace_with_two_pieces_of_evidence(
    pump: Pump, provider: ReportingHandler
) -> None:
    destroying_rule()
    create_silent_vm("dead", 600)
    provider.gone = frozenset({"dead"})
    tick_and_act()
    assert only_execution().state == "waiting"
    assert not Job.objects.exists()
    let_waits_pass()
    tick_and_act()
    found = only_execution()
    assert (found.state, found.outcome) == ("done", f"job {Job.objects.get().pk} destroys it")
    said = {proof["source"]: proof for proof in found.evidence["proofs"]}
    assert said["silence"]["holds"]
    assert said["process"]["text"] == "the provider has no such VM"
    assert Job.objects.get().actor == "rule vm-silent destroy"
    pump.work()
    assert not Node.objects.active().exists()
    assert not VM.objects.exists()
    assert Snapshot.objects.filter(why="change").count() == 1


def test_vm_that_returns_during_grace_is_kept(pump: Pump, provider: ReportingHandler) -> None:
    destroying_rule()
    vm = create_silent_vm("back", 600)
    provider.gone = frozenset({"back"})
    engine.tick()
    vm.seen(clock.now())
    vm.save()
    let_waits_pass()
    tick_and_act()
    assert only_execution().state == "dropped"
    assert Node.objects.active().exists()


def test_silence_after_downtime_of_reef_is_not_evidence(
    pump: Pump, provider: ReportingHandler
) -> None:
    destroying_rule()
    create_silent_vm("a", 600)
    provider.gone = frozenset({"a"})
    engine.tick()
    let_waits_pass()
    now = clock.now()
    Watch.objects.create(up_since=now - timedelta(minutes=1), ticked_at=now)
    tick_and_act()
    assert only_execution().state != "done"
    assert not Job.objects.exists()


def test_status_set_by_a_rule_is_not_evidence(pump: Pump) -> None:
    rule("vm-silent", "mark-stopped", minutes=60)
    create_silent_vm("marked", 600)
    create_silent_vm("said so", 600)
    VM.objects.filter(pk="said so").update(status="stopped", late_after=None, silent_after=None)
    tick_and_act()
    assert VM.objects.get(pk="marked").status == "stopped"
    destroying_rule()
    tick_and_act()
    let_waits_pass()
    tick_and_act()
    found = Firing.objects.filter(action="destroy")
    assert dict(found.values_list("subject", "state")) == {"marked": "waiting", "said so": "done"}
    assert "a rule marked it" in found.get(subject="marked").outcome


def test_destroy_waits_for_active_children(pump: Pump, provider: ReportingHandler) -> None:
    destroying_rule(name_pattern="dead")
    create_silent_vm("dead", 600)
    plant("child", "dead")
    provider.gone = frozenset({"dead"})
    engine.tick()
    let_waits_pass()
    tick_and_act()
    assert "1 VMs stand below it" in only_execution().outcome
    assert not Job.objects.exists()


def test_vm_outside_the_tree_is_deregistered(provider: ReportingHandler) -> None:
    destroying_rule()
    create_silent_vm("stray", 600)
    Node.objects.all().delete()
    provider.gone = frozenset({"stray"})
    engine.tick()
    let_waits_pass()
    tick_and_act()
    assert (only_execution().state, VM.objects.exists()) == ("done", False)
    assert Snapshot.objects.count() == 1


def test_ended_agent_process_is_evidence(fleet: Fleet, pump: Pump) -> None:
    destroying_rule("lieutenant-error", grace_minutes=5)
    ada = fleet.row(fleet.create("ada")["name"])
    process = fleet.process("ada")
    assert handlers.handler_for(ada.pk).evidence_of_death(ada.pk) is None
    os.kill(process.handle["agent_pid"], signal.SIGKILL)
    fleet.wait("ada", "error")
    until(lambda: ada.processes.get().ended_at)
    text = handlers.handler_for(ada.pk).evidence_of_death(ada.pk)
    assert text
    assert "SIGKILL" in text
    Lieutenant.objects.update(status_since=ago(minutes=20))
    engine.tick()
    let_waits_pass()
    tick_and_act()
    # The ended process is the only evidence.
    assert Firing.objects.get(subject=ada.pk).state == "waiting"
    assert fleet.row("ada").status == "error"
    # Now the VM has also been silent for long.
    fleet.stop_follower()
    VM.objects.update_or_create(pk=ada.pk, defaults=silent_for(ada, hours=2))
    let_waits_pass()
    tick_and_act()
    assert Firing.objects.get(subject=ada.pk).state == "done"
    pump.work()
    ada.refresh_from_db()
    assert ada.status == "destroyed"
    assert not VM.objects.filter(pk=ada.pk).exists()


def silent_for(lieutenant: Lieutenant, **span: float) -> dict[str, Any]:
    """Register a VM of a lieutenant whose agent ended this long ago."""
    return {
        "name": lieutenant.name,
        "role": "lieutenant",
        "status": "stopped",
        "registered_by": "tests",
        "last_seen": ago(**span),
        "late_after": None,
        "silent_after": None,
    }


# -- webhooks ------------------------------------------------------------------------------------


class Listener:
    """A webhook on the loopback that records its calls and sends scripted responses."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.calls.append((dict(self.headers), body))
                self.send_response(listener.answers.pop(0) if listener.answers else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Do not log."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.shutdown()
    made.server.server_close()


def hook(api: Api, url: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "hook", "event": "vm-silent", "action": "webhook", "webhookUrl": url}
    answer = api.post("/registry/rules", {**body, "enabled": True, **fields})
    assert answer.status_code == 201, answer.content
    made: dict[str, Any] = answer.json()
    return made


def test_webhook_call_is_signed(api: Api, listener: Listener) -> None:
    made = hook(api, listener.url, text="look here", webhookSecret="s3cret-of-tests")
    assert "webhookSecret" not in made
    assert made["hasWebhookSecret"]
    create_silent_vm("gone")
    tick_and_act()
    ((headers, body),) = listener.calls
    said = json.loads(body)
    assert (said["vmId"], said["event"], said["text"]) == ("gone", "vm-silent", "look here")
    stamp, signature = headers["Reef-Signature"].split(",")
    signed = stamp.removeprefix("t=").encode() + b"." + body
    expected = hmac.new(b"s3cret-of-tests", signed, hashlib.sha256).hexdigest()
    assert signature == f"v1={expected}"
    assert headers["Reef-Firing"] == str(only_execution().pk)
    assert only_execution().outcome == "the webhook answered 204"


def test_failed_webhook_is_retried_with_backoff(api: Api, listener: Listener) -> None:
    hook(api, listener.url)
    create_silent_vm("gone")
    listener.answers = [500, 302]
    pauses = []
    tick_and_act()
    for _ in range(2):
        pauses.append((only_execution().due_at - clock.now()).total_seconds())
        assert only_execution().state == "waiting"
        engine.act(only_execution().pk)
        let_waits_pass()
        tick_and_act()
    assert 5 < pauses[0] <= 10
    assert 20 < pauses[1] <= 30
    assert (only_execution().state, len(listener.calls)) == ("done", 3)
    assert {headers["Reef-Firing"] for headers, _ in listener.calls} == {str(only_execution().pk)}


@pytest.mark.parametrize("event", ["vm-late", "vm-silent"])
def test_webhook_is_postponed_after_downtime_of_reef(
    api: Api, listener: Listener, event: str
) -> None:
    hook(api, listener.url, event=event)
    create_silent_vm("gone", 60)
    create_silent_vm("back", 60)
    listener.answers = [500, 500]
    tick_and_act()
    assert len(listener.calls) == 2
    # After a restart of reef, retries continue, but conditions are not evaluated yet.
    now = clock.now()
    Watch.objects.create(up_since=now, ticked_at=now)
    api.post("/registry/vms/back/heartbeat")
    let_waits_pass()
    tick_and_act()
    states = dict(Firing.objects.values_list("subject", "state"))
    assert states == {"gone": "waiting", "back": "dropped"}
    waiting = Firing.objects.get(subject="gone")
    assert "reef was away" in waiting.outcome
    assert waiting.attempts == 1, "what was put off is no try"
    assert waiting.due_at > clock.now()

    Watch.objects.update(up_since=now - timedelta(minutes=6))
    let_waits_pass()
    tick_and_act()
    assert Firing.objects.get(subject="gone").state == "done"
    assert len(listener.calls) == 3


def test_past_events_fire_after_long_downtime(api: Api, listener: Listener) -> None:
    hook(api, listener.url, event="vm-registered")
    Rule.objects.update(watched_from=ago(days=9))
    plant("new")
    listener.answers = [500]
    tick_and_act()
    assert only_execution().state == "waiting"
    long_ago = ago(days=3)
    VM.objects.update(registered_at=long_ago)
    Firing.objects.update(cause_at=long_ago)
    let_waits_pass()
    engine.act(only_execution().pk)
    assert only_execution().state == "done"


def test_webhook_fails_after_max_attempts(api: Api, listener: Listener) -> None:
    port = listener.server.server_address[1]
    listener.server.shutdown()
    listener.server.server_close()
    hook(api, f"http://127.0.0.1:{port}/")
    create_silent_vm("gone")
    for _ in range(engine.MAX_ATTEMPTS):
        tick_and_act()
        let_waits_pass()
    assert only_execution().state == "failed"
    assert "given up after 7 tries: no answer" in only_execution().outcome


def test_webhook_secrets_are_encrypted_and_never_returned(api: Api) -> None:
    made = hook(api, "https://127.0.0.1/")
    assert len(made["webhookSecret"]) > 30
    path = f"/registry/rules/{made['id']}"
    for answer in (api.get(path), api.get("/registry/rules")):
        assert made["webhookSecret"] not in answer.content.decode()
    sealed = Rule.objects.get(pk=made["id"]).sealed_secret
    assert made["webhookSecret"] not in sealed


# -- the API -------------------------------------------------------------------------------------


def patch(api: Api, path: str, body: object) -> Any:
    return api.client.patch(path, data=body, content_type="application/json")


def test_rules_are_created_updated_dry_run_and_deleted(api: Api) -> None:
    body = {"name": " night watch ", "event": "vm-silent", "action": "note", "minutes": 5}
    answer = api.post("/registry/rules", {**body, "namePattern": "web-*"})
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["name"], made["enabled"], made["role"]) == ("night watch", False, None)
    path = f"/registry/rules/{made['id']}"
    assert api.get("/registry/rules").json()["count"] == 1
    create_silent_vm("web-1", 10)
    found = api.get(f"{path}/dry-run").json()
    assert [each["vmId"] for each in found["would"]] == ["web-1"]
    assert (found["count"], found["more"], found["grace"]) == (1, False, False)
    assert not Firing.objects.exists()

    assert patch(api, path, {"minutes": 60}).json()["minutes"] == 60
    assert api.post(f"{path}/dry-run").json()["count"] == 0
    assert patch(api, path, {"minutes": 5, "enabled": True}).status_code == 200
    tick_and_act()
    listed = api.get(f"/registry/firings?rule={made['id']}&state=done&vmId=web-1").json()
    assert listed["count"] == 1
    assert listed["firings"][0]["evidence"]["role"] == "worker"
    assert api.get(f"{path}/dry-run").json()["count"] == 0
    assert api.delete(path).json() == {"deleted": True}
    assert api.get(path).status_code == 404
    assert api.get("/registry/firings").json()["count"] == 1


def test_dry_run_returns_the_evidence(api: Api, provider: ReportingHandler) -> None:
    one = destroying_rule(enabled=False)
    create_silent_vm("dead", 600)
    create_silent_vm("quiet", 600)
    provider.gone = frozenset({"dead"})
    would = api.get(f"/registry/rules/{one.pk}/dry-run").json()["would"]
    assert {each["vmId"]: each["acts"] for each in would} == {"dead": True, "quiet": False}
    assert {proof["source"] for proof in would[0]["proofs"]} == {"silence", "status", "process"}
    assert Node.objects.active().count() == 2


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name is required"),
    ({"event": "vm-bored"}, "vm-registered"),
    ({"action": "explode"}, "mark-stopped"),
    ({"minutes": -1}, "minutes"),
    ({"minutes": True}, "minutes"),
    ({"enabled": "yes"}, "enabled"),
    ({"role": "king"}, "role"),
    ({"colour": "red"}, "colour: not known"),
    ({"action": "destroy"}, "graceMinutes"),
    ({"action": "destroy", "graceMinutes": 60, "event": "vm-late"}, "destroys only the dead"),
    ({"event": "lieutenant-idle", "role": "worker"}, "role"),
    ({"event": "lieutenant-idle", "action": "mark-stopped"}, "action"),
    ({"action": "webhook"}, "webhookUrl"),
    ({"action": "webhook", "webhookUrl": "ftp://127.0.0.1/"}, "webhookUrl"),
    ({"action": "webhook", "webhookUrl": "file:///etc/passwd"}, "webhookUrl"),
    ({"action": "webhook", "webhookUrl": "http://u:p@127.0.0.1/"}, "password"),
    ({"namePattern": "a*b*c*d*e*f*g"}, "stars"),
    ({"text": "a\u0000b"}, "text"),
]


def test_invalid_fields_are_rejected_by_name(api: Api) -> None:
    good = {"name": "r", "event": "vm-silent", "action": "note"}
    for body, word in NONSENSE:
        answer = api.post("/registry/rules", {**good, **body})
        assert answer.status_code == 400, answer.content
        assert word in answer.json()["error"]
    assert not Rule.objects.exists()


def test_rule_name_is_unique(api: Api) -> None:
    body = {"name": "r", "event": "vm-silent", "action": "note"}
    assert api.post("/registry/rules", body).status_code == 201
    assert api.post("/registry/rules", body).status_code == 409


def test_grace_of_a_destroying_rule_cannot_be_removed(api: Api) -> None:
    one = destroying_rule()
    answer = patch(api, f"/registry/rules/{one.pk}", {"graceMinutes": 0})
    assert answer.status_code == 400
    with pytest.raises(IntegrityError), transaction.atomic():
        Rule.objects.filter(pk=one.pk).update(grace_minutes=0)


def test_nodes_may_not_read_rules(api: Api) -> None:
    one = rule("vm-silent")
    plant("a")
    token = tokens.issue(Node.objects.get(vm_id="a"), made_by="tests")
    client = Client(headers={"authorization": f"Bearer {token}"})
    for path in ("rules", f"rules/{one.pk}", f"rules/{one.pk}/dry-run", "firings"):
        assert client.get(f"/registry/{path}").status_code == 403, path
        assert Client().get(f"/registry/{path}").status_code == 401, path
    assert client.delete(f"/registry/rules/{one.pk}").status_code == 403
    assert api.get("/registry/rules/999").status_code == 404
    assert api.get("/registry/rules/x").status_code == 404
    assert api.get("/registry/firings?state=lost").status_code == 400
