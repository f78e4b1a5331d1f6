"""Programs that are called `pi` and are not the agent, and starts that do not come to an end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents.pi import check
from lieutenants.agents.pi import program as agent_program
from lieutenants.exceptions import AgentMissing
from reef_site.management.commands.up import Start
from tests.conftest import STANDIN, Fleet
from tests.waiting import PATIENCE, until

DIGITS = "while :; do printf 14159; done"
SHIM = """
[ -n "$MISE_DATA_DIR" ] || { echo "mise: MISE_DATA_DIR is not set" >&2; exit 1; }
exec "$MISE_DATA_DIR/real-pi" "$@"
"""
# Well when it is asked for its version, and of no use after that.
CHATTERBOX = """
[ "$1" = --version ] && { echo 0.87.1; exit; }
while :; do echo 3.14159; sleep 0.05; done
"""
WRONG = {
    "digits without an end": (DIGITS, "it prints without an end"),
    "lines without an end": ("exec yes 3.14159", "it prints without an end"),
    "no version is set": (
        "echo 'no version is set for node' >&2; exit 127",
        "it ended with exit code 127 (no version is set for node)",
    ),
    "an old Node": (
        "echo 'file:///x/cli.js:2'; echo 'SyntaxError: no export' >&2; exit 1",
        "it ended with exit code 1 (SyntaxError: no export)",
    ),
    "an old agent": ("echo 0.60.0", "it is version 0.60.0, and reef works from 0.73 on"),
    "another program": ("echo 3.14159", "it answered '3.14159'"),
    "silence": ("sleep 600", "it did not end within 1 s"),
}


def program(path: Path, code: str) -> Path:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Path:
    """A folder that is the first on the path; no agent is named."""
    settings.PI_PATH = ""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("kind", WRONG)
def test_program_that_is_not_the_agent_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    code, words = WRONG[kind]
    if kind == "silence":
        monkeypatch.setattr(check, "TIMEOUT_SECONDS", 1.0)
    path = program(tmp_path / "pi", code)
    began = time.monotonic()
    problem = check.check(path, check.agent_environment())
    assert time.monotonic() - began < 8 * PATIENCE
    assert problem.startswith(f"{path} cannot be used as the agent: ")
    assert words in problem
    assert "Set PI_PATH=" in problem


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pi"
    path.write_text("#!/removed/bin/node\n")
    path.chmod(0o755)
    problem = check.check(path, {})
    assert "its interpreter /removed/bin/node is missing" in problem


def test_agent_is_accepted(tmp_path: Path) -> None:
    assert not check.check(STANDIN, check.agent_environment())
    assert not check.check(program(tmp_path / "pi", "echo 0.73.1"), {})


def test_slow_agent_of_a_known_package_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "TIMEOUT_SECONDS", 0.3)
    slow = program(tmp_path / "pi", "sleep 60")
    assert check.check(slow, {"PATH": "/usr/bin:/bin"})
    assert not check.check(slow, {"PATH": "/usr/bin:/bin"}, is_packaged=True)


def test_dangling_link_is_named(on_path: Path, settings: Any) -> None:
    settings.AGENT_INSTALL_DIR = on_path / "none"
    (on_path / "pi").symlink_to("/removed/node/bin/pi")
    with pytest.raises(AgentMissing, match="is a link to /removed/node/bin/pi, which is not there"):
        agent_program.find_agent()


def test_up_uses_the_program_behind_a_shim(on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISE_DATA_DIR", str(on_path))
    real = on_path / "real-pi"
    real.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(0.2)\nprint('0.87.1')\n")
    real.chmod(0o755)
    program(on_path / "pi", SHIM)
    start = Start("127.0.0.1", 1, demo=False)
    start.prepare_agent()
    assert start.agent == {"PI_PATH": str(real)}
    assert start.environment()["PI_PATH"] == str(real)


def test_the_interpreter_of_a_broken_agent_is_not_the_agent(tmp_path: Path) -> None:
    node = program(
        tmp_path / "node", '[ "$1" = --version ] && { echo v20.18.1; exit; }; sleep 0.3; exit 1'
    )
    broken = tmp_path / "pi"
    broken.write_text(f"#!{node} --no-warnings\n")
    broken.chmod(0o755)

    assert check.resolve_shim(broken) is None


def test_up_skips_a_program_that_is_not_the_agent(
    on_path: Path, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = program(on_path / "pi", "echo 3.14159")
    start = Start("127.0.0.1", 1, demo=False)
    start.prepare_agent()
    assert start.agent == {"REEF_OWN_AGENT": "1"}
    said = capsys.readouterr().out
    assert f"{path} cannot be used as the agent: asked for --version, it answered" in said
    assert "reef uses an agent of its own instead." in said
    settings.OWN_AGENT = True
    settings.AGENT_INSTALL_DIR = on_path / "none"
    with pytest.raises(AgentMissing):
        agent_program.find_agent()


def test_up_reports_the_problem_of_the_configured_agent(tmp_path: Path, settings: Any) -> None:
    settings.PI_PATH = str(program(tmp_path / "pi", "exit 127"))
    start = Start("127.0.0.1", 1, demo=False)
    start.prepare_agent()
    assert start.agent == {}
    assert "exit code 127" in start.agent_problem


# -- starts


def test_create_with_a_wrong_program_fails_without_leftovers(
    fleet: Fleet, settings: Any, tmp_path: Path
) -> None:
    settings.PI_PATH = str(program(tmp_path / "pi", DIGITS))
    fleet.create("ada", ready=False)
    row = fleet.wait("ada", "error", 20)
    assert row.error.startswith(f"The agent could not be started: {tmp_path}/pi cannot be used")
    assert not row.entries.exists()
    settings.PI_PATH = str(STANDIN)
    fleet.api.post("/lieutenant/lieutenants/ada/restart")
    fleet.wait("ada", "idle")


def test_output_does_not_extend_the_start_timeout(
    fleet: Fleet, settings: Any, tmp_path: Path
) -> None:
    settings.START_SECONDS = 2
    settings.PI_PATH = str(program(tmp_path / "pi", CHATTERBOX))
    fleet.create("ada", ready=False)
    row = fleet.wait("ada", "error", 25)
    assert row.error.startswith("The agent did not answer for 2 s after its start.")


def test_queued_start_is_reported(fleet: Fleet, settings: Any, tmp_path: Path) -> None:
    settings.STARTS_AT_ONCE = 1
    settings.START_SECONDS = 5
    settings.PI_PATH = str(program(tmp_path / "pi", CHATTERBOX))
    fleet.create("ada", ready=False)
    until(lambda: fleet.row("ada").live_process())
    settings.PI_PATH = str(STANDIN)
    fleet.create("bea", ready=False)
    until(
        lambda: fleet.get("bea").get("waitingFor") == "a free start slot, taken by ada",
        10,
    )
    fleet.wait("ada", "error", 25)
    fleet.wait("bea", "idle", 25)
    assert not fleet.get("bea").get("waitingFor")
