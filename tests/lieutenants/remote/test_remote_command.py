"""Lieutenants of the agent `command` at the end of an SSH connection, driven through the API."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from bootloader.models import SshHost
from lieutenants.agents.command.dialect import CommandDialect
from lieutenants.models import Answer, Lieutenant, Message, Process
from lieutenants.states import MessageState, Outcome
from lieutenants.supervision.transports.ssh.transport import SshTransport
from tests.bootloader.ssh_servers import free_port
from tests.lieutenants.remote.conftest import Site
from tests.waiting import until

SHELL = ["sh", "-c"]
PATH = "/lieutenant/lieutenants/far"
# Says pieces with pauses, after noting that it was started.
PIECES = (
    "import os, sys, time\n"
    "open('starts', 'a').write(os.environ['REEF_MESSAGE_ID'] + '\\n')\n"
    "count = int(sys.stdin.read())\n"
    "for number in range(count):\n"
    "    sys.stdout.write('piece %d äöü €; ' % number)\n"
    "    sys.stdout.flush()\n"
    "    time.sleep(0.01)\n"
)


def said(count: int) -> str:
    return "".join(f"piece {number} äöü €; " for number in range(count))


def starts(site: Site, name: str = "far") -> list[str]:
    return (site.folder(name) / "workspace" / "starts").read_text().split()


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended may still wait for init to reap it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


# -- the whole life --------------------------------------------------------------------------


def test_whole_life_on_a_machine(site: Site) -> None:
    made = site.create(
        "far", [*SHELL, "pwd; echo $VERS_AGENT_NAME; cat; [ ! -e hold ] || sleep 99"]
    )
    assert (made["isLocal"], made["vmId"], made["host"]) == (False, "", "far")
    own = site.folder("far")
    assert site.fleet.ask("far", "hello") == f"{own}/workspace\nfar\nhello"
    assert Message.objects.get().state == MessageState.ACCEPTED
    shown = site.fleet.get("far")
    assert [each["name"] for each in shown["startSteps"]] == [
        *("vm", "ssh", "identity", "keeper", "agent", "ready")
    ]
    assert all(each["seconds"] >= 0 for each in shown["startSteps"])

    (own / "workspace" / "hold").touch()
    site.fleet.send("far", "stay")
    until(lambda: site.fleet.get("far")["lastOutput"].endswith("stay"))
    assert site.fleet.api.post(f"{PATH}/abort").status_code == 200
    site.fleet.wait("far", "idle")
    assert Answer.objects.order_by("-id")[0].outcome == Outcome.ABORTED

    process = site.fleet.process("far")
    assert site.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: site.fleet.row("far").live_process() is None)
    until(lambda: not is_running(process.handle["keeper_pid"]))
    assert own.exists()
    (own / "workspace" / "hold").unlink()
    assert site.fleet.api.post(f"{PATH}/resume").status_code == 200
    site.fleet.wait("far", "idle")
    assert site.fleet.ask("far", "again").endswith("again")

    process = site.fleet.process("far")
    gone = site.fleet.api.delete(PATH)
    assert gone.json()["detail"].startswith("far: destroyed (VM far, ")
    assert site.fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.filter(has_remote_files=True).exists())
    until(lambda: not is_running(process.handle["keeper_pid"]))
    assert not is_running(process.handle["agent_pid"])
    assert not site.agents.exists()


def test_environment_is_the_machines_and_secrets_are_in_no_argument(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-provider")
    site.create("far", ["env"])
    env = dict(line.split("=", 1) for line in site.fleet.ask("far", "x").splitlines())
    own = site.folder("far")
    assert env["HOME"] == f"{own}/home"
    assert env["REEF_LIEUTENANT"] == site.fleet.row("far").pk
    assert env["VERS_AUTH_TOKEN"]
    assert "OPENAI_API_KEY" not in env
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes()
        except OSError:
            continue
        assert env["VERS_AUTH_TOKEN"].encode() not in words


def test_two_lieutenants_share_one_connection(site: Site) -> None:
    site.create("far", ["cat"])
    site.create("near", ["cat"])
    assert site.fleet.ask("far", "one") == "one"
    assert site.fleet.ask("near", "two") == "two"
    assert site.line.connections == 1


def test_new_follower_goes_on_where_the_old_one_ended(site: Site) -> None:
    site.create("far", ["python3", "-c", PIECES])
    message = site.fleet.send("far", "150")
    until(lambda: site.fleet.get("far")["lastOutput"])
    site.fleet.restart_follower()
    site.fleet.wait("far", "idle")
    assert Answer.objects.get().text == said(150)
    assert starts(site) == [message.pk]


def test_killed_agent_is_seen_and_started_again(site: Site) -> None:
    site.create("far", ["cat"], restartPolicy="on-failure")
    process = site.fleet.process("far")
    os.kill(process.handle["agent_pid"], signal.SIGKILL)
    until(
        lambda: (
            Process.objects.filter(ended_at__isnull=True, ready_at__isnull=False)
            .exclude(pk=process.pk)
            .exists()
        )
    )
    process.refresh_from_db()
    assert process.end_reason == "The agent was killed by SIGKILL."
    assert site.fleet.ask("far", "hello") == "hello"


def test_killed_keeper_is_seen(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    os.kill(process.handle["keeper_pid"], signal.SIGKILL)
    until(lambda: Process.objects.filter(pk=process.pk, ended_at__isnull=False).exists())
    site.fleet.wait("far", "idle")
    assert site.fleet.ask("far", "hello") == "hello"
    assert not is_running(process.handle["agent_pid"])


# Prints a file in pieces of four characters.
SPELLS = (
    "import sys, time\n"
    "for piece in open('text').read().split('|'):\n"
    "    sys.stdout.write(piece)\n"
    "    sys.stdout.flush()\n"
    "    time.sleep(0.3)\n"
)
KEY = "sk-ant-remote-0123456789abcdef"


def test_secret_that_is_half_here_survives_a_new_follower(site: Site) -> None:
    stored = site.fleet.api.client.put(
        "/vers-config/ANTHROPIC_API_KEY", {"value": KEY}, content_type="application/json"
    )
    assert stored.status_code == 200, stored.content
    site.create("far", ["python3", "-c", SPELLS])
    pieces = "|".join(["one ", KEY[:10], KEY[10:20], KEY[20:], " two"])
    (site.folder("far") / "workspace" / "text").write_text(pieces)
    site.fleet.send("far", "x")
    until(lambda: Process.objects.exclude(state__held={}).filter(state__held__isnull=False))
    site.fleet.restart_follower()
    site.fleet.wait("far", "idle")
    assert Answer.objects.get().text == "one [ANTHROPIC_API_KEY] two"


# -- cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "stall"])
def test_cut_while_it_streams_loses_and_doubles_nothing(site: Site, kind: str) -> None:
    site.create("far", ["python3", "-c", PIECES])
    message = site.fleet.send("far", "200")
    until(lambda: site.fleet.get("far")["lastOutput"])
    if kind == "reset":
        site.line.cut()
    else:
        site.line.stall()
        until(lambda: (site.folder("far") / "workspace" / "starts").exists())
        until(lambda: _is_quiet(site))
        site.line.flow()
    site.fleet.wait("far", "idle")
    assert Answer.objects.get().text == said(200)
    assert starts(site) == [message.pk]


def _is_quiet(site: Site) -> bool:
    """Return whether nothing new is shown for half a second."""
    before = site.fleet.get("far")["lastOutput"]
    time.sleep(0.5)
    return bool(site.fleet.get("far")["lastOutput"] == before)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_many_cuts_while_sending_pass_each_message_on_once(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    site.create("far", ["python3", "-c", PIECES])
    sent = []
    for number in range(6):
        sent.append(site.fleet.send("far", "20").pk)
        if number % 2:
            time.sleep(chance.random() * 0.1)
            site.line.cut()
        else:
            site.line.stall()
            time.sleep(chance.random() * 0.4)
            site.line.flow()
    until(lambda: Message.objects.filter(taken_up_at__isnull=False).count() == 6, 60)
    site.fleet.wait("far", "idle", 60)
    assert starts(site) == sent
    assert [each.text for each in Answer.objects.order_by("id")] == [said(20)] * 6


@pytest.mark.rotated
def test_message_waits_while_the_machine_is_out_of_reach(site: Site) -> None:
    site.create("far", ["cat"])
    before = until(lambda: machine_if(site, "answers"))
    assert before["lastHeardAt"]
    site.line.cut(refuse=True)
    trouble = until(lambda: site.fleet.get("far").get("trouble"))
    assert trouble.startswith("Its machine cannot be reached since ")
    out = site.fleet.get("far")["machine"]
    assert out["state"] == "unreachable"
    assert out["since"][11:19] in trouble
    message = site.fleet.send("far", "hello")
    assert "cannot be reached" in message.note
    time.sleep(1)
    message.refresh_from_db()
    assert message.state == MessageState.QUEUED
    site.line.flow()
    site.fleet.wait("far", "idle")
    assert Answer.objects.get().text == "hello"
    until(lambda: "trouble" not in site.fleet.get("far"))
    after = until(lambda: machine_if(site, "answers"))
    assert after["since"] > out["since"]
    assert after["lastHeardAt"] > before["lastHeardAt"]


def machine_if(site: Site, state: str) -> dict[str, Any] | None:
    """Return the state of the lieutenant's machine if it is this one."""
    found: dict[str, Any] = site.fleet.get("far")["machine"]
    return found if found["state"] == state else None


@pytest.mark.rotated
def test_destroyed_while_out_of_reach_is_ended_later(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    site.line.cut(refuse=True)
    until(lambda: site.fleet.get("far").get("trouble"))
    answer = site.fleet.api.delete(PATH)
    assert answer.status_code == 202
    assert "cannot be reached" in answer.json()["detail"]
    assert is_running(process.handle["agent_pid"])
    site.line.flow()
    until(lambda: not Lieutenant.objects.filter(has_remote_files=True).exists(), 40)
    assert not is_running(process.handle["agent_pid"])
    assert not site.agents.exists()


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({}, 400, "local: say where else it runs: vmId, "),
        ({"sshHost": "nowhere"}, 400, "sshHost: there is no SSH host 'nowhere'"),
        ({"vmId": "nowhere"}, 400, "vmId: no provider has a machine for VM 'nowhere'"),
        ({"commitId": "golden", "vmId": "b"}, 400, "commitId: is for a new VM; give neither "),
        ({"profile": "swarm", "sshHost": "a"}, 400, "profile: is for a new VM; give neither "),
        ({"profile": "nothing"}, 400, "Unknown VM type: nothing"),
        ({"onFailure": "x"}, 400, "onFailure: must be one of keep, delete"),
        ({"sshHost": "a", "vmId": "b"}, 400, "sshHost: give either a vmId or an sshHost"),
    ],
)
def test_request_without_a_machine_is_refused(
    site: Site, fields: dict[str, str], status: int, error: str
) -> None:
    body = {"name": "far", "role": "r", "local": False, "agent": "command", "command": ["cat"]}
    answer = site.fleet.api.post("/lieutenant/lieutenants", {**body, **fields})
    assert answer.status_code == status
    assert answer.json()["error"].startswith(error)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["no-such-prog"], "there is no program 'no-such-prog' on it"),
        (["./nowhere"], "The program ./nowhere is not there, or cannot be run."),
    ],
)
def test_missing_program_is_named(site: Site, command: list[str], problem: str) -> None:
    site.create("far", command, ready=False)
    assert problem in site.fleet.wait("far", "error").error


def test_warnings_of_its_agent_are_recorded_on_the_machine(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommandDialect, "warnings", ("is not there",))
    monkeypatch.setattr(SshTransport, "clean", lambda *_: None)
    site.create("far", ["./nowhere"], ready=False)
    site.fleet.wait("far", "error")
    (journal,) = site.folder("far").glob("runs/*/journal.jsonl")
    records = map(json.loads, journal.read_text().splitlines())
    warnings = [record[2] for record in records if record[0] == "w"]
    assert warnings == ["The program ./nowhere is not there, or cannot be run."]


def test_missing_pi_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", ("no-pi-here",))
    site.create("far", agent="pi", ready=False)
    row = site.fleet.wait("far", "error")
    assert row.error.startswith("The agent could not be started on far: The agent pi is not on it.")


def test_machine_that_refuses_is_an_error_with_the_reason(site: Site) -> None:
    SshHost.objects.update(port=free_port())
    site.create("far", ["cat"], ready=False)
    row = site.fleet.wait("far", "error")
    assert "Connection refused" in row.error
    steps = site.fleet.get("far")["startSteps"]
    assert [each["name"] for each in steps] == ["vm", "ssh"]
    assert "Connection refused" in steps[-1]["problem"]


def test_changed_host_key_is_refused(site: Site) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJm2n1cQ1PoTs8gr2YJ7D2GDxSMwIYXUWHBOJr1r1cXx"
    SshHost.objects.update(host_key=other)
    site.create("far", ["cat"], ready=False)
    assert "has another host key than before" in site.fleet.wait("far", "error").error


def test_machine_has_room_for_so_many_lieutenants(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_VM_LIEUTENANTS", "1")
    site.create("far", ["cat"])
    body = {"name": "near", "role": "r", "local": False, "sshHost": "far", "agent": "command"}
    answer = site.fleet.api.post("/lieutenant/lieutenants", {**body, "command": ["cat"]})
    assert answer.status_code == 400
    expected = "far has 1 lieutenants, and may have 1 (REEF_VM_LIEUTENANTS)"
    assert answer.json()["error"] == expected


def test_start_needs_free_memory(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEF_VM_FREE_MIB", str(1 << 20))
    site.create("far", ["cat"], ready=False)
    error = site.fleet.wait("far", "error").error
    assert re.search(r"it has \d+ MiB of free memory, and a start needs 1048576 MiB", error)


def test_idle_remote_lieutenant_is_paused(site: Site) -> None:
    site.create("far", ["cat"], idleLimitMinutes=1)
    earlier = timezone.now() - timedelta(minutes=2)
    Lieutenant.objects.update(status_since=earlier, last_activity_at=earlier)
    site.fleet.wait("far", "paused")
    until(lambda: site.fleet.row("far").live_process() is None)


# -- discover --------------------------------------------------------------------------------


def _discover(site: Site) -> list[str]:
    results: list[str] = site.fleet.api.post("/lieutenant/lieutenants/discover").json()["results"]
    return results


def test_lost_process_is_discovered_and_followed_again(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    pid = process.handle["agent_pid"]
    assert _discover(site) == [f"far: already followed (far, pid {pid})"]
    site.fleet.stop_follower()
    Process.objects.filter(pk=process.pk).update(ended_at=process.started_at, end_reason="lost")
    Lieutenant.objects.update(status="error", error="lost")
    assert _discover(site) == [f"far: reattached (far, pid {pid})"]
    site.fleet.restart_follower()
    site.fleet.wait("far", "idle")
    assert site.fleet.ask("far", "hello") == "hello"
    assert site.fleet.process("far").handle["agent_pid"] == pid


def test_discover_says_what_it_leaves_alone(site: Site) -> None:
    site.create("far", ["cat"])
    row = site.fleet.row("far")
    assert site.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: row.live_process() is None)
    assert _discover(site) == ["far: paused (far)"]
    site.line.cut(refuse=True)
    SshHost.objects.create(name="empty", address="127.0.0.1", port=free_port())
    (line,) = _discover(site)
    assert line.startswith("far: unreachable — ")
    assert line.endswith(" (far)")
    site.line.flow()
