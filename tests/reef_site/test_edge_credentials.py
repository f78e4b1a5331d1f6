"""Bodies are read only with valid credentials and within the limits."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from reef_site.edge import request_bodies, server
from tests.stack import TOKEN, Stack
from tests.waiting import PATIENCE, until

LIEUTENANTS = "/lieutenant/lieutenants"
HEARTBEATS = "/registry/heartbeats"
MIB = 1 << 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("credentials")) as stack:
        yield stack


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def head(path: str, length: int, headers: dict[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def connect(stack: Stack) -> socket.socket:
    return socket.create_connection(("127.0.0.1", stack.port), timeout=20)


def answer_to(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """Return status, headers and body of the first response."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, str(response.headers).encode(), response.read()


def bytes_held(stack: Stack) -> int:
    """Return the memory of the edge in bytes."""
    pid = stack.processes["edge"].pid
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def temporary_bytes(stack: Stack) -> int:
    """Return the bytes in unnamed files that the edge holds open."""
    total = 0
    for link in Path(f"/proc/{stack.processes['edge'].pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "(deleted)" in str(link.readlink()):
                total += link.stat().st_size
    return total


# -- permissions -------------------------------------------------------------------------------


ANYWHERE = [LIEUTENANTS, HEARTBEATS, "/registry/vms/x/heartbeat", "/lieutenants/", "/vm-tree/vms"]


@pytest.mark.rotated
@pytest.mark.parametrize("path", ANYWHERE)
@pytest.mark.parametrize("headers", [{}, bearer("nope"), bearer("reef_nope")], ids=str)
def test_anonymous_requests_are_refused_after_the_headers(
    stack: Stack, path: str, headers: dict[str, str]
) -> None:
    with connect(stack) as connection:
        connection.sendall(head(path, 15 * MIB, headers))
        status, answer_head, body = answer_to(connection)

    assert status == (302 if path == "/lieutenants/" else 401), body
    assert b"connection: close" in answer_head.lower()
    if status == 401:
        reason = "invalid token" if headers else "missing Authorization header"
        assert json.loads(body) == {"error": f"Unauthorized — {reason}"}


@pytest.mark.parametrize("headers", [{}, bearer("reef_nope")], ids=str)
@pytest.mark.parametrize("path", [HEARTBEATS, LIEUTENANTS])
def test_anonymous_bodies_use_no_memory(stack: Stack, path: str, headers: dict[str, str]) -> None:
    before = bytes_held(stack)
    most = on_disk = 0
    connections = [connect(stack) for _ in range(60)]
    try:
        for connection in connections:
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.sendall(head(path, 16 * MIB, headers))
                for _ in range(15):
                    connection.sendall(b"x" * MIB)
            most = max(most, bytes_held(stack))
            on_disk = max(on_disk, temporary_bytes(stack))
        assert stack.is_responding()
        most = max(most, bytes_held(stack))
    finally:
        for connection in connections:
            connection.close()

    assert most - before < 40 * MIB
    assert on_disk == 0


def test_bodies_with_a_token_use_limited_memory(stack: Stack) -> None:
    before = bytes_held(stack) + temporary_bytes(stack)
    refused, most = 0, 0
    connections = [connect(stack) for _ in range(40)]
    try:
        for connection in connections:
            connection.settimeout(10)
            with contextlib.suppress(OSError):
                connection.sendall(head(HEARTBEATS, 16 * MIB, bearer(TOKEN)))
                for _ in range(15):
                    connection.sendall(b"x" * MIB)
            most = max(most, bytes_held(stack) + temporary_bytes(stack))
        for connection in connections:
            connection.settimeout(0.1)
            with contextlib.suppress(TimeoutError, http.client.BadStatusLine, ConnectionError):
                status, answer_head, body = answer_to(connection)
                assert status == 503
                assert b"retry-after" in answer_head.lower()
                assert "try again soon" in json.loads(body)["error"]
                refused += 1
        # Small bodies have a separate budget.
        assert stack.client.post(HEARTBEATS, json={"ids": ["x"]}).status_code == 200
    finally:
        for connection in connections:
            connection.close()

    assert refused > 0
    assert most - before < 450 * MIB
    until(lambda: temporary_bytes(stack) == 0)
    assert stack.client.post(LIEUTENANTS, content=b"{" + b" " * MIB).status_code == 400


def test_100_continue_follows_valid_credentials(stack: Stack) -> None:
    expect = {"Expect": "100-continue"}
    for path in (HEARTBEATS, LIEUTENANTS, "/vm-tree/vms"):
        with connect(stack) as connection:
            connection.sendall(head(path, 15, {**expect, **bearer("reef_nope")}))
            assert connection.recv(13) == b"HTTP/1.1 401 "
        with connect(stack) as connection:
            body = b'{"ids": ["no"]}'
            connection.sendall(head(path, len(body), {**expect, **bearer(TOKEN)}))
            assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            assert answer_to(connection)[0] in (200, 400)


def test_node_token_is_valid_until_it_is_revoked(stack: Stack) -> None:
    stack.client.post("/vm-tree/vms", json={"name": "n", "category": "swarm_vm", "vmId": "n-1"})
    issued = stack.client.post("/vm-tree/vms/n-1/token")
    assert issued.status_code in (200, 201), issued.text
    node = bearer(issued.json()["token"])
    url = f"{stack.client.base_url}{HEARTBEATS}"

    # The content of the body does not matter.
    assert httpx.post(url, content=b" " * 70_000 + b'{"ids":[]}', headers=node).status_code == 200
    stack.client.delete("/vm-tree/vms/n-1/token")
    with connect(stack) as connection:
        connection.sendall(head(HEARTBEATS, 70_000, node))
        assert answer_to(connection)[0] == 401


def signed_in(stack: Stack) -> httpx.Client:
    client = httpx.Client(base_url=stack.client.base_url, timeout=30, follow_redirects=False)
    path = httpx.URL(stack.manage("signin").strip()).path
    assert client.get(path).status_code == 302
    return client


def test_session_is_valid_until_its_end(stack: Stack) -> None:
    with contextlib.closing(signed_in(stack)) as client:
        token = next(value for name, value in client.cookies.items() if "csrf" in name)
        form = {"csrfmiddlewaretoken": token, "name": "x" * 200_000}
        url = "/lieutenants/"
        origin = {"Origin": str(client.base_url)}
        taken = client.post(url, data=form, headers=origin)
        assert taken.status_code not in (302, 401, 403, 413), taken.text[:500]
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        client.post("/signout/", data={"csrfmiddlewaretoken": token}, headers=origin)

    with connect(stack) as connection:
        connection.sendall(head("/lieutenants/", 200_000, {"Cookie": cookies}))
        status, answer_head, _ = answer_to(connection)
    assert status == 302
    assert b"/signin/" in answer_head


def test_anonymous_forms_are_limited(stack: Stack) -> None:
    for path in ("/signin/", "/admin/login/"):
        page = httpx.get(f"{stack.client.base_url}/signin/")
        cookie = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
        csrf = next(value for name, value in page.cookies.items() if "csrf" in name)
        form = urlencode({"csrfmiddlewaretoken": csrf, "username": "a", "password": "b"})
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        answer = httpx.post(f"{stack.client.base_url}{path}", content=form, headers=headers)
        assert answer.status_code in (200, 302), path
        with connect(stack) as connection:
            connection.sendall(head(path, (64 << 10) + 1, headers))
            status, _, body = answer_to(connection)
        assert (status, json.loads(body)) == (413, {"error": f"body: more than {64 << 10} bytes"})


def test_anonymous_chunked_body_is_not_read(stack: Stack) -> None:
    lines = f"POST {LIEUTENANTS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(stack) as connection:
        connection.sendall(lines.encode())
        assert answer_to(connection)[0] == 401


def test_credentials_in_a_trailer_are_ignored(stack: Stack) -> None:
    lines = f"POST {LIEUTENANTS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    rest = f"2\r\n{{}}\r\n0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    for parts in ([lines + rest], [lines, rest], [lines + rest[:7], rest[7:]]):
        with connect(stack) as connection:
            for part in parts:
                connection.sendall(part.encode())
            assert answer_to(connection)[0] == 401, parts


def test_trailers_without_end_are_cut_off(stack: Stack) -> None:
    lines = f"POST {LIEUTENANTS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    lines += f"Authorization: Bearer {TOKEN}\r\n\r\n2\r\n{{}}\r\n"
    for endless in (
        b"0\r\n" + b"X: y\r\n" * 100_000,
        b"0\r\nX: " + b"y" * 600_000,
        b"1;" * 300_000,
    ):
        with connect(stack) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(lines.encode() + endless)
            assert answer_to(connection)[0] == 431


# -- unread bodies do not affect others -----------------------------------------------------------


UNREAD = ["/vers-config/history/1/undo", f"{LIEUTENANTS}/nobody/resume", "/bootloader/token"]


def statuses(stack: Stack, count: int, body: bytes, tokens: list[str]) -> list[int]:
    """Post to routes that respond without reading the body, on one connection if it stays open."""
    client = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    found = []
    for number in range(count):
        token = tokens[number % len(tokens)]
        client.request("POST", UNREAD[number % 3], body=body, headers=bearer(token))
        answer = client.getresponse()
        answer.read()
        found.append(answer.status)
    client.close()
    return found


@pytest.mark.rotated
def test_unread_bodies_do_not_affect_other_clients(stack: Stack) -> None:
    large = b'{"a":"' + b"x" * 40_000 + b'"}'
    with ThreadPoolExecutor(2) as pool:
        outsider = pool.submit(statuses, stack, 1000, large, [TOKEN, TOKEN, "nope"])
        bystander = pool.submit(statuses, stack, 1000, b"{}", [TOKEN])
        failures = [each for each in outsider.result() + bystander.result() if each >= 500]

    assert failures == []


# -- limits for each address: without processes ---------------------------------------------------


class AcceptAllCredentials:
    """Stand-in that accepts all credentials."""

    async def body_limit(self, scope: request_bodies.Scope) -> request_bodies.BodyLimit:
        return request_bodies.BodyLimit(request_bodies.MAX_BODY)


async def _post(
    app: server.Edge, client: str, receive: request_bodies.Receive, length: int = 100_000
) -> list[Any]:
    sent: list[Any] = []

    async def send(event: request_bodies.Event) -> None:
        sent.append(event)

    headers = [(b"host", b"localhost"), (b"content-length", b"%d" % length)]
    scope = {"type": "http", "method": "POST", "path": LIEUTENANTS, "headers": headers}
    await app({**scope, "query_string": b"", "client": (client, 1)}, receive, send)
    return sent


def _never() -> tuple[request_bodies.Receive, asyncio.Event]:
    ending = asyncio.Event()

    async def receive() -> request_bodies.Event:
        await ending.wait()
        return {"type": "http.disconnect"}

    return receive, ending


def test_one_address_gets_only_a_part_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "LINGER_SECONDS", 0.05)

    async def play() -> dict[str, int]:
        app = server.Edge()
        app._credentials = AcceptAllCredentials()
        app._budget = request_bodies.BodyBudget(total=1_000_000, per_address=150_000)
        receive, ending = _never()
        first = asyncio.create_task(_post(app, "192.0.2.1", receive))
        await asyncio.sleep(0)
        others = {}
        for client in ("192.0.2.1", "::ffff:192.0.2.1"):
            others[client] = (await _post(app, client, receive))[0]["status"]
        more = [asyncio.create_task(_post(app, f"192.0.2.{n}", receive)) for n in range(2, 9)]
        await asyncio.sleep(0)
        others["one too many"] = (await _post(app, "192.0.2.9", receive))[0]["status"]
        ending.set()
        await asyncio.gather(first, *more)
        return others

    began = time.monotonic()
    assert asyncio.run(play()) == {
        "192.0.2.1": 429,
        "::ffff:192.0.2.1": 429,
        "one too many": 503,
    }
    assert time.monotonic() - began < 5 * PATIENCE


def test_body_of_millions_of_lists_is_refused() -> None:
    """Web would need half a gigabyte and many seconds for it."""

    async def read(body: bytes) -> int:
        parts = [body[place : place + MIB] for place in range(0, len(body), MIB)]

        async def receive() -> request_bodies.Event:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        budget = request_bodies.BodyBudget(total=64 * MIB, per_address=64 * MIB)
        with request_bodies.Body(budget, "192.0.2.1") as taken:
            await taken.take_in(receive, len(body))
            return taken.size

    lists = b"[" + b",".join([b"[{}]"] * 200_000) + b"]"
    with pytest.raises(request_bodies.BodyTooLarge, match="more than 300000 brackets"):
        asyncio.run(read(lists))
    for body in (lists[: len(lists) // 2], os.urandom(15 * MIB), b"x" * 15 * MIB):
        assert asyncio.run(read(body)) == len(body)


# -- bodies without credentials --------------------------------------------------------------------


class NoCredentials:
    """Stand-in that finds no credentials and allows bodies of this size."""

    async def body_limit(self, scope: request_bodies.Scope) -> request_bodies.BodyLimit:
        return request_bodies.BodyLimit(64 << 10, is_anonymous=True)


def test_anonymous_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(request_bodies, "ANONYMOUS_BODY_SECONDS", 0.3)

    async def trickle() -> request_bodies.Event:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def play() -> int:
        app = server.Edge()
        app._credentials = NoCredentials()
        status: int = (await _post(app, "192.0.2.1", trickle, length=60_000))[0]["status"]
        return status

    began = time.monotonic()
    assert asyncio.run(play()) == 408
    assert time.monotonic() - began < 5 * PATIENCE


def test_bodies_without_credentials_have_a_separate_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_bodies, "LINGER_SECONDS", 0.05)

    async def play() -> list[int]:
        app = server.Edge()
        app._credentials = NoCredentials()
        app._anonymous_budget = request_bodies.BodyBudget(total=100_000, per_address=100_000)
        silent, ending = _never()
        # A declared length does not reserve memory.
        waiting = [
            asyncio.create_task(_post(app, f"192.0.2.{n}", silent, length=60_000))
            for n in range(20)
        ]
        await asyncio.sleep(0)
        first = asyncio.create_task(
            _post(app, "192.0.2.91", _incomplete_body(b"x" * 60_000, ending), 61_000)
        )
        await asyncio.sleep(0.01)
        second = await _post(app, "192.0.2.92", _incomplete_body(b"x" * 60_000, ending), 61_000)
        assert app._budget._held == 0
        assert app._anonymous_budget._held == 60_000
        ending.set()
        await asyncio.gather(first, *waiting)
        return [second[0]["status"], app._anonymous_budget._held]

    assert asyncio.run(play()) == [503, 0]


def _incomplete_body(chunk: bytes, ending: asyncio.Event) -> request_bodies.Receive:
    """Return a body of which only this part arrives."""
    chunks = [chunk]

    async def receive() -> request_bodies.Event:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(), "more_body": True}
        await ending.wait()
        return {"type": "http.disconnect"}

    return receive


def test_open_routes_check_credentials(stack: Stack) -> None:
    body = b'{"run": "' + b"x" * 70_000 + b'"}'
    answer = stack.client.post("/bootloader/report", content=body)
    assert answer.status_code not in (401, 413)
    stranger = httpx.post(f"{stack.client.base_url}/bootloader/report", content=body)
    assert stranger.status_code == 413
