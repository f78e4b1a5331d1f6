"""The hot routes in a reef that runs: without web, with tokens that come and go."""

from __future__ import annotations

import select
import socket
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.stack import Stack
from tests.waiting import until


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


def beat(stack: Stack, vm_id: str, token: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return stack.client.post(f"/registry/vms/{vm_id}/heartbeat", headers=headers)


def new_token(stack: Stack, vm_id: str) -> str:
    answer = stack.client.post(f"/vm-tree/vms/{vm_id}/token")
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def test_beats_and_looks_are_answered_without_web(stack: Stack) -> None:
    token = new_token(stack, "top")
    stack.kill("web")
    try:
        for _ in range(20):
            assert beat(stack, "low").status_code == 200
            assert beat(stack, "low", token).status_code == 200
        assert stack.client.post("/registry/heartbeats", json={"ids": ["top", "x"]}).json()[
            "unknown"
        ] == ["x"]
        assert stack.client.get("/registry/vms/low").json()["liveness"] == "live"
        assert stack.client.get("/registry/discover/worker").json()["count"] == 2
        line = stack.client.get("/registry/vms/low/ancestors").json()["ancestors"]
        assert [vm["id"] for vm in line] == ["top", "low"]
        # What only web can say is a refusal in words, with the body that was read here.
        odd = stack.client.post("/registry/vms/low/heartbeat", json={"status": "dead"})
        assert odd.status_code == 502
    finally:
        stack.start("web")
    until(lambda: stack.client.get("/registry/vms").status_code == 200, 20)
    odd = stack.client.post("/registry/vms/low/heartbeat", json={"status": "dead"})
    assert (odd.status_code, odd.json()["error"][:8]) == (400, "status: ")


@pytest.mark.parametrize("with_redis", [True, False])
def test_a_revoked_token_is_refused_everywhere_within_a_second(
    stack: Stack, with_redis: bool
) -> None:
    token = new_token(stack, "low")
    mine = {"authorization": f"Bearer {token}"}
    doors = ["/registry/vms/low", "/registry/vms", "/vm-tree/vms", "/lieutenant/lieutenants"]
    if not with_redis:
        stack.kill("redis")
    try:
        assert beat(stack, "low", token).status_code == 200
        for door in doors:
            assert stack.client.get(door, headers=mine).status_code == 200
        assert stack.client.delete("/vm-tree/vms/low/token").status_code == 200
        revoked = time.monotonic()
        assert beat(stack, "low", token).status_code == 401
        for door in doors:
            assert stack.client.get(door, headers=mine).status_code == 401
        assert time.monotonic() - revoked < 1.0
    finally:
        if not with_redis:
            stack.start("redis")


def has_ended(answer: httpx.Response) -> bool:
    """Return whether the stream's last chunk has come."""
    line: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
    readable, _, _ = select.select([line], [], [], 0)
    return bool(readable) and line.recv(1 << 16, socket.MSG_PEEK)[-5:] in (b"", b"0\r\n\r\n")


@pytest.mark.parametrize("with_redis", [True, False])
def test_open_streams_end_within_a_second_when_their_token_is_revoked(
    stack: Stack, with_redis: bool
) -> None:
    above = {"authorization": f"Bearer {new_token(stack, 'top')}"}
    stack.create("heard", parentVmId="low")
    paths = ("/events", "/lieutenant/lieutenants/heard/stream")
    if not with_redis:
        stack.kill("redis")
    try:
        for path in paths:
            mine = {"authorization": f"Bearer {new_token(stack, 'low')}"}
            with (
                stack.client.stream("GET", path, headers=mine) as heard,
                stack.client.stream("GET", path, headers=above) as other,
                stack.client.stream("GET", path) as of_root,
            ):
                assert {each.status_code for each in (heard, other, of_root)} == {200}
                streams = [each.iter_raw() for each in (heard, other, of_root)]
                assert all(next(stream) for stream in streams)
                assert stack.client.delete("/vm-tree/vms/low/token").status_code == 200
                revoked = time.monotonic()
                list(streams[0])
                assert time.monotonic() - revoked < 1.0, path
                assert not has_ended(other)
                assert not has_ended(of_root)
            assert stack.client.get(path, headers=mine).status_code == 401
    finally:
        stack.client.delete("/lieutenant/lieutenants/heard")
        if not with_redis:
            stack.start("redis")


def test_a_node_follows_no_transcript_of_others(stack: Stack) -> None:
    stack.create("beside")
    path = "/lieutenant/lieutenants/beside/stream"
    try:
        mine = {"authorization": f"Bearer {new_token(stack, 'low')}"}
        answer = stack.client.get(path, headers=mine)
        assert (answer.status_code, answer.json()["error"][:6]) == (403, "rule: ")
    finally:
        stack.client.delete("/lieutenant/lieutenants/beside")


def test_a_node_reads_the_registry_and_writes_below_itself(stack: Stack) -> None:
    token = new_token(stack, "low")
    assert beat(stack, "low", token).status_code == 200
    answer = beat(stack, "top", token)
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("rule: ")
    mine = {"authorization": f"Bearer {token}"}
    assert stack.client.get("/registry/vms/top", headers=mine).status_code == 200


def test_beats_know_no_pause_while_web_ends_and_starts(stack: Stack) -> None:
    longest = 0.0

    def beat_for(seconds: float) -> None:
        nonlocal longest
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            assert beat(stack, "low").status_code == 200
            longest = max(longest, time.monotonic() - began)

    beat_for(0.3)
    stack.kill("web")
    beat_for(0.3)
    stack.start("web")
    beat_for(1.5)
    assert longest < 1.0


def test_ten_thousand_in_one_request(stack: Stack) -> None:
    ids = [f"unknown-{number}" for number in range(9_998)]
    answer = stack.client.post("/registry/heartbeats", json={"ids": ["top", *ids, "low"]})
    assert (answer.status_code, answer.json()["count"]) == (200, 2)
    assert answer.json()["unknown"] == ids


def test_sweep_and_door_give_signs_of_themselves(stack: Stack) -> None:
    def signs() -> tuple[str | None, ...] | None:
        with sqlite3.connect(stack.data / "db.sqlite3") as database:
            found: tuple[str | None, ...] | None = database.execute(
                "SELECT ticked_at, door_at FROM registry_watch"
            ).fetchone()
            return found if found and all(found) else None

    first = until(signs, 30)
    until(lambda: signs() not in (None, first), 30)
