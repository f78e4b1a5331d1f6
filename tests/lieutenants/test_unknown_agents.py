"""Agents that run and that nobody follows: listed, taken up, ended; never started again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision import watchdog
from lieutenants.supervision.transports import get_transport
from lieutenants.unknown_agents import scan
from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.accounts import signin_links
from tests.conftest import Api, Fleet
from tests.lieutenants.rows import enlist
from tests.waiting import until

UNKNOWN = "/lieutenant/unknown-agents"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(watchdog, "RECONCILE_SECONDS", 0.2)


def lose(fleet: Fleet, name: str, *, status: str = Status.ERROR, row: bool = True) -> Process:
    """Let a running agent's row be gone or ended, as after a restored backup."""
    process = fleet.process(name)
    fleet.stop_follower()
    ended = timezone.now() - timedelta(seconds=1)
    Process.objects.filter(pk=process.pk).update(ended_at=ended, end_reason="lost")
    if not row:
        Process.objects.all().delete()
    Lieutenant.objects.filter(name=name).update(status=status)
    fleet.restart_follower()
    until(lambda: UnknownAgent.objects.filter(pk=process.pk).exists())
    return process


def listed(fleet: Fleet) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fleet.api.get(UNKNOWN).json()["unknownAgents"]
    return found


def runs(process: Process) -> bool:
    return get_transport("local").alive(process.handle)


@pytest.mark.parametrize("row", [True, False])
def test_unknown_agent_is_listed_and_taken_up(fleet: Fleet, client: Client, row: bool) -> None:
    fleet.create("ada")
    fleet.ask("ada", "before")
    process = lose(fleet, "ada", row=row)
    (facts,) = listed(fleet)
    assert facts["name"] == "ada"
    assert facts["canBeTakenUp"] is True
    assert facts["agentPid"] == process.handle["agent_pid"]
    assert client.get("/health").json()["unknownAgents"] == 1
    client.force_login(signin_links.make_operator())
    page = client.get("/lieutenants/").content.decode()
    assert "Agents that nobody follows" in page
    assert "nobody follows it" in client.get("/").content.decode()
    answer = client.post(f"/lieutenants/_unknown/{process.pk}/take-up")
    assert answer.status_code == 302
    fleet.wait("ada", "idle")
    assert fleet.process("ada").pk == process.pk
    assert fleet.ask("ada", "after") == "echo: after"
    until(lambda: not listed(fleet))
    assert Process.objects.count() == 1


def test_agent_of_a_destroyed_lieutenant_can_only_be_ended(fleet: Fleet) -> None:
    fleet.create("ada")
    process = lose(fleet, "ada", status=Status.DESTROYED)
    (facts,) = listed(fleet)
    assert facts["why"] == "Its lieutenant was destroyed."
    refused = fleet.api.post(f"{UNKNOWN}/{process.pk}/take-up")
    assert refused.status_code == 400
    assert "cannot be taken up" in refused.json()["error"]
    assert fleet.api.post(f"{UNKNOWN}/{process.pk}/end").status_code == 202
    until(lambda: not runs(process), 20)
    until(lambda: not listed(fleet))
    assert not Process.objects.live().exists()


@pytest.mark.django_db
def test_agent_of_an_adopted_lieutenant_cannot_be_taken_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = enlist(data_folder="01BOX2BOX2BOX2BOX2BOX2BOX2", host="box2")
    directory = settings.LIEUTENANTS_DIR / row.pk / "runs" / "RUN"
    found = [("RUN", (directory, {"agent_pid": 1, "keeper_pid": 2}))]
    monkeypatch.setattr(scan, "_find_unknown", lambda: iter(found))
    scan.scan_host()
    (facts,) = api.get(UNKNOWN).json()["unknownAgents"]
    assert facts["canBeTakenUp"] is False
    assert facts["why"] == "Its lieutenant belongs to host box2 now."
    assert api.post(f"{UNKNOWN}/RUN/take-up").status_code == 400


def test_agent_without_a_lieutenant_is_ended(fleet: Fleet) -> None:
    fleet.create("ada")
    process = fleet.process("ada")
    fleet.stop_follower()
    Lieutenant.objects.all().delete()
    fleet.restart_follower()
    facts = until(lambda: listed(fleet))[0]
    assert (facts["name"], facts["canBeTakenUp"]) == (None, False)
    assert fleet.api.post(f"{UNKNOWN}/{process.pk}/end").status_code == 202
    until(lambda: not runs(process), 20)
    until(lambda: not listed(fleet))


def test_request_for_a_missing_agent_is_rejected(fleet: Fleet) -> None:
    assert fleet.api.get(UNKNOWN).json() == {"unknownAgents": [], "count": 0}
    assert fleet.api.post(f"{UNKNOWN}/nothing/end").status_code == 404
