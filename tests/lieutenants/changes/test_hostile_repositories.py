"""Repositories that try to run something, to change something, or to hold up git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lieutenants.changes.repositories import (
    ask,
    change,
    commit_all,
    files_of,
    git,
    make_repository,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_repository(tmp_path / "work")
    return tmp_path / "work"


def test_nothing_that_a_repository_configures_is_run(folder: Path, tmp_path: Path) -> None:
    """Filters, drivers, hooks, monitors, aliases, helpers: each would leave a file."""
    traces = tmp_path / "traces"
    traces.mkdir()
    traces.chmod(0o777)
    program = tmp_path / "evil.sh"
    program.write_text(f'#!/bin/sh\necho "$0 $*" > {traces}/$$\ncat\n')
    program.chmod(0o755)
    evil = f"{program} said"
    (folder / ".gitattributes").write_text(
        "*.py filter=evil diff=evil merge=evil\n*.txt diff=evil\n"
    )
    commit_all(folder, "Attributes")
    (folder / "hooks").mkdir()
    for hook in ("post-index-change", "reference-transaction", "fsmonitor-watchman", "pre-commit"):
        (folder / "hooks" / hook).write_text(program.read_text())
        (folder / "hooks" / hook).chmod(0o755)
    config = folder / ".git" / "config"
    config.write_text(
        config.read_text()
        + "".join(
            "[{}]\n\t{} = {}\n".format(_section(name), name.rpartition(".")[2], value)
            for name, value in _evil_settings(evil, folder).items()
        )
    )
    (folder / "inner").mkdir()
    git(folder / "inner", "init", "-q")
    (folder / "inner" / ".git" / "config").write_text(f"[core]\n\tfsmonitor = {evil}\n")
    (folder / "cart.py").write_text("changed\n")
    (folder / "old.txt").write_text("changed\n")
    (folder / "fresh.py").write_text("fresh\n")
    # An object that only the remote would have.
    missing = "1" * 40
    assert subprocess.run([program, "alive"], input=b"", check=True, capture_output=True)
    left = list(traces.iterdir())
    assert len(left) == 1, "it leaves a trace if it is run"
    left[0].unlink()

    for base in (
        *({"kind": "head"}, {"kind": "time", "at": 1_000_000_000}, {"kind": "rev", "rev": "main"}),
        *({"kind": "rev", "rev": missing}, {"kind": "commit", "commit": missing, "at": 5}),
    ):
        answer = ask(folder, base=base, since=None)
        if answer.get("problem") != "unknown_rev":
            assert "cart.py" in files_of(answer)
        for path in ("cart.py", "old.txt", "fresh.py", ".gitattributes"):
            ask(folder, "file", base=base, path=path)
    ask(folder, "head")
    assert ask(folder, "file", path="cart.py")["lines"][-1] == "+changed"
    assert list(traces.iterdir()) == []


def _evil_settings(evil: str, folder: Path) -> dict[str, str]:
    """Return all settings of git that name a program, with this one."""
    return {
        "core.fsmonitor": evil,
        "core.pager": evil,
        "core.editor": evil,
        "core.sshCommand": evil,
        "core.hooksPath": str(folder / "hooks"),
        "core.askPass": evil,
        "core.gitProxy": evil,
        "credential.helper": f"!{evil}",
        "core.alternateRefsCommand": evil,
        "gpg.program": evil,
        "log.showSignature": "true",
        "diff.external": evil,
        "diff.evil.command": evil,
        "diff.evil.textconv": evil,
        "filter.evil.clean": evil,
        "filter.evil.smudge": evil,
        "filter.evil.process": evil,
        "filter.evil.required": "true",
        "merge.evil.driver": evil,
        "interactive.diffFilter": evil,
        "alias.diff": f"!{evil}",
        "alias.rev-parse": f"!{evil}",
        "alias.ls-files": f"!{evil}",
        "alias.log": f"!{evil}",
        "alias.config": f"!{evil}",
        "pager.diff": evil,
        "extensions.partialClone": "evil",
        "remote.evil.url": f"ext::{evil}",
        "remote.evil.promisor": "true",
        "protocol.ext.allow": "always",
        "uploadpack.packObjectsHook": evil,
        "submodule.recurse": "true",
        "trailer.x.command": evil,
    }


def _section(name: str) -> str:
    """Return the header of a variable's section, as in `filter "evil"`."""
    section, *middle = name.split(".")[:-1]
    return f'{section} "{".".join(middle)}"' if middle else section


def test_nothing_is_written_into_the_repository(folder: Path) -> None:
    change(folder)
    os.utime(folder / "picture.bin")

    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in folder.rglob("*")
            if path.is_file()
        }

    before = state()
    ask(folder)
    ask(folder, "file", path="cart.py")
    assert state() == before


def test_pipes_and_devices_hold_up_nothing(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    log = folder / ".git" / "logs" / "HEAD"
    log.unlink()
    os.mkfifo(log)
    answer = ask(folder, base={"kind": "time", "at": 5})
    assert "zero" in files_of(answer)
    assert answer["base"]["note"] == "no_log"
