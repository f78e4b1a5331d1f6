"""A data folder whose host is renamed, that is moved, copied, or restored from a backup.

After each of these, lieutenants are followed again, or one line says what to do. Nothing is lost,
duplicated, or started against the operator's will.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

AT = "/lieutenant/lieutenants"
PARTS = ("redis", "web", "edge", "worker", "beat")
WORDS = 150
STORY = " ".join(f"w{number}" for number in range(WORDS))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("life"), REEF_HOST="box1") as running:
        for name in ("ada", "bob", "eve"):
            running.create(name)
        running.client.post(f"{AT}/bob/pause")
        until(lambda: running.get("bob")["status"] == "paused")
        running.send("ada", "first")
        running.wait_idle("ada")
        yield running


def stop(stack: Stack) -> None:
    """Stop reef; the agents keep running."""
    for name in reversed(PARTS):
        stack.end(name)


def start(stack: Stack, **env: str) -> None:
    stack.env |= env
    for stale in ("redis.sock", "web.sock"):
        (stack.run / stale).unlink(missing_ok=True)
    for name in PARTS:
        stack.start(name)
    until(stack.is_responding, 60)
    until(lambda: stack.health()["follower"]["ageSeconds"] < 5, 60)


def rows(stack: Stack, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(stack.data / "db.sqlite3", timeout=20)) as database:
        return database.execute(sql, values).fetchall()


def agents(stack: Stack) -> dict[str, list[int]]:
    """Return the pids of running agents by lieutenant, wherever their folder is now."""
    names = dict(rows(stack, "SELECT id, name FROM lieutenants_lieutenant"))
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"standin.py" not in command:
            continue
        for word in words:
            key = word.removeprefix(b"REEF_LIEUTENANT=").decode()
            if key in names and word.startswith(b"REEF_LIEUTENANT="):
                found.setdefault(names[key], []).append(int(entry.name))
    return {name: sorted(pids) for name, pids in found.items()}


def ask(stack: Stack, name: str, text: str) -> str:
    assert stack.send(name, text).status_code == 200
    stack.wait_idle(name)
    return stack.texts(name)[-1].strip()


def test_renamed_host_keeps_its_lieutenants(stack: Stack) -> None:
    before = agents(stack)
    stack.send("eve", f"TOKENS {WORDS} 30")
    until(lambda: stack.get("eve")["lastOutput"])
    stop(stack)
    start(stack, REEF_HOST="box2")
    assert [stack.get(name)["host"] for name in ("ada", "bob", "eve")] == ["box2"] * 3
    stack.wait_idle("eve")
    assert [text.strip() for text in stack.texts("eve")] == [STORY]
    assert ask(stack, "ada", "second") == "echo: second"
    assert stack.get("bob")["status"] == "paused"
    assert agents(stack) == before
    assert stack.client.get("/lieutenant/hosts").json()["count"] == 1
    assert stack.health()["hosts"] == {"ok": True, "followed": 1, "silent": []}
    registered = stack.client.get("/registry/vms?role=lieutenant").json()["vms"]
    assert {vm["address"] for vm in registered} == {"box2"}


def test_moved_folder_continues_at_its_new_location(stack: Stack) -> None:
    stop(stack)
    moved = stack.data.with_name("moved")
    stack.data.rename(moved)
    stack.data, stack.run = moved, moved / "run"
    start(stack, REEF_DATA_DIR=str(moved))
    for name in ("ada", "bob", "eve"):
        assert stack.get(name)["folder"].startswith(f"{moved}/lieutenants/")
    assert stack.health()["hosts"]["ok"]
    # An idle agent is restarted with its session, because its own paths are invalid now.
    until(lambda: "was moved" in rows(stack, MOVES, "ada")[0][0], 30)
    stack.wait_idle("ada")
    assert ask(stack, "ada", "RECALL") == "recall: first | second"
    stack.client.post(f"{AT}/bob/resume?wait=60")
    assert ask(stack, "bob", "hello") == "echo: hello"
    assert ask(stack, "eve", "still there") == "echo: still there"
    assert {name: len(pids) for name, pids in agents(stack).items()} == dict.fromkeys(
        ("ada", "bob", "eve"), 1
    )


def test_copy_in_place_of_the_folder_starts_no_duplicates(stack: Stack) -> None:
    stop(stack)
    before = agents(stack)
    old = stack.data.with_name("old")
    shutil.copytree(stack.data, stack.data.with_name("copy"), symlinks=True, ignore=sockets)
    stack.data.rename(old)
    stack.data.with_name("copy").rename(stack.data)
    start(stack)
    trouble = until(lambda: stack.get("ada").get("trouble"), 30)
    assert "still runs in another folder" in trouble
    assert "Restart ends that agent and starts it here" in trouble
    seen = "agents run in another data folder, of 3 lieutenants: ada, bob, eve"
    until(lambda: seen in stack.health()["hosts"]["why"], 30)
    assert not stack.health()["hosts"]["ok"]
    assert agents(stack) == before
    assert stack.send("ada", "waits").json()["state"] == "queued"
    assert stack.client.post(f"{AT}/ada/restart").status_code == 200
    until(lambda: "echo: waits" in stack.texts("ada"), 60)
    stack.wait_idle("ada")
    assert "trouble" not in stack.get("ada")
    after = agents(stack)
    assert len(after["ada"]) == 1
    assert after["ada"] != before["ada"]
    assert after["eve"] == before["eve"]
    for name in ("bob", "eve"):
        stack.client.post(f"{AT}/{name}/restart?wait=60")
        stack.wait_idle(name)
    assert {name: len(pids) for name, pids in agents(stack).items()} == dict.fromkeys(
        ("ada", "bob", "eve"), 1
    )
    shutil.rmtree(old)


def sockets(folder: str, names: list[str]) -> list[str]:
    """Ignore sockets, which cannot be copied."""
    return [name for name in names if Path(folder, name).is_socket()]


def test_second_folder_of_the_same_identity_is_not_followed(stack: Stack, tmp_path: Path) -> None:
    """The second one reports its reason in one sentence while the first one is followed."""
    import subprocess
    import sys

    from tests.stack import ROOT, free_port

    twin = tmp_path / "twin"
    shutil.copytree(stack.data, twin, symlinks=True, ignore=sockets)
    done = subprocess.run(
        [sys.executable, "manage.py", "up", "--no-agent"],
        cwd=ROOT,
        env={**stack.env, "REEF_DATA_DIR": str(twin), "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert f"has the identity of {stack.data}, which is in use" in said
    assert "Traceback" not in said
    assert stack.health()["follower"]["ok"]


def test_restored_backup_under_running_agents_loses_nothing(stack: Stack) -> None:
    stack.client.post(f"{AT}/bob/pause")
    until(lambda: not agents(stack).get("bob"), 30)
    backup = stack.data.with_name("backup.sqlite3")
    with (
        closing(sqlite3.connect(stack.data / "db.sqlite3")) as source,
        closing(sqlite3.connect(backup)) as target,
    ):
        source.backup(target)
    assert ask(stack, "ada", "after the backup") == "echo: after the backup"
    stack.client.delete(f"{AT}/eve")
    until(lambda: not agents(stack).get("eve"), 30)
    before = agents(stack)
    stop(stack)
    for name in ("db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm"):
        (stack.data / name).unlink(missing_ok=True)
    os.replace(backup, stack.data / "db.sqlite3")
    start(stack)
    # The agent's output is read from the journal again.
    until(lambda: "echo: after the backup" in [text.strip() for text in stack.texts("ada")], 30)
    stack.wait_idle("ada")
    assert [text.strip() for text in stack.texts("ada")].count("echo: after the backup") == 1
    assert ask(stack, "ada", "and on") == "echo: and on"
    assert stack.get("bob")["status"] == "paused"
    # The operator destroyed it; a database that does not know that must not start it.
    assert stack.get("eve")["status"] == "paused"
    assert "was destroyed" in stack.get("eve")["error"]
    assert stack.health()["hosts"]["ok"]
    assert agents(stack) == before


MOVES = """SELECT group_concat(move.reason) FROM lieutenants_move move
    JOIN lieutenants_lieutenant row ON row.id = move.lieutenant_id WHERE row.name = ?"""
