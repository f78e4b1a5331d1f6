"""Ways around the isolation that reviews found: each is closed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents.base import Program
from lieutenants.isolation import modes, plan, users
from lieutenants.isolation.homes import home_of
from lieutenants.models import Lieutenant
from tests.conftest import Fleet
from tests.lieutenants.isolation.test_adversary import MODE, run
from tests.waiting import until
from vmtree import tokens
from vmtree.models import Node

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="system users need root")


def restart(fleet: Fleet, name: str, *, ready: bool = True) -> None:
    assert fleet.api.post(f"/lieutenant/lieutenants/{name}/restart").status_code == 200
    fleet.wait(name, "idle" if ready else "error")


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@as_root
def test_folder_replaced_by_a_link_prevents_the_start(fleet: Fleet, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    project = shared / "project"
    project.mkdir(parents=True)
    for folder in (shared, project):
        os.chown(folder, 0, 4242)
        folder.chmod(0o2770)
    fleet.create("ada", folder=str(project))
    assert fleet.get("ada")["isolation"] == "user"
    project.rename(shared / "old")
    project.symlink_to("/etc")
    restart(fleet, "ada", ready=False)
    assert "leads to another place" in fleet.row("ada").error


@as_root
def test_agents_with_a_shared_user_cannot_read_or_end_each_other(fleet: Fleet) -> None:
    fleet.create("parent")
    part = home_of(fleet.row("parent").pk).workspace / "part"
    run(fleet, "parent", "mkdir part")
    token = tokens.issue(Node.objects.get(vm_id=fleet.row("parent").pk), made_by="test")
    made = fleet.api.post(
        "/lieutenant/lieutenants",
        {"name": "child", "role": "tests", "local": True, "folder": str(part)},
        authorization=f"Bearer {token}",
    )
    assert made.status_code == 201, made.content
    fleet.wait("child", "idle")
    agent = fleet.process("child").handle["agent_pid"]
    seen = run(fleet, "parent", f"cat /proc/{agent}/environ; kill -CONT {agent}; true")
    assert "VERS_VM_ID" not in seen
    assert "not permitted" in seen
    restart(fleet, "parent")
    assert alive(agent)
    assert fleet.ask("child", "still here?") == "echo: still here?"


@pytest.mark.parametrize("mode", sorted({MODE, "none"}))
def test_processes_without_a_tag_end_with_their_agent(
    fleet: Fleet, settings: Any, mode: str
) -> None:
    settings.ISOLATION = mode
    fleet.create("ada")
    pid = int(run(fleet, "ada", "env -i setsid sleep 600 >/dev/null 2>&1 & echo $!"))
    assert alive(pid)
    fleet.api.delete("/lieutenant/lieutenants/ada")
    until(lambda: not alive(pid), 20)


def test_orphans_of_an_agent_leave_no_zombies(fleet: Fleet) -> None:
    fleet.create("ada")
    run(fleet, "ada", "for i in 1 2 3; do (setsid sleep 0.1 &); done; true")
    shim = fleet.process("ada").handle["keeper_pid"]
    children = Path(f"/proc/{shim}/task/{shim}/children")
    until(lambda: len(children.read_text().split()) == 1, 20)


@pytest.mark.parametrize("mode", [MODE])
def test_undeletable_folders_do_not_prevent_a_start(fleet: Fleet, settings: Any, mode: str) -> None:
    settings.ISOLATION = mode
    fleet.create("ada")
    run(fleet, "ada", "mkdir -p $TMPDIR/a/b/c && touch $TMPDIR/a/b/c/f && chmod -R a-w $TMPDIR/a")
    restart(fleet, "ada")
    assert "a" not in run(fleet, "ada", "ls -A $TMPDIR").split()


@as_root
def test_deleted_git_configuration_is_restored_for_the_agent(fleet: Fleet) -> None:
    fleet.create("ada")
    run(fleet, "ada", "rm ~/.gitconfig")
    restart(fleet, "ada")
    assert run(fleet, "ada", "git config --global user.name ada2 && git config user.name") == "ada2"


@as_root
def test_user_ids_of_destroyed_lieutenants_are_reused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "LAST", users.FIRST + 1)
    for name in ("one", "two"):
        fleet.create(name)
    fleet.create("three", ready=False)
    assert "user ids for agents are taken" in fleet.wait("three", "error").error
    gone = fleet.row("one").pk
    fleet.api.delete("/lieutenant/lieutenants/one")
    until(lambda: not Lieutenant.objects.get(pk=gone).processes.filter(ended_at=None).exists())
    restart(fleet, "three")
    assert home_of(gone).workspace.stat().st_uid == 0


@as_root
def test_container_without_privileges_warns_about_missing_isolation(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = replace(modes.host(), landlock=0, mounts=False)
    monkeypatch.setattr(modes, "host", lambda: bare)
    monkeypatch.setattr(plan, "_is_reachable", lambda *_: False)
    fleet.create("ada")
    assert fleet.get("ada")["isolation"] == "none"
    assert run(fleet, "ada", "grep CapEff /proc/self/status").split()[1] == "0" * 16
    assert "not isolated" in fleet.api.get("/health").json()["isolation"]["warning"]
    fleet.create("bob", ready=False, folder=str(tmp_path))
    assert "Give the folder a group" in fleet.wait("bob", "error").error


def test_agent_installed_below_a_system_folder_is_reachable(settings: Any) -> None:
    settings.DATA_DIR = Path("/opt/reef/data")
    programs = plan._programs(Program("pi", ["pi"], files=[Path("/opt/reef/data/agent/pi")]))
    assert Path("/opt/reef/data/agent/pi") in programs


@as_root
def test_other_agents_cannot_read_an_agents_prompt(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_mounts = replace(modes.host(), mounts=False)
    monkeypatch.setattr(modes, "host", lambda: without_mounts)
    fleet.create("ada")
    fleet.create("bob")
    prompt = home_of(fleet.row("ada").pk).prompt
    assert "You are ada" in run(fleet, "ada", f"cat {prompt}")
    assert "You are ada" not in run(fleet, "bob", f"cat {prompt}; true")
