"""A hostile agent cannot reach anything of reef, and can still do its work."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from lieutenants.isolation import modes
from lieutenants.isolation.homes import home_of
from tests.conftest import Fleet

INTRUDER = (Path(__file__).parents[2] / "agents" / "intruder.py").read_text()

# The isolation of this user's agents, and whether they get a mount namespace of their own. The
# tests with reef as an ordinary user, which root can run too, try Landlock and bubblewrap.
MODE = "user" if os.geteuid() == 0 else "landlock"
WAYS = [
    pytest.param((MODE, True), id=MODE),
    pytest.param((MODE, False), id=f"{MODE}-without-namespaces"),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of isolation in turn; as an ordinary user only the available one."""
    mode, mounts = request.param
    host = modes.host()
    assert host.offers(modes.Isolation(mode)), "run the tests with `python3 manage.py test`"
    settings.ISOLATION = mode
    monkeypatch.setattr(modes, "host", lambda: replace(host, mounts=host.mounts and mounts))
    return str(mode)


@pytest.fixture
def secrets(way: str) -> Iterator[list[Path]]:
    """Files in the data folder as in production."""
    names = ("root-token", "secret-key", "config-keys", "db.sqlite3")
    paths = [django_settings.DATA_DIR / name for name in names]
    made = [path for path in paths if not path.exists()]
    for path in made:
        path.write_text("a secret")
        path.chmod(0o600)
    yield paths
    for path in made:
        path.unlink()


def intrude(fleet: Fleet, name: str, targets: dict[str, object]) -> dict[str, str]:
    """Return the result of each attempt of this lieutenant's agent."""
    told = shlex.quote(json.dumps(targets))
    answer = fleet.ask(name, f"SHELL python3 - {told} <<'END'\n{INTRUDER}\nEND\n", 60)
    outcomes: dict[str, str] = json.loads(answer)
    return outcomes


def run(fleet: Fleet, name: str, command: str) -> str:
    """Return the output of a command that this lieutenant's agent runs."""
    return fleet.ask(name, f"SHELL {command}", 60).strip()


def reached(outcomes: dict[str, str]) -> dict[str, str]:
    return {name: got for name, got in outcomes.items() if not got.startswith("refused")}


def test_agent_cannot_reach_reef(fleet: Fleet, way: str, secrets: list[Path]) -> None:
    fleet.create("victim")
    fleet.create("mallory")
    assert fleet.get("mallory")["isolation"] == way
    victim = home_of(fleet.row("victim").pk)
    run_folder = Path(fleet.process("victim").directory)
    shims = [fleet.process(name).handle["keeper_pid"] for name in ("victim", "mallory")]
    agent = fleet.process("victim").handle["agent_pid"]
    config = django_settings.AGENT_CONFIG_DIR
    config.mkdir(mode=0o700, exist_ok=True)
    (config / "settings.json").write_text("{}")
    targets: dict[str, object] = {
        "files": [
            *map(str, secrets),
            *(f"/proc/{os.getpid()}/root{path}" for path in secrets),
            str(victim.session_file),
            str(run_folder / "journal.jsonl"),
            str(run_folder / "control.key"),
            str(config / "settings.json"),
            *(["/etc/shadow"] if os.geteuid() == 0 else []),
        ],
        "folders": [
            *map(str, (victim.root, *victim.agents, run_folder)),
        ],
        "writes": [
            str(config / "settings.json"),
            str(victim.workspace / "planted"),
            str(victim.config / "settings.json"),
            "/etc/reef-planted",
            "/usr/local/bin/reef-planted",
            "/proc/sys/kernel/core_pattern",
        ],
        "pids": [os.getpid(), os.getppid(), *shims, agent],
        "sockets": {str(run_folder / "control.sock"): '{"op":"state"}\n'},
    }
    outcomes = intrude(fleet, "mallory", targets)
    assert len(outcomes) > 50
    assert reached(outcomes) == {}
    assert fleet.ask("victim", "still here?") == "echo: still here?"


def test_data_folder_shows_only_the_agents_own_files(fleet: Fleet, way: str) -> None:
    fleet.create("victim")
    fleet.create("mallory")
    data, own = django_settings.DATA_DIR, fleet.row("mallory").pk
    # An agent may see an empty folder of that name, and may write there.
    seen = run(fleet, "mallory", f"cd {data}; ls -A . lieutenants; touch planted")
    assert fleet.row("victim").pk not in seen
    assert set(data.iterdir()) >= {data / "lieutenants"}
    assert not (data / "planted").exists()
    assert "root-token" not in seen
    if "Permission denied" not in seen:
        assert seen.split() == [".:", "lieutenants", "lieutenants:", own]


def test_isolated_agent_can_work(fleet: Fleet, way: str) -> None:
    fleet.create("ada")
    assert run(fleet, "ada", "pwd") == fleet.get("ada")["folder"]
    work = (
        "git init -q . && echo text > file && git add . && git commit -qm first && "
        "git log --format=%an && echo in-home > $HOME/note && cat $HOME/note && "
        "echo in-tmp > $TMPDIR/note && cat $TMPDIR/note && "
        "printf 'def test_sum():\\n    assert 1 + 1 == 2\\n' > test_sum.py && "
        "python3 -c 'import multiprocessing; multiprocessing.Lock(); print(\"python\")' && "
        "node -e 'console.log(\"node\")' && umask && grep NoNewPrivs /proc/self/status"
    )
    assert run(fleet, "ada", work).split() == [
        *("ada", "in-home", "in-tmp", "python", "node", "0077", "NoNewPrivs:", "1")
    ]


def test_temporary_files_are_private(fleet: Fleet, way: str) -> None:
    fleet.create("ada")
    fleet.create("bob")
    run(fleet, "ada", "echo secret > $TMPDIR/shared-name; echo secret > /tmp/shared-name; true")
    outcomes = intrude(
        fleet, "bob", {"files": [str(home_of(fleet.row("ada").pk).tmp / "shared-name")]}
    )
    assert reached(outcomes) == {}
    assert "secret" not in run(fleet, "bob", "cat /tmp/shared-name $TMPDIR/shared-name")
