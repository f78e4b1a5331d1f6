"""Repositories for tests, made with git as an agent would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lieutenants.supervision.keeper.program import local_file

_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@reef.invalid",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@reef.invalid",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_CONFIG_KEY_1": "protocol.file.allow",
    "GIT_CONFIG_VALUE_1": "always",
}


def git(folder: Path, *words: str, at: int | None = None) -> str:
    """Run git in the folder and return what it prints; `at` is the time for commits (epoch)."""
    dates = {} if at is None else {"GIT_AUTHOR_DATE": f"{at} +0000"}
    dates |= {} if at is None else {"GIT_COMMITTER_DATE": f"{at} +0000"}
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**_ENV, **dates},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def make_repository(folder: Path) -> str:
    """Make a repository with one commit of a few files, and return the commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "cart.py").write_text("".join(f"line {n}\n" for n in range(1, 31)))
    (folder / "old.txt").write_text("one\ntwo\nthree\n")
    (folder / "gone.txt").write_text("gone\n")
    (folder / "picture.bin").write_bytes(b"a\0b")
    return commit_all(folder, "Begin")


def commit_all(folder: Path, subject: str, at: int | None = None) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", subject, at=at)
    return git(folder, "rev-parse", "HEAD")


def change(folder: Path) -> None:
    """Change, rename, delete and add files, without a commit."""
    text = (folder / "cart.py").read_text()
    (folder / "cart.py").write_text(text.replace("line 5\n", "five\n"))
    git(folder, "mv", "old.txt", "new.txt")
    (folder / "gone.txt").unlink()
    (folder / "picture.bin").write_bytes(b"c\0d")
    (folder / "notes.md").write_text("a\nb")


def ask(folder: Path, op: str = "list", **request: Any) -> dict[str, Any]:
    """Return the program's answer about a folder."""
    whole = {"op": op, "folder": str(folder), "base": {"kind": "head"}, **request}
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(local_file()), "changes"],
        input=json.dumps(whole).encode(),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    assert not done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def files_of(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert "problem" not in answer, answer
    return {each["path"]: each for each in answer["files"]}
