"""The page that the agent's own program makes of a session: from which file, and how it is run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from lieutenants.agents.pi import export as pi_export
from lieutenants.isolation import modes, users
from lieutenants.isolation.homes import home_of
from lieutenants.models import Lieutenant
from reef_site.common.locks import FileLock
from tests.conftest import Api
from tests.lieutenants.rows import enlist, process_of
from tests.waiting import PATIENCE
from versconfig.models import Version

pytestmark = pytest.mark.django_db

ROUTE = "/lieutenant/lieutenants/ada/export?format=agent"
KEY = "sk-ant-api03-Zq8xW2vN4mK7pL1sT9rB"
# What `--export <source> <target>` writes, if not these lines.
PRINTS = 'echo "<html><head><title>x</title></head>"; cat "$2"'
Program = Callable[..., Path]


@pytest.fixture
def session(settings: Any) -> Path:
    """The session file of a lieutenant; its folder exists."""
    path = home_of(enlist().pk).session_file
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def program(settings: Any, tmp_path: Path) -> Program:
    """Have a script as the agent's program; `body` prints the page."""

    def install(body: str = PRINTS, *, after: str = "") -> Path:
        path = tmp_path / "pi"
        path.write_text(f'#!/bin/sh\n{{ {body}\n}} > "$3"\n{after}\n')
        path.chmod(0o755)
        settings.PI_PATH = str(path)
        return path

    return install


def page(api: Api) -> str:
    answer: Any = api.get(ROUTE)
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content).decode()


def refusal(api: Api, status: int) -> str:
    answer = api.get(ROUTE)
    assert answer.status_code == status
    return str(answer.json()["error"])


def open_files_in(*folders: Path) -> list[str]:
    """Return which files in `folders` this process holds open; other threads may open others."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(tuple(f"{each}/" for each in folders))]


@pytest.mark.parametrize("kind", ["missing", "link", "hard link", "pipe", "folder", "large"])
def test_page_is_made_of_the_session_file_only(
    api: Api,
    session: Path,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    program()
    other = tmp_path / "other.jsonl"
    other.write_text("{}")
    monkeypatch.setattr(pi_export, "MAX_BYTES", 1)
    if kind == "link":
        session.symlink_to(other)
    elif kind == "hard link":
        session.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(session)
    elif kind == "folder":
        session.mkdir()
    elif kind == "large":
        session.write_text("{}")
    said = {"missing": "no session yet", "link": "no session yet", "large": "has 2 bytes"}
    assert said.get(kind, "not a file of its own") in refusal(api, 409)
    assert not open_files_in(session.parent, tmp_path)


def test_unreadable_lines_are_left_out(api: Api, session: Path, program: Program) -> None:
    program()
    deep = "[" * 400 + f'"{KEY[:4]}"' + "]" * 400
    deeper = "[" * 2000 + "]" * 2000
    lines = ['{"n": "first"}', "{", "\udc80", deep, deeper, '{"n": "last"}', '{"n": "torn"']
    session.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    shown = [line for line in page(api).splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in shown] == [{"n": "first"}, {"n": "last"}]


def test_growing_session_is_read_to_its_first_size(
    api: Api, session: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program()
    session.write_text('{"n": 1}\n')
    opened = os.fstat

    def grow(file: int) -> os.stat_result:
        facts = opened(file)
        if facts.st_ino == session.stat().st_ino:
            with session.open("a") as more:
                more.write('{"n": 2}\n')
        return facts

    monkeypatch.setattr(os, "fstat", grow)
    html = page(api)
    assert '{"n":1}' in html
    assert '{"n":2}' not in html


def test_only_one_session_is_exported_at_a_time(api: Api, session: Path, program: Program) -> None:
    program()
    session.write_text("{}\n")
    other = FileLock(django_settings.LIEUTENANTS_DIR / ".export.lock")
    assert other.try_take()
    assert refusal(api, 503) == "Another session is being exported; try again soon"
    other.release()
    page(api)


def test_slow_program_is_ended(
    api: Api, session: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(after="sleep 600")
    session.write_text("{}\n")
    monkeypatch.setattr(pi_export, "TIMEOUT_SECONDS", 1.0)
    began = time.monotonic()
    assert refusal(api, 503) == "The export did not end within 1 s"
    assert time.monotonic() - began < 30 * PATIENCE
    assert not (django_settings.LIEUTENANTS_DIR / ".export").exists()


def test_program_gets_no_keys_and_an_empty_home(
    api: Api, session: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-reef-itself")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@proxy.invalid")
    monkeypatch.setenv("LANG", "C.UTF-8")
    program('echo "<head>"; env; echo "files:$(ls -A "$HOME")."')
    session.write_text("{}\n")
    html = page(api)
    names = {line.partition("=")[0] for line in html.splitlines() if "=" in line}
    assert {"PATH", "HOME", "LANG", "TMPDIR"} <= names
    assert not names & {"OPENAI_API_KEY", "HTTPS_PROXY", "USER"}
    assert "files:." in html


@pytest.mark.parametrize("mounts", [True, False], ids=["private view", "no namespaces"])
def test_program_is_isolated_like_an_agent(
    api: Api, session: Path, program: Program, monkeypatch: pytest.MonkeyPatch, mounts: bool
) -> None:
    host = modes.host()
    monkeypatch.setattr(modes, "host", lambda: replace(host, mounts=host.mounts and mounts))
    secret = django_settings.DATA_DIR / "secret-of-the-test"
    secret.write_text("reef's own")
    secret.chmod(0o600)
    other = home_of(enlist("bea").pk).session_file
    other.parent.mkdir(parents=True)
    other.write_text("of another")
    program(f'echo "<head>"; echo "user:$(id -u):"; cat {secret} {other}')
    session.write_text("{}\n")
    try:
        html = page(api)
    finally:
        secret.unlink()
    assert "reef's own" not in html
    assert "of another" not in html
    if host.user and host.mounts and mounts:
        uid = html.split("user:")[1].split(":")[0]
        assert users.is_system_user(int(uid))


def test_page_that_is_a_link_is_not_followed(
    api: Api, session: Path, program: Program, tmp_path: Path
) -> None:
    other = tmp_path / "other.html"
    other.write_text("<head>of reef")
    program(after=f'rm "$3"; ln -s {other} "$3"')
    session.write_text("{}\n")
    assert refusal(api, 503) == "The agent's program made no page of this session"


@pytest.mark.parametrize("head", ["<head>", '<HEAD lang="en">', "<head\n>"])
def test_policy_is_put_into_the_head(api: Api, session: Path, program: Program, head: str) -> None:
    program(f"echo '<html><header>{head}<title>'")
    session.write_text("{}\n")
    assert f'<header>{head}<meta http-equiv="Content-Security-Policy"' in page(api)


def test_page_without_a_head_is_refused(api: Api, session: Path, program: Program) -> None:
    program("echo '<html><header>x</header>'")
    session.write_text("{}\n")
    assert refusal(api, 503) == "The agent's program made a page without a head"


def test_fragments_of_the_agents_secrets_are_covered(
    api: Api, session: Path, program: Program
) -> None:
    program()
    body = {"value": KEY}
    url = "/vers-config/ANTHROPIC_API_KEY"
    assert api.client.put(url, body, content_type="application/json").status_code == 200
    version = Version.objects.get().pk
    lieutenant = Lieutenant.objects.get()
    process_of(lieutenant, state={"secret_versions": [version]}, ended_at=timezone.now())
    process_of(lieutenant, state={"secret_versions": []}, ended_at=timezone.now())
    process_of(lieutenant)
    session.write_text(json.dumps({"text": f"cut {KEY[:20]}"}) + "\n")
    html = page(api)
    assert KEY[:20] not in html
    assert "cut [ANTHROPIC_API_KEY]" in html
