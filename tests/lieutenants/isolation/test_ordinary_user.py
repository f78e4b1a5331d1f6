"""Reef as an ordinary user: its agents have the same user, and still cannot reach it."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack
from tests.waiting import until

INTRUDER = (Path(__file__).parents[2] / "agents" / "intruder.py").read_text()
USER = "12345" if os.geteuid() == 0 else ""


@pytest.fixture(
    scope="module", params=["landlock", pytest.param("bubblewrap", marks=pytest.mark.thorough)]
)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A complete reef under each isolation that needs no root."""
    with (
        tempfile.TemporaryDirectory(prefix="reef-", dir="/var/tmp") as folder,
        Stack(Path(folder), user=USER, REEF_ISOLATION=request.param) as running,
    ):
        yield running


def run(stack: Stack, name: str, command: str) -> str:
    """Return the output of a command that this lieutenant's agent runs."""
    before = len(stack.texts(name))
    assert stack.send(name, f"SHELL {command}").status_code == 200
    until(lambda: len(stack.texts(name)) > before, 60)
    stack.wait_idle(name)
    return stack.texts(name)[-1]


def test_agent_of_reefs_own_user_cannot_reach_reef(stack: Stack) -> None:
    stack.create("victim")
    stack.create("mallory")
    isolation = stack.env["REEF_ISOLATION"]
    assert stack.get("mallory")["isolation"] == isolation
    health = stack.client.get("/health").json()
    assert health["isolation"]["mode"] == isolation
    victim = Path(stack.get("victim")["folder"]).parent
    (shim,) = victim.glob("runs/*")
    keeper = json.loads((shim / "keeper.json").read_text())
    targets = {
        "files": [
            *(str(stack.data / name) for name in ("secret-key", "config-keys", "db.sqlite3")),
            *(str(victim / name) for name in ("session/session.jsonl", "agent", "home/.gitconfig")),
            *(str(shim / name) for name in ("journal.jsonl", "control.key", "keeper.json")),
        ],
        "folders": [str(victim / "workspace"), str(victim), str(stack.run)],
        "writes": [str(stack.data / "pi" / "models.json"), str(victim / "workspace" / "planted")],
        "pids": [
            *(process.pid for process in stack.processes.values()),
            keeper["keeper_pid"],
            keeper["agent_pid"],
        ],
        "sockets": {
            str(stack.run / "web.sock"): "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            str(stack.run / "redis.sock"): "PING\r\n",
            str(shim / "control.sock"): '{"op":"state"}\n',
        },
    }
    told = shlex.quote(json.dumps(targets))
    outcomes = json.loads(run(stack, "mallory", f"python3 - {told} <<'END'\n{INTRUDER}\nEND\n"))
    assert len(outcomes) > 60
    assert {name: got for name, got in outcomes.items() if not got.startswith("refused")} == {}
    assert stack.get("victim")["status"] == "idle"


def test_agent_cannot_change_modes_of_its_users_files(stack: Stack) -> None:
    stack.create("vandal")
    home = stack.data.parent
    theirs = home / "theirs"
    theirs.write_text("x")
    if USER:
        os.chown(theirs, int(USER), int(USER))
    theirs.chmod(0o600)
    run(stack, "vandal", f"chmod 777 {theirs} {home} {stack.data} /tmp; true")
    assert theirs.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert stack.data.stat().st_mode & 0o777 == 0o700


def test_agent_of_reefs_own_user_can_work(stack: Stack) -> None:
    stack.create("worker")
    done = run(
        stack,
        "worker",
        "git init -q . && echo text > file && git add . && git commit -qm first && "
        "git log --format=%an && echo $HOME > $HOME/note && echo tmp > /tmp/note && "
        "cat /tmp/note $TMPDIR/note && python3 -c 'import tempfile; tempfile.mkdtemp()' && "
        "npm --version >/dev/null && node -e 'console.log(1)'",
    )
    assert done.split() == ["worker", "tmp", "tmp", "1"]


def test_changes_of_a_folder_are_read_with_the_agents_isolation(stack: Stack) -> None:
    stack.create("coder")
    run(
        stack,
        "coder",
        "git init -q . && echo text > file && git add . && git commit -qm first && "
        "echo more >> file && git config core.fsmonitor 'touch ran; false' && ls",
    )
    found = until(lambda: _changes(stack, "coder"), 60)
    assert [(each["path"], each["added"]) for each in found["files"]] == [("file", 1)]
    assert not (Path(stack.get("coder")["folder"]) / "ran").exists()


def _changes(stack: Stack, name: str) -> Any:
    """Return the changes since the last commit, once a worker has read them."""
    answer = stack.client.get(f"/lieutenant/lieutenants/{name}/changes?against=head")
    assert answer.status_code in (200, 202), answer.text
    return answer.json() if answer.status_code == 200 else None


@pytest.mark.rotated
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's reef")
def test_container_without_isolation_works_with_a_warning() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="reef-", dir="/var/tmp") as folder,
        Stack(Path(folder), user=USER, bare="yes") as stack,
    ):
        stack.create("ada")
        assert stack.get("ada")["isolation"] == "none"
        health = stack.client.get("/health").json()["isolation"]
        assert health["mode"] == "none"
        assert "Agents are not isolated" in health["warning"]
        stack.send("ada", "hello")
        until(lambda: stack.texts("ada") == ["echo: hello"], 60)
