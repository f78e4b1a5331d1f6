"""Agents on machines whose rows are lost: listed, taken up in place, ended; never by themselves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from bootloader.models import SshHost
from lieutenants.hosts import destroyed_marks
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision import remote_notes
from lieutenants.supervision.discovery.machines import NamedPlace, Seen, SeenRun
from lieutenants.supervision.keeper import processes
from lieutenants.supervision.transports import ssh_transport_of
from lieutenants.supervision.transports.ssh.places import Place, place_of
from lieutenants.supervision.transports.ssh.relay import found, starting
from lieutenants.supervision.transports.ssh.relay.machine import Refused, boot_id, stat_fields
from lieutenants.supervision.transports.ssh.transport import SshTransport
from lieutenants.unknown_agents import models as unknown_agents
from lieutenants.unknown_agents import on_machines, scan
from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.accounts import signin_links
from reef_site.common.errors import BadInput
from registry.models import VM
from tests.conftest import STANDIN, Api
from tests.lieutenants.remote import rows
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.remote.test_discovery import discover
from tests.waiting import until
from vmtree.models import Node

UNKNOWN = "/lieutenant/unknown-agents"
ID = "01JD9Z3K8Q5V7W2X4Y6A8B0C1D"
RUN = "01JD9Z3K8Q5V7W2X4Y6A8B0C1E"


def lose_rows(site: Site) -> None:
    """Let the database know nothing of lieutenants any more, while their agents go on."""
    site.fleet.stop_follower()
    ids = list(Lieutenant.objects.values_list("pk", flat=True))
    Lieutenant.objects.all().delete()
    Node.objects.filter(vm_id__in=ids).delete()
    VM.objects.filter(pk__in=ids).delete()
    site.fleet.restart_follower()


def listed(api: Api) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = api.get(UNKNOWN).json()["unknownAgents"]
    return shown


def is_running(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != b"Z"


def is_gone(pid: int) -> bool:
    return not is_running(pid)


# -- on a real machine -----------------------------------------------------------------------


@pytest.mark.parametrize("is_shortened", [False, True])
def test_agent_is_taken_up_in_place_with_its_session(
    site: Site, client: Client, monkeypatch: pytest.MonkeyPatch, is_shortened: bool
) -> None:
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (str(STANDIN),))
    fleet = site.fleet
    site.create("far", agent="pi", directive="be brief", stallLimitSeconds=77)
    assert fleet.ask("far", "TOKENS 400 2000")
    assert fleet.ask("far", "before") == "echo: before"
    process, folder = fleet.process("far"), site.folder("far")
    if is_shortened:
        # The agent's first reply is lost with the head of its journal.
        transport = ssh_transport_of(process.lieutenant)
        transport.link.ask({"op": "shorten", "dir": process.directory, "at": 4096})
    # Its keeper has obeyed a later follower than a new row tells of.
    SshTransport(place_of(process.lieutenant), 5).send(process.directory, [])
    pid = process.handle["agent_pid"]
    lose_rows(site)

    lieutenant_id = folder.name
    client.force_login(signin_links.make_operator())
    assert client.post("/lieutenants/_discover").status_code == 302
    line = f"{lieutenant_id}: not ours — no such lieutenant is known, left alone (far, pid {pid})"
    shown = client.get("/lieutenants/").content.decode()
    assert line in shown
    assert "Take up" in shown
    (facts,) = listed(fleet.api)
    assert (facts["name"], facts["host"], facts["agentPid"]) == ("far", "far", pid)
    assert (facts["canBeTakenUp"], facts["lieutenantId"]) == (True, lieutenant_id)
    assert not Lieutenant.objects.exists(), "nothing is taken up by itself"
    answer = client.post(f"/lieutenants/_unknown/{facts['run']}/take-up")
    assert answer.status_code == 302

    row = fleet.wait("far", "idle")
    assert (row.pk, row.directive, row.stall_limit_seconds) == (lieutenant_id, "be brief", 77)
    assert fleet.process("far").handle["agent_pid"] == pid
    assert fleet.ask("far", "after") == "echo: after"
    assert fleet.texts("far", "user")[-2:] == ["before", "after"]
    assert any("output are lost" in text for text in fleet.texts("far", "notice")) == is_shortened
    assert listed(fleet.api) == []
    assert Process.objects.get().generation == 6
    assert Node.objects.active().filter(vm_id=lieutenant_id).exists()
    # Its files and its agent are removed with it.
    assert fleet.api.delete("/lieutenant/lieutenants/far").status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 30)
    assert not folder.exists()
    assert not is_running(pid)


def test_only_the_unknown_agent_is_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = site.fleet
    site.create("far", ["cat"])
    process, folder = fleet.process("far"), site.folder("far")
    lose_rows(site)
    site.create("near", ["cat"])
    discover(site)
    (facts,) = listed(fleet.api)
    assert fleet.api.post(f"{UNKNOWN}/{facts['run']}/end").status_code == 202
    for name in ("keeper_pid", "agent_pid"):
        assert not is_running(process.handle[name])
    assert listed(fleet.api) == []
    assert folder.exists(), "its session is kept"
    assert fleet.ask("near", "hello") == "hello"
    assert fleet.api.post(f"{UNKNOWN}/{facts['run']}/end").status_code == 404


def test_agent_that_has_ended_or_was_replaced_is_neither_taken_up_nor_ended(site: Site) -> None:
    fleet = site.fleet
    site.create("far", ["cat"])
    process = fleet.process("far")
    lose_rows(site)
    discover(site)
    row = UnknownAgent.objects.get()
    for change in ({"keeper_started": 1}, {"boot_id": "another boot"}):
        UnknownAgent.objects.update(handle={**row.handle, **change})
        assert fleet.api.post(f"{UNKNOWN}/{row.pk}/take-up").status_code == 202
        assert listed(fleet.api)[0]["problem"] == "It does not run any more."
        assert not Lieutenant.objects.exists()
    assert fleet.api.post(f"{UNKNOWN}/{row.pk}/end").status_code == 202
    assert listed(fleet.api) == []
    assert is_running(process.handle["agent_pid"]), "what was found is gone, and this is another"
    discover(site)
    site.line.cut(refuse=True)
    (facts,) = listed(fleet.api)
    assert fleet.api.post(f"{UNKNOWN}/{facts['run']}/end").status_code == 202
    assert "The machine cannot be reached" in listed(fleet.api)[0]["problem"]
    site.line.flow()
    # Another look finds it again; then it is ended.
    until(lambda: "no such lieutenant" in discover(site)[0], 20)
    assert fleet.api.post(f"{UNKNOWN}/{facts['run']}/end").status_code == 202
    assert not is_running(process.handle["agent_pid"])


# -- what the relay ends -----------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A keeper that does not answer and its agent; yield their handle."""
    monkeypatch.setattr(starting, "keeper_file", lambda _: "")
    monkeypatch.setattr(found, "keeper_processes", lambda _: processes)
    monkeypatch.setattr(found, "sweep", lambda *_: None)
    script = "sleep 300 & echo $!; wait"
    keeper = subprocess.Popen(["sleep", "300"])
    agent = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert agent.stdout
    child = int(agent.stdout.readline())
    handle = {
        "keeper_pid": keeper.pid,
        "keeper_started": int(stat_fields(keeper.pid)[19]),
        "agent_pid": agent.pid,
        "agent_started": int(stat_fields(agent.pid)[19]),
        "boot_id": boot_id(),
    }
    folder = tmp_path / "lieutenants" / ID / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "keeper.json").write_text(json.dumps(handle))
    yield {"dir": str(folder), "handle": handle, "child": child}
    for process in (keeper, agent):
        process.kill()
        process.wait()
    agent.stdout.close()


def test_silent_keeper_is_killed_with_its_agent(pair: dict[str, Any]) -> None:
    assert found.end_found(pair) == {"gone": True}
    handle = pair["handle"]
    for pid in (handle["keeper_pid"], handle["agent_pid"], pair["child"]):
        until(partial(is_gone, pid))


@pytest.mark.parametrize(
    "change", [{"keeper_started": 1}, {"boot_id": "other"}, {"agent_started": 1}, {"boot_id": None}]
)
def test_nothing_else_is_killed(pair: dict[str, Any], change: dict[str, Any]) -> None:
    request = {**pair, "handle": {**pair["handle"], **change}}
    is_refused = "agent_started" in change or None in change.values()
    if is_refused:
        with pytest.raises(Refused):
            found.end_found(request)
    else:
        assert found.end_found(request) == {"gone": True}
    assert is_running(pair["handle"]["keeper_pid"])
    assert is_running(pair["handle"]["agent_pid"])


def test_another_keeper_of_the_same_lieutenant_is_spared(
    pair: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("processes with the mark of both were swept")

    monkeypatch.setattr(found, "sweep", refuse)
    twin = Path(pair["dir"]).with_name("twin")
    twin.mkdir()
    own = {"keeper_pid": os.getpid(), "keeper_started": int(stat_fields(os.getpid())[19])}
    (twin / "keeper.json").write_text(json.dumps({**own, "boot_id": boot_id()}))
    assert found.end_found(pair) == {"gone": True}


# -- rows ----------------------------------------------------------------------------------------


def place(host: str = "far") -> NamedPlace:
    machine = SshHost.objects.create(name=host, address=f"{host}.test", user="u")
    return NamedPlace(Place(ssh_host=str(machine.pk)), host)


def run_of(lieutenant_id: str = ID, **facts: Any) -> SeenRun:
    return SeenRun(lieutenant_id, RUN, {"agent_pid": 8, "keeper_pid": 7}, **facts)


@pytest.mark.django_db
def test_agent_of_a_destroyed_lieutenant_can_only_be_ended(api: Api) -> None:
    there = place()
    row = rows.lieutenant(status="destroyed", on_vm="", ssh_host_id=there.place.ssh_host)
    on_machines.record(there, Seen(runs=(run_of(row.pk),)))
    assert listed(api) == [], "reef itself is about to end it"
    Lieutenant.objects.update(ssh_host=None)
    on_machines.record(there, Seen(runs=(run_of(row.pk),)))
    (facts,) = listed(api)
    assert (facts["why"], facts["canBeTakenUp"]) == ("Its lieutenant was destroyed.", False)
    refused = api.post(f"{UNKNOWN}/{facts['run']}/take-up")
    assert refused.status_code == 400
    assert "cannot be taken up" in refused.json()["error"]


@pytest.mark.django_db
def test_destroyed_lieutenant_is_remembered_without_its_row(api: Api) -> None:
    there = place()
    row = rows.lieutenant(status="destroyed")
    destroyed_marks.mark_destroyed(row)
    note = json.loads(remote_notes.text_of(row))
    pk = row.pk
    row.delete()
    on_machines.record(there, Seen(runs=(run_of(pk, note=note),)))
    (facts,) = listed(api)
    assert (facts["why"], facts["canBeTakenUp"]) == ("Its lieutenant was destroyed.", False)


@pytest.mark.django_db
def test_lieutenant_that_was_destroyed_after_the_backup_is_paused() -> None:
    row = rows.lieutenant(status_since=timezone.now() - timedelta(hours=1))
    destroyed_marks.mark_destroyed(row)
    destroyed_marks.pause_marked()
    row.refresh_from_db()
    assert row.status == "paused"
    assert "It was destroyed at" in row.error
    # Resumed by a process with another data folder, which does not see this mark.
    Lieutenant.objects.update(status="idle", status_since=timezone.now() + timedelta(seconds=2))
    destroyed_marks.pause_marked()
    row.refresh_from_db()
    assert row.status == "idle"


@pytest.mark.django_db
def test_copies_on_two_machines_are_two_agents(api: Api) -> None:
    row = rows.lieutenant(status="idle", host="anna")
    seen = Seen(runs=(run_of(row.pk),))
    first, second = place("b"), place("c")
    for each in (first, second):
        on_machines.record(each, seen)
    assert {each["host"] for each in listed(api)} == {"b", "c"}
    assert {each["why"] for each in listed(api)} == {"It is a copy: its lieutenant runs on anna."}
    on_machines.record(second, Seen())
    assert [each["host"] for each in listed(api)] == ["b"]
    on_machines.record(first, Seen(problem="no answer"))
    assert len(listed(api)) == 1, "nothing new is known of it"
    on_machines.forget_others([second])
    assert listed(api) == []


@pytest.mark.django_db
def test_run_without_a_usable_note_can_only_be_ended(api: Api) -> None:
    there = place()
    why = "No lieutenant with this id is known. It cannot be taken up: "
    for note, problem in (
        ({}, "no note on its machine says what it is."),
        ({"name": "ada", "agent": "eliza"}, "this version has no agent 'eliza'."),
        ({"name": "ada", "agent": "command"}, "command is required for the agent 'command'."),
    ):
        on_machines.record(there, Seen(runs=(run_of(note=note),)))
        (facts,) = listed(api)
        assert facts["why"] == why + problem
        assert not facts["canBeTakenUp"]


@pytest.mark.django_db
def test_request_that_no_worker_has_carried_out_can_be_made_again() -> None:
    on_machines.record(place(), Seen(runs=(run_of(note={"name": "ada"}),)))
    UnknownAgent.objects.update(request="end", requested_at=timezone.now())
    scan.scan_host()
    assert UnknownAgent.objects.get().request == "end"
    late = timezone.now() - 2 * unknown_agents.REQUEST_LIMIT
    UnknownAgent.objects.update(requested_at=late)
    scan.scan_host()
    row = UnknownAgent.objects.get()
    assert (row.request, row.problem) == ("", unknown_agents.LOST)


def test_note_is_checked() -> None:
    row = Lieutenant(name="ada", role="r", agent="acp", command=["a"], agent_options={"mode": "x"})
    note = remote_notes.parse(json.loads(remote_notes.text_of(row)), "session-2.jsonl")
    assert (note.name, note.columns["command"]) == ("ada", ["a"])
    assert note.columns["session_name"] == "session-2.jsonl"
    odd = {"name": "a\0", "role": 7, "stall_limit_seconds": -1, "restart_policy": "x"}
    parsed = remote_notes.parse(odd, "../x.jsonl")
    assert parsed.name == "a\ufffd"
    assert (parsed.columns["role"], parsed.columns["restart_policy"]) == ("", "never")
    assert not {"session_name", "stall_limit_seconds"} & parsed.columns.keys()
    with pytest.raises(BadInput):
        remote_notes.parse({**odd, "agent": "acp", "agent_options": {"fly": 1}})
