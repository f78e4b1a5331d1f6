"""Pages of lieutenants on VMs."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from bootloader.models import Machine, SshHost
from bootloader.states import StepState
from lieutenants.models import Lieutenant, MadeVM, Process
from tests.lieutenants.rows import page

FIELDS = {"name": "far", "role": "r", "agent": "command", "command": "cat"}


@pytest.mark.django_db
def test_form_offers_machines_and_creates_one_there(operator: Client) -> None:
    assert 'name="machine"' not in page(operator, "/lieutenants/_new")
    SshHost.objects.create(name="builder", address="builder.invalid")
    Machine.objects.create(provider="vers", machine_id="m1", vm_id="vm-1", name="worker")
    html = page(operator, "/lieutenants/_new")
    assert "builder (SSH host)" in html
    assert "worker (vers VM)" in html

    fields = {**FIELDS, "machine": "ssh_host:builder", "restart_policy": "never"}
    made = operator.post("/lieutenants/_new", fields)
    assert made.status_code == 302, made.content
    row = Lieutenant.objects.get()
    assert (row.transport, row.host, row.ssh_host) == ("ssh", "builder", SshHost.objects.get())
    assert row.folder == f"~/.reef-agents/lieutenants/{row.pk}/workspace"


@pytest.mark.django_db
def test_form_offers_a_new_vm_and_makes_it(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERS_API_KEY", "0a1b2c3d-0000-4000-8000-000000000000" + "ab" * 32)
    html = page(operator, "/lieutenants/_new")
    assert "a new VM (swarm)" in html
    fields = {**FIELDS, "machine": "profile:swarm", "keep_vm": "on", "restart_policy": "never"}
    made = operator.post("/lieutenants/_new", fields)
    assert made.status_code == 302, made.content
    vm = MadeVM.objects.get()
    assert (vm.lieutenant.host, vm.lieutenant.on_vm, vm.on_failure) == ("far", "", "keep")
    assert (vm.provisioning.profile, vm.provisioning.state) == ("swarm", "queued")
    assert vm.provisioning.name == f"far-{vm.pk[-6:].lower()}"
    assert vm.provisioning.name in page(operator, "/admin/lieutenants/madevm/")

    step = vm.provisioning.steps.get(name="resolve")
    step.move(StepState.RUNNING)
    step.move(StepState.FAILED, "no such image")
    html = page(operator, "/lieutenants/far/")
    assert "provision-resolve" in html
    assert "no such image" in html


@pytest.mark.django_db
def test_page_shows_the_steps_of_the_start(operator: Client) -> None:
    row = Lieutenant.objects.create(
        name="far", role="r", agent="command", command=["cat"], folder="~/x", host="vm-1",
        transport="ssh", on_vm="vm-1",
    )  # fmt: skip
    steps = [
        {"name": "ssh", "at": "2026-01-01T00:00:00+00:00", "seconds": 0.5, "note": "login"},
        {"name": "keeper", "at": "2026-01-01T00:00:01+00:00", "seconds": 1.25, "problem": "full"},
    ]
    Process.objects.create(
        lieutenant=row, host="vm-1", transport="ssh", directory="~/x", agent="", steps=steps
    )
    html = page(operator, "/lieutenants/far/")
    assert "0.50 s" in html
    assert "1.25 s" in html
    assert "full" in html


@pytest.mark.django_db
def test_page_says_of_which_age_the_state_of_an_unreachable_agent_is(operator: Client) -> None:
    row = Lieutenant.objects.create(
        name="far", role="r", agent="command", command=["cat"], folder="~/x", host="vm-1",
        transport="ssh", on_vm="vm-1", status="working",
    )  # fmt: skip
    Process.objects.create(
        lieutenant=row, host="vm-1", transport="ssh", directory="~/x", agent="",
        ready_at=row.created_at,
    )  # fmt: skip
    assert "not followed now; agent: working" in words(page(operator, "/lieutenants/far/"))
    row.in_reach, row.heard_at = True, timezone.now() - timedelta(seconds=12)
    row.save()
    html = words(page(operator, "/lieutenants/far/"))
    assert "machine: answers, 12 s ago; agent: working, last output" in html
    assert "out of reach" not in html
    assert "answers, 12 s ago" in words(page(operator, "/lieutenants/"))
    row.in_reach, row.reach_since = False, timezone.now() - timedelta(minutes=3)
    row.save()
    html = page(operator, "/lieutenants/far/")
    assert "machine: out of reach for 3 min, last heard 12 s ago; agent: as last heard" in (
        words(html)
    )
    assert "out of reach for 3 min" in words(page(operator, "/lieutenants/"))
    assert "running, as last heard" in html


def words(html: str) -> str:
    """Return the text of a page, with single blanks."""
    return " ".join(re.sub(r"<[^>]*>", "", html).split())
