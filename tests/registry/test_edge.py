"""The hot routes in a reef that runs: without web, with tokens that come and go."""

from __future__ import annotations

import contextlib
import select
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.stack import EVENT_STREAM, ROOT, Stack, free_port
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("edge")) as running:
        for vm_id, parent in (("top", None), ("low", "top")):
            body: dict[str, Any] = {"name": vm_id, "parentVmId": parent}
            node = {**body, "vmId": vm_id, "category": "agent_vm"}
            assert running.client.post("/vm-tree/vms", json=node).status_code == 201
            vm = {**body, "id": vm_id, "role": "worker", "address": "x", "registeredBy": "t"}
            assert running.client.post("/registry/vms", json=vm).status_code == 201
        yield running


REGISTERED = {"id": "low", "name": "low", "role": "custom", "address": "y", "registeredBy": "t"}


def send_heartbeat(stack: Stack, vm_id: str, token: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return stack.client.post(f"/registry/vms/{vm_id}/heartbeat", headers=headers)


def new_token(stack: Stack, vm_id: str) -> str:
    answer = stack.client.post(f"/vm-tree/vms/{vm_id}/token")
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def test_edge_answers_heartbeats_and_reads_without_web(stack: Stack) -> None:
    token = new_token(stack, "top")
    of_top = {"authorization": f"Bearer {token}"}
    stack.kill("web")
    try:
        for _ in range(20):
            assert send_heartbeat(stack, "low").status_code == 200
            assert send_heartbeat(stack, "low", token).status_code == 200
        assert stack.client.post("/registry/heartbeats", json={"ids": ["top", "x"]}).json()[
            "unknown"
        ] == ["x"]
        assert stack.client.get("/registry/vms/low").json()["liveness"] == "live"
        assert stack.client.get("/registry/discover/worker").json()["count"] == 2
        line = stack.client.get("/registry/vms/low/ancestors").json()["ancestors"]
        assert [vm["id"] for vm in line] == ["top", "low"]
        assert stack.client.get("/registry/vms", headers=of_top).json()["count"] == 2
        assert stack.client.get("/vm-tree/tree", headers=of_top).json()["count"] == 2
        below = stack.client.get("/vm-tree/vms/top/descendants").json()["descendants"]
        node = {"name": "made", "vmId": "made", "parentVmId": "low", "category": "agent_vm"}
        assert stack.client.post("/vm-tree/vms", json=node, headers=of_top).status_code == 201
        found = stack.client.get("/vm-tree/vms/top/descendants").json()["descendants"]
        assert [each["vmId"] for each in found] == [*(each["vmId"] for each in below), "made"]
        assert stack.client.post("/registry/vms", json=REGISTERED).status_code == 201
        # An invalid body needs web, which writes the error.
        invalid = stack.client.post("/registry/vms/low/heartbeat", json={"status": "dead"})
        assert invalid.status_code == 502
    finally:
        stack.start("web")
    # Not without the query, which the edge would answer itself.
    until(lambda: stack.client.get("/registry/vms?limit=1").status_code == 200, 60)
    invalid = stack.client.post("/registry/vms/low/heartbeat", json={"status": "dead"})
    assert (invalid.status_code, invalid.json()["error"][:8]) == (400, "status: ")


@pytest.mark.parametrize("with_redis", [True, False])
def test_revoked_token_is_rejected_everywhere_within_a_second(
    stack: Stack, with_redis: bool
) -> None:
    token = new_token(stack, "low")
    mine = EVENT_STREAM | {"authorization": f"Bearer {token}"}
    paths = ["/registry/vms/low", "/registry/vms", "/vm-tree/vms", "/lieutenant/lieutenants"]
    if not with_redis:
        stack.kill("redis")
    try:
        assert send_heartbeat(stack, "low", token).status_code == 200
        for path in paths:
            assert stack.client.get(path, headers=mine).status_code == 200
        assert stack.client.delete("/vm-tree/vms/low/token").status_code == 200
        revoked = time.monotonic()
        assert send_heartbeat(stack, "low", token).status_code == 401
        for path in paths:
            assert stack.client.get(path, headers=mine).status_code == 401
        assert time.monotonic() - revoked < 1.0 * PATIENCE
    finally:
        if not with_redis:
            stack.start("redis")


@contextmanager
def running_second_edge(stack: Stack) -> Iterator[str]:
    """Run another edge on the same data; yield its URL."""
    port = free_port()
    words = [sys.executable, "-m", "reef_site.edge", "--host", "127.0.0.1", "--port", str(port)]
    edge = subprocess.Popen(words, cwd=ROOT, env=stack.env, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def is_responding() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health", timeout=2).status_code == 200
        return False

    try:
        until(is_responding, 60)
        yield url
    finally:
        edge.terminate()
        edge.wait(10)


def ask_all(client: httpx.Client, name: str) -> list[int]:
    """Return the statuses of reads and writes of the fast path."""
    of_low = "/registry/vms/low"
    node = {"name": name, "vmId": name, "parentVmId": "low", "category": "agent_vm"}
    answers = [
        client.post(f"{of_low}/heartbeat"),
        client.post(f"{of_low}/heartbeat", json={"load": 0.5}),
        client.post("/registry/heartbeats", json={"ids": ["low"]}),
        *(client.get(path) for path in (of_low, "/registry/vms", "/vm-tree/tree")),
        client.post("/registry/vms", json={**REGISTERED, "parentVmId": "top"}),
        client.post("/vm-tree/vms", json=node),
    ]
    return [answer.status_code for answer in answers]


def test_revoked_token_is_rejected_by_all_edges_within_a_second(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {new_token(stack, 'low')}"}
    with ExitStack() as open_ones:
        other = open_ones.enter_context(running_second_edge(stack))
        clients = [
            open_ones.enter_context(httpx.Client(base_url=url, headers=headers, timeout=30))
            for url in (str(stack.client.base_url), other)
        ]
        good = [200] * 6 + [201] * 2
        # Twice, since a repeated head is not parsed again.
        for name in ("first", "again"):
            for number, client in enumerate(clients):
                assert ask_all(client, f"{name}-{number}") == good
        assert stack.client.delete("/vm-tree/vms/low/token").status_code == 200
        revoked = time.monotonic()
        for client in clients:
            assert ask_all(client, "last") == [401] * 8
        assert time.monotonic() - revoked < 1.0 * PATIENCE


def test_repeated_chunked_bodies_are_read_each_time(stack: Stack) -> None:
    chunked = {"transfer-encoding": "chunked", "content-type": "application/json"}

    def send(load: int) -> httpx.Response:
        pieces = iter([b'{"load":', b"%d}" % load])
        return stack.client.post("/registry/vms/low/heartbeat", content=pieces, headers=chunked)

    for load in (1, 2, 3):
        assert send(load).status_code == 200
        assert stack.client.get("/registry/vms/low").json()["vitals"]["load"] == load
        declared = stack.client.post("/registry/vms/low/heartbeat", json={"load": load + 10})
        assert declared.status_code == 200
        assert stack.client.get("/registry/vms/low").json()["vitals"]["load"] == load + 10


def has_ended(answer: httpx.Response) -> bool:
    """Return whether the stream's last chunk has come."""
    line: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
    readable, _, _ = select.select([line], [], [], 0)
    return bool(readable) and line.recv(1 << 16, socket.MSG_PEEK)[-5:] in (b"", b"0\r\n\r\n")


@pytest.mark.parametrize("with_redis", [True, False])
def test_revoking_a_token_ends_its_streams_within_a_second(stack: Stack, with_redis: bool) -> None:
    above = EVENT_STREAM | {"authorization": f"Bearer {new_token(stack, 'top')}"}
    stack.create("heard", parentVmId="low")
    paths = ("/events", "/lieutenant/lieutenants/heard/stream")
    if not with_redis:
        stack.kill("redis")
    try:
        for path in paths:
            mine = EVENT_STREAM | {"authorization": f"Bearer {new_token(stack, 'low')}"}
            with (
                stack.client.stream("GET", path, headers=mine) as heard,
                stack.client.stream("GET", path, headers=above) as other,
                stack.client.stream("GET", path, headers=EVENT_STREAM) as of_root,
            ):
                assert {each.status_code for each in (heard, other, of_root)} == {200}
                streams = [each.iter_raw() for each in (heard, other, of_root)]
                assert all(next(stream) for stream in streams)
                assert stack.client.delete("/vm-tree/vms/low/token").status_code == 200
                revoked = time.monotonic()
                list(streams[0])
                assert time.monotonic() - revoked < 1.0 * PATIENCE, path
                assert not has_ended(other)
                assert not has_ended(of_root)
            assert stack.client.get(path, headers=mine).status_code == 401
    finally:
        stack.client.delete("/lieutenant/lieutenants/heard")
        if not with_redis:
            stack.start("redis")


def test_node_cannot_follow_transcripts_of_others(stack: Stack) -> None:
    stack.create("beside")
    path = "/lieutenant/lieutenants/beside/stream"
    try:
        mine = EVENT_STREAM | {"authorization": f"Bearer {new_token(stack, 'low')}"}
        answer = stack.client.get(path, headers=mine)
        assert (answer.status_code, answer.json()["error"][:6]) == (403, "rule: ")
    finally:
        stack.client.delete("/lieutenant/lieutenants/beside")


def test_node_reads_the_registry_and_writes_below_itself(stack: Stack) -> None:
    token = new_token(stack, "low")
    assert send_heartbeat(stack, "low", token).status_code == 200
    answer = send_heartbeat(stack, "top", token)
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("rule: ")
    mine = EVENT_STREAM | {"authorization": f"Bearer {token}"}
    assert stack.client.get("/registry/vms/top", headers=mine).status_code == 200


def test_restart_of_web_does_not_delay_heartbeats(stack: Stack) -> None:
    longest = 0.0

    def send_heartbeats_for(seconds: float) -> None:
        nonlocal longest
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            assert send_heartbeat(stack, "low").status_code == 200
            longest = max(longest, time.monotonic() - began)

    send_heartbeats_for(0.3)
    stack.kill("web")
    send_heartbeats_for(0.3)
    stack.start("web")
    send_heartbeats_for(1.5)
    assert longest < 1.0


def test_bulk_heartbeat_accepts_ten_thousand_ids(stack: Stack) -> None:
    ids = [f"unknown-{number}" for number in range(9_998)]
    answer = stack.client.post("/registry/heartbeats", json={"ids": ["top", *ids, "low"]})
    assert (answer.status_code, answer.json()["count"]) == (200, 2)
    assert answer.json()["unknown"] == ids


@pytest.mark.rotated
def test_sweep_and_edge_record_their_uptime(stack: Stack) -> None:
    def recorded_times() -> tuple[str | None, ...] | None:
        with sqlite3.connect(stack.data / "db.sqlite3") as database:
            found: tuple[str | None, ...] | None = database.execute(
                "SELECT ticked_at, door_at FROM registry_watch"
            ).fetchone()
            return found if found and all(found) else None

    first = until(recorded_times, 30)
    until(lambda: recorded_times() not in (None, first), 30)
