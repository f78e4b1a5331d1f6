"""Discovery on machines: exact, in bounded time, and not spoilt by one of them."""

from __future__ import annotations

import json
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from bootloader.models import SshHost
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision.discovery import call, following, machines, verdicts
from lieutenants.supervision.discovery.following import FoundRun
from lieutenants.supervision.transports.ssh.relay.machine import boot_id, stat_fields
from lieutenants.supervision.transports.ssh.transport import SshTransport
from reef_site.common import outside
from reef_site.common.models import OutsideCall
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.remote.test_servers import Odd, keep
from tests.waiting import until
from vmtree import services as tree
from vmtree.models import Category

DISCOVER = "/lieutenant/lieutenants/discover"


def discover(site: Site) -> list[str]:
    results: list[str] = site.fleet.api.post(DISCOVER).json()["results"]
    return results


def lieutenant_on(site: Site, host: str, **fields: Any) -> Lieutenant:
    """Create the row of a lieutenant on another host, which has this name as well."""
    machine = SshHost(name=host, address="127.0.0.1", user="root", **fields)
    machine.set_key(site.sshd.key)
    machine.save()
    return Lieutenant.objects.create(
        name=host, role="r", agent="command", command=["cat"], folder="~/x", host=host,
        transport="ssh", ssh_host=machine, status="error",
    )  # fmt: skip


def forget(site: Site) -> Process:
    """Let the rows say that the process of `far` has ended, while its keeper goes on."""
    process = site.fleet.process("far")
    site.fleet.stop_follower()
    Process.objects.filter(pk=process.pk).update(ended_at=timezone.now(), end_reason="lost")
    Lieutenant.objects.update(status="error", error="lost")
    return process


def plant(site: Site, lieutenant: str, run: str) -> None:
    """Leave the folder of a run on the machine, with this process as its keeper."""
    folder = site.agents / "lieutenants" / lieutenant / "runs" / run
    folder.mkdir(parents=True)
    pid = os.getpid()
    started = int(stat_fields(pid)[19])
    facts = {"keeper_pid": pid, "keeper_started": started, "boot_id": boot_id()}
    (folder / "keeper.json").write_text(json.dumps({**facts, "agent_pid": 1, "agent_started": 1}))


def test_one_machine_with_a_strange_answer_spoils_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.create("far", ["cat"])
    lieutenant_on(site, "strange", port=site.sshd.port)
    ask = SshTransport.list_agents
    strange = str(SshHost.objects.get(name="strange").pk)

    def answer(transport: SshTransport) -> dict[str, Any]:
        if transport.place.ssh_host == strange:
            return {"runs": [{"alive": True, "lieutenant": 7}], "older": None}
        return ask(transport)

    monkeypatch.setattr(SshTransport, "list_agents", answer)
    far, other = sorted(discover(site))
    assert far.startswith("far: already followed (far, pid ")
    assert other == (
        "strange: unreachable — its answer has a form that reef does not know (KeyError) (strange)"
    )


def test_copy_of_an_agent_on_another_machine_is_not_ours(site: Site) -> None:
    site.create("far", ["cat"])
    process = forget(site)
    Lieutenant.objects.update(ssh_host=None, on_vm="another-vm", host="anna")
    pid = process.handle["agent_pid"]
    copy = f"far: not ours — it runs on anna, and its copy is left alone (far, pid {pid})"
    assert copy in discover(site)
    assert not Process.objects.live().exists()
    Lieutenant.objects.update(ssh_host=site.host, on_vm="", host="far")
    assert discover(site) == [f"far: reattached (far, pid {pid})"]
    site.fleet.restart_follower()


def test_folders_of_no_lieutenant_are_left_alone(site: Site) -> None:
    plant(site, "no ulid", "run")
    plant(site, "01JD9Z3K8Q5V7W2X4Y6A8B0C1D", "01JD9Z3K8Q5V7W2X4Y6A8B0C1E")
    plant(site, "01JD9Z3K8Q5V7W2X4Y6A8B0C1F", "\udce4" + "x" * 200)
    lines = discover(site)
    assert len(lines) == 3
    assert all(
        "not ours — no such lieutenant is known, left alone (far, pid 1)" in x for x in lines
    )
    assert not Process.objects.exists()


def test_agent_gone_and_lieutenants_of_other_places_are_told(site: Site) -> None:
    site.create("far", ["cat"])
    process = forget(site)
    os.kill(process.handle["keeper_pid"], 9)
    os.kill(process.handle["agent_pid"], 9)
    tree.create(tree.NewNode("older", Category.LIEUTENANT, "older-vm", ""), by="tests")
    until(lambda: not Path(f"/proc/{process.handle['keeper_pid']}").exists())
    assert discover(site) == [
        *("far: agent gone (far)", "older: not ours — it is only in the tree, left alone")
    ]
    site.fleet.restart_follower()


def test_slow_machine_is_told_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(machines, "PATIENCE_SECONDS", 4.0)

    def in_background(_task: str, call_id: str, **_: object) -> None:
        def run() -> None:
            outside.run_here(call_id)
            connections.close_all()

        threading.Thread(target=run, name="reef-settle").start()

    monkeypatch.setattr(outside, "dispatch", in_background)
    site.create("far", ["cat"])
    silent = Odd(keep)
    lieutenant_on(site, "slow", port=silent.port)
    far, slow = sorted(discover(site))
    assert far.startswith("far: already followed (far, pid ")
    assert slow == "slow: has not answered yet; ask again (slow)"
    # The same call goes on, and its result is told once.
    until(lambda: any(line.startswith("slow: unreachable — ") for line in discover(site)), 20)
    assert OutsideCall.objects.filter(kind=call.KIND).count() == 1
    silent.close()


def test_call_of_a_worker_that_died_is_made_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "ANSWER_SECONDS", 0.3)
    site.create("far", ["cat"])
    with monkeypatch.context() as patch:
        patch.setattr(outside, "dispatch", lambda *_, **__: None)
        assert discover(site) == ["far: has not answered yet; ask again (far)"]
        # A worker has begun, and is gone.
        OutsideCall.objects.update(state="running", made_at=timezone.now() - timedelta(minutes=1))
    # The first answer may come too early for a busy machine.
    until(lambda: discover(site)[0].startswith("far: already followed (far, pid "))


def test_lieutenant_that_another_follower_got_meanwhile_is_not_followed_here(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.create("far", ["cat"])
    process = forget(site)

    def follow_late(row: Lieutenant, found: FoundRun) -> None:
        Lieutenant.objects.update(data_folder="another")
        following.follow(row, found)

    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "follow", follow_late)
        (line,) = discover(site)
    assert line.endswith("failed — Lieutenant 'far' has changed meanwhile")
    assert not Process.objects.live().exists()
    # The other one has it from now on.
    pid = process.handle["agent_pid"]
    assert discover(site) == [f"far: reattached (far, pid {pid})"]
    found = Process.objects.live().get()
    assert (found.data_folder, found.generation) == ("another", 1)
    Lieutenant.objects.update(data_folder=settings.DATA_FOLDER_ID)
    Process.objects.update(data_folder=settings.DATA_FOLDER_ID)
    site.fleet.restart_follower()
    assert site.fleet.ask("far", "hello") == "hello"
