"""Lieutenants in registry and tree, from creation to destruction, and their tokens."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from lieutenants import membership_reconcile
from lieutenants.models import Lieutenant
from reef_site.common import clock
from registry.models import VM
from tests.conftest import Api, Fleet
from tests.waiting import until
from vmtree import services as tree
from vmtree.models import Node


def environment(fleet: Fleet, name: str) -> dict[str, str]:
    """Return the environment of the agent's process."""
    pid = fleet.process(name).handle["agent_pid"]
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def ask(token: str, method: str, path: str, body: object = None) -> Any:
    client = Client(headers={"authorization": f"Bearer {token}"})
    return client.generic(method, path, b"" if body is None else str(body), "application/json")


def old(*ids: str) -> None:
    """Make the last heartbeat of these VMs old."""
    then = clock.now() - timedelta(minutes=10)
    VM.objects.filter(pk__in=ids).update(last_seen=then)


def test_new_lieutenant_is_registered_with_its_row(api: Api, fleet: Fleet) -> None:
    made = fleet.create("alpha", ready=False)
    vm = api.get(f"/registry/vms/{made['id']}").json()
    assert (vm["name"], vm["role"], vm["status"]) == ("alpha", "lieutenant", "running")
    assert (vm["metadata"]["agentId"], vm["liveness"]) == ("alpha", "live")
    node = Node.objects.get(vm_id=made["id"])
    assert (node.name, node.category, node.removed_at) == ("alpha", "lieutenant", None)
    fleet.wait("alpha", "idle")


def test_taken_name_creates_nothing(api: Api, fleet: Fleet) -> None:
    fleet.create("alpha")
    body = {"name": "alpha", "role": "tests", "local": True}
    assert api.post("/lieutenant/lieutenants", body).status_code == 409
    assert VM.objects.count() == Node.objects.count() == 1


def test_token_grants_what_the_rule_allows(api: Api, fleet: Fleet) -> None:
    mine, other = fleet.create("alpha")["id"], fleet.create("beta")["id"]
    env = environment(fleet, "alpha")
    token = env["VERS_AUTH_TOKEN"]
    assert token != settings.ROOT_TOKEN
    assert (env["VERS_VM_ID"], env["VERS_AGENT_ROLE"]) == (mine, "lieutenant")
    assert env["VERS_INFRA_URL"] == settings.INFRA_URL
    assert ask(token, "GET", "/registry/vms").status_code == 200
    assert ask(token, "POST", f"/registry/vms/{mine}/heartbeat").status_code == 200
    assert ask(token, "POST", f"/registry/vms/{other}/heartbeat").status_code == 403
    assert ask(token, "DELETE", "/lieutenant/lieutenants/beta").status_code == 403


def test_token_is_only_in_the_environment(fleet: Fleet) -> None:
    fleet.create("alpha")
    token = environment(fleet, "alpha")["VERS_AUTH_TOKEN"].encode()
    files = [path for path in settings.DATA_DIR.rglob("*") if path.is_file()]
    assert any(path.name == "keeper.json" for path in files)
    assert [path for path in files if token in path.read_bytes()] == []
    arguments = Path(f"/proc/{fleet.process('alpha').handle['agent_pid']}/cmdline").read_bytes()
    assert token not in arguments


def test_pause_and_resume_update_status_and_token(api: Api, fleet: Fleet) -> None:
    vm_id = fleet.create("alpha")["id"]
    first = environment(fleet, "alpha")["VERS_AUTH_TOKEN"]
    api.post("/lieutenant/lieutenants/alpha/pause")
    assert VM.objects.get(pk=vm_id).status == "paused"
    until(lambda: fleet.row("alpha").live_process() is None)
    old(vm_id)
    membership_reconcile.reconcile([vm_id])
    assert api.get(f"/registry/vms/{vm_id}").json()["status"] == "paused"

    api.post("/lieutenant/lieutenants/alpha/resume")
    assert VM.objects.get(pk=vm_id).status == "running"
    fleet.wait("alpha", "idle")
    second = environment(fleet, "alpha")["VERS_AUTH_TOKEN"]
    assert ask(first, "GET", "/registry/vms").status_code == 401
    assert ask(second, "GET", "/registry/vms").status_code == 200


def test_host_sends_heartbeats_for_its_lieutenants(
    api: Api, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [fleet.create(name)["id"] for name in ("alpha", "beta")]
    monkeypatch.setattr(membership_reconcile, "INTERVAL_SECONDS", 0.5)
    old(*ids)
    soon = clock.now() - timedelta(minutes=1)
    until(lambda: VM.objects.filter(pk__in=ids, last_seen__gt=soon).count() == 2)


def test_dead_agent_is_a_stopped_vm(fleet: Fleet) -> None:
    vm_id = fleet.create("alpha")["id"]
    os.kill(fleet.process("alpha").handle["agent_pid"], signal.SIGKILL)
    fleet.wait("alpha", "error")
    assert VM.objects.get(pk=vm_id).status == "stopped"


def test_destroyed_lieutenant_is_soft_deleted(api: Api, fleet: Fleet) -> None:
    vm_id = fleet.create("alpha")["id"]
    token = environment(fleet, "alpha")["VERS_AUTH_TOKEN"]
    api.delete("/lieutenant/lieutenants/alpha")
    assert not VM.objects.exists()
    assert Node.objects.get(vm_id=vm_id).removed_at is not None
    assert ask(token, "GET", "/registry/vms").status_code == 401
    again = fleet.create("alpha")["id"]
    assert again != vm_id
    assert Node.objects.active().get().vm_id == again


def test_lieutenant_with_descendants_is_deregistered_after_them(api: Api, fleet: Fleet) -> None:
    vm_id = fleet.create("alpha")["id"]
    token = environment(fleet, "alpha")["VERS_AUTH_TOKEN"]
    tree.create(tree.NewNode("worker", "swarm_vm", "vm-1", parent_vm_id=vm_id), by="tests")
    api.delete("/lieutenant/lieutenants/alpha")
    assert Node.objects.get(vm_id=vm_id).removed_at is None
    assert not VM.objects.exists()
    assert ask(token, "GET", "/registry/vms").status_code == 401
    tree.remove("vm-1", by="tests")
    membership_reconcile.reconcile([])
    assert not Node.objects.active().exists()


def test_reconcile_repairs_missing_rows(db: None) -> None:
    before = Lieutenant.objects.create(
        name="elder", role="r", host=settings.HOST, folder="/", status="paused"
    )
    membership_reconcile.reconcile([])
    assert VM.objects.get(pk=before.pk).status == "paused"
    assert Node.objects.get(vm_id=before.pk).category == "lieutenant"
    VM.objects.all().delete()
    membership_reconcile.reconcile([])
    assert VM.objects.get().pk == before.pk


def test_discover_reports_each_lieutenant(api: Api, fleet: Fleet) -> None:
    fleet.create("alpha")
    vm = {"id": "vm-far", "name": "far", "role": "lieutenant", "address": "x"}
    api.post("/registry/vms", {**vm, "registeredBy": "t"})
    found = api.post("/lieutenant/lieutenants/discover").json()["results"]
    assert found[0] == "alpha: already tracked"
    assert found[1].startswith("far: left alone, ")
    assert found[1].endswith("(VM vm-far, running)")
