"""A full disk: errors of API, pages and `up`."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from django.db import OperationalError
from django.test import Client

from lieutenants import services
from reef_site.common import disk
from tests.conftest import Api
from tests.stack import ROOT, Stack, free_port
from tests.waiting import PATIENCE, until

FULL = {"error": disk.FULL}
SENDS = "/lieutenant/lieutenants"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "error",
    [OperationalError("database or disk is full"), OSError(errno.ENOSPC, "No space left")],
    ids=["database", "file"],
)
def test_write_on_full_disk_is_507(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(services, "create_once", fail)
    answer = api.post(SENDS, {"name": "ada", "role": "tests", "local": True})

    assert (answer.status_code, answer.json()) == (507, FULL)


@pytest.mark.django_db
def test_page_on_full_disk_is_507(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr("reef_site.accounts.views.signin_links.use_signin_link", fail)
    page = Client(raise_request_exception=False).get("/signin/x", headers={"accept": "text/html"})

    assert page.status_code == 507
    assert "disk of the data folder is full" in page.content.decode()
    assert "Traceback" not in page.content.decode()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Mount a disk of 48 MB at a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="reef-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)
    folder.rmdir()


def fill(folder: Path) -> Path:
    """Fill the disk completely."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def manage(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env={**env, "REEF_DATA_DIR": str(data), "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.rotated
@pytest.mark.parametrize("before", [[], ["migrate"]], ids=["new folder", "folder in use"])
def test_up_on_a_full_disk_prints_one_sentence(small_disk: Path, before: list[str]) -> None:
    if before:
        assert manage(small_disk, *before).returncode == 0
    fill(small_disk)

    up = manage(small_disk, "up", "--no-agent")

    assert up.returncode != 0
    assert "Traceback" not in up.stderr + up.stdout
    assert len(up.stderr.strip().splitlines()) == 1, up.stderr
    assert "full" in up.stderr.lower() or "no space left" in up.stderr.lower()


@pytest.mark.rotated
def test_full_disk_is_reported_until_it_has_room(small_disk: Path) -> None:
    with Stack(small_disk, REEF_TESTS="1") as stack:
        stack.create("ada")
        stack.create("bea")
        vm = {"id": "vm-1", "name": "one", "role": "worker", "address": "a", "registeredBy": "t"}
        assert stack.client.post("/registry/vms", json=vm).status_code == 201
        until(lambda: stack.client.get("/health").json()["parts"]["ticks"]["ok"], 60)
        stack.send("bea", "TOKENS 200 20")
        filler = fill(small_disk)
        try:
            _refused(stack, "x" * 200_000)
            health = stack.client.get("/health").json()
            assert health["status"] == "degraded"
            assert health["parts"]["disk"]["why"] == "the disk is full"
            answered, key = _all_kinds_of_requests(stack)
        finally:
            filler.unlink()
        # Everything works again without a restart; only accepted changes are stored.
        until(lambda: stack.send("ada", "hello", **key).status_code == 200, 60)
        stack.wait_idle("ada")
        stack.wait_idle("bea", 90)
        assert stack.texts("ada").count("echo: hello") == 1
        assert stack.texts("bea") == [" ".join(f"w{number}" for number in range(200))]
        until(lambda: stack.client.get("/health").json()["status"] == "ok", 90)
        assert (stack.client.get(f"{SENDS}/cyd").status_code == 200) == (answered["create"] == 201)
        beat = stack.client.post("/registry/vms/vm-1/heartbeat", json={"load": 0.5})
        assert (beat.status_code, stack.client.get("/registry/vms/vm-1").status_code) == (200, 200)
        with contextlib.closing(sqlite3.connect(stack.data / "db.sqlite3")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Seconds. A response takes a few hundredths, on a busy machine more.
MAX_RESPONSE_SECONDS = 10


def _all_kinds_of_requests(stack: Stack) -> tuple[dict[str, int], dict[str, str]]:
    """Make one request of each kind on a full disk; each gets an error at once.

    Returns the status codes by kind, and the header of the message that was refused.
    """
    client = stack.client
    create = {"name": "cyd", "role": "r" * 4_000, "local": True}
    requests: dict[str, Callable[[], httpx.Response]] = {
        "list": lambda: client.get("/lieutenant/lieutenants"),
        "transcript": lambda: client.get(f"{SENDS}/bea/transcript"),
        "page": lambda: client.get("/signin", follow_redirects=True),
        "vm": lambda: client.get("/registry/vms/vm-1"),
        "heartbeat": lambda: client.post("/registry/vms/vm-1/heartbeat", json={"load": 0.1}),
        "create": lambda: client.post("/lieutenant/lieutenants", json=create),
    }
    answered = {}
    for kind, request in requests.items():
        began = time.monotonic()
        answer = request()
        assert time.monotonic() - began < MAX_RESPONSE_SECONDS * PATIENCE, kind
        answered[kind] = answer.status_code
        if kind in ("list", "transcript", "vm"):
            assert answer.status_code == 200, kind
        elif answer.status_code >= 400 and kind != "page":
            assert answer.json() == FULL, kind
            assert answer.status_code == 507, kind
    assert answered["create"] in (201, 507)
    return answered, _refused(stack, "x" * 900_000 + "hello")


def _refused(stack: Stack, text: str) -> dict[str, str]:
    """Send a message until it is refused, and return its idempotency header.

    A message is accepted when the log of SQLite was just emptied: its file keeps its room.
    """
    number = 0

    def send() -> dict[str, str] | None:
        nonlocal number
        number += 1
        header = {"idempotency-key": f"{len(text)}-{number}"}
        began = time.monotonic()
        answer = stack.send("ada", text, **header)
        assert time.monotonic() - began < MAX_RESPONSE_SECONDS * PATIENCE
        if answer.status_code == 200:
            return None
        assert (answer.status_code, answer.json()) == (507, FULL)
        return header

    header: dict[str, str] = until(send, 30)
    return header
