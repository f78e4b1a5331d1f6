"""Agents get systemd scopes of their own; a stand-in for `systemd-run` is on the PATH."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lieutenants.supervision.transports import scopes
from tests.conftest import Fleet

GIVES = """#!/bin/sh
[ "$1" = --version ] && { echo "systemd VERSION (VERSION.1)"; exit 0; }
echo "$@" >> LOG
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
REFUSES = """#!/bin/sh
echo "Failed to connect to bus: No such file or directory" >&2
exit 1
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put such a program on the PATH, as on a machine with systemd; return its log."""
    monkeypatch.setattr(scopes, "BOOTED", tmp_path)
    monkeypatch.setattr(scopes, "_refused", threading.Event())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()

    def put(script: str, version: int = 257) -> Path:
        program, log = tmp_path / "systemd-run", tmp_path / "log"
        program.write_text(script.replace("VERSION", str(version)).replace("LOG", str(log)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        scopes._find.cache_clear()
        return log

    yield put
    scopes._find.cache_clear()


def test_agent_is_started_in_a_scope(fleet: Fleet, install: Install) -> None:
    log = install(GIVES)
    fleet.create("ada")
    words = log.read_text().split()
    assert words[:3] == ["--scope", "--quiet", "--collect"]
    assert "--property=OOMPolicy=continue" in words
    assert f"--unit=reef-{fleet.process('ada').pk}" in words
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_older_systemd_gets_no_oom_policy(fleet: Fleet, install: Install) -> None:
    log = install(GIVES, version=252)
    fleet.create("ada")
    assert "OOMPolicy" not in log.read_text()


def test_agents_start_without_a_scope(
    fleet: Fleet, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(REFUSES)
    fleet.create("ada")
    assert fleet.ask("ada", "hello") == "echo: hello"
    assert "Failed to connect to bus" in caplog.text
    assert scopes.manager() is None


def test_no_scope_without_systemd(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(GIVES)
    monkeypatch.setattr(scopes, "BOOTED", tmp_path / "missing")
    assert scopes.manager() is None
