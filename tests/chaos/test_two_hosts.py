"""Two hosts with their own data folders share one PostgreSQL; one of them goes away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.postgres import Cluster
from tests.stack import Stack
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]

AT = "/lieutenant/lieutenants"
ASKED = "asked; host box1 does not answer"


@pytest.fixture
def address(postgres_cluster: Cluster) -> str:
    return (
        f"postgres://reef@/{postgres_cluster.create('reef_template')}?host={postgres_cluster.home}"
    )


@pytest.fixture
def two(address: str, tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    key = "L4rF3b0r1ZyUuUw5Hq4xq0m6b9dB0cFzj1rWm7r0u2E="
    env = {"DATABASE_URL": address, "REEF_CONFIG_KEYS": key}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        Stack(tmp_path / "two", REEF_HOST="box2", **env) as second,
        Stack(tmp_path / "one", REEF_HOST="box1", **env) as first,
    ):
        yield first, second


def agents_of(lieutenant_id: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_agent = b"standin.py" in (entry / "cmdline").read_bytes()
            words = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if is_agent and f"REEF_LIEUTENANT={lieutenant_id}".encode() in words:
            found.append(int(entry.name))
    return found


def messages(stack: Stack, name: str, text: str) -> bool:
    return stack.texts(name) == [text]


@pytest.mark.rotated
def test_lost_host_is_detected_and_taken_over(two: tuple[Stack, Stack], address: str) -> None:
    first, second = two
    first.create("neo")
    second.create("trinity")
    neo = first.get("neo")["id"]
    assert second.get("neo")["host"] == "box1"
    assert second.health()["hosts"] == {"ok": True, "followed": 2, "silent": []}
    # From either host; each agent has one process.
    for stack, name in ((second, "neo"), (first, "trinity")):
        assert stack.send(name, "hello").status_code == 200
        until(partial(messages, stack, name, "echo: hello"), 30)
        stack.wait_idle(name)
    agents = agents_of(neo)
    assert len(agents) == 1

    for part in ("beat", "worker", "edge", "web", "redis"):
        first.kill(part)
    with psycopg.connect(address, autocommit=True) as database:
        database.execute(
            "UPDATE lieutenants_datafolder SET seen_at = seen_at - interval '5 minutes'"
            " WHERE host = 'box1'"
        )
    part = second.health()["hosts"]
    assert "1 lieutenant belongs to it: host box1 does not answer since" in part["why"]
    assert second.client.get("/health").json()["status"] == "degraded"
    assert second.get("neo")["trouble"].startswith("host box1 does not answer since")
    assert "trouble" not in second.get("trinity")
    assert second.send("neo", "are you there").json()["note"] == ASKED
    began = time.monotonic()
    answer = second.client.post(f"{AT}/neo/pause", json={"force": True})
    assert time.monotonic() - began < 5 * PATIENCE
    assert answer.json() == {"paused": False, "asked": True, "note": ASKED}
    assert "its agent may still run there" in second.get("neo")["trouble"]

    # The other host has neither started nor ended anything.
    assert agents_of(neo) == agents
    assert "neo: taken over from box1; its session is on box1" in second.manage("adopt", "box1")
    facts = second.get("neo")
    assert (facts["status"], facts["host"]) == ("paused", "box2")
    assert "Its session is on box1" in facts["error"]
    assert second.health()["hosts"]["ok"]
    assert agents_of(neo) == agents

    # The first host comes back: it ends the adopted agent and takes nothing.
    for part in ("redis", "web", "edge", "worker"):
        first.start(part)
    until(lambda: not agents_of(neo), 60)
    assert second.get("neo")["host"] == "box2"
    # The session stayed on the first host, and that is reported.
    refused = second.client.post(f"{AT}/neo/resume?wait=60").json()
    assert refused["status"] == "error"
    assert "start it with a new session" in second.get("neo")["error"] + refused["error"]
    anew = second.client.post(f"{AT}/neo/restart?wait=60", json={"session": "new"}).json()
    assert anew["status"] in ("idle", "working"), anew
    # The message waited for box1.
    until(lambda: "echo: are you there" in second.texts("neo"), 30)
    assert second.texts("neo").count("echo: are you there") == 1
    assert len(agents_of(neo)) == 1
    # The agent's output after the last commit is kept in its journal.
    kept = first.data / "lieutenants" / neo / "runs"
    assert list(kept.glob("*/journal.jsonl"))
    shutil.rmtree(kept)
