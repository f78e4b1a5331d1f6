"""Requests that HTTP forbids: each gets a JSON error with the right status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from reef_site.edge import client_addresses, http_protocol
from reef_site.edge.client_addresses import ConnectionLimits
from tests.reef_site.test_http_protocol import App, _serve
from tests.stack import TOKEN, Stack
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"
GOOD = f"Authorization: Bearer {TOKEN}"
BAD = "Authorization: Bearer nope"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("http")
    with Stack(folder, REEF_MAX_LOOPBACK_CONNECTIONS="60") as stack:
        yield stack


def ask(stack: Stack, request: str | bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes; return status, headers and body of the response."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as connection:
        data = request if isinstance(request, bytes) else request.encode()
        connection.sendall(data)
        answer = b""
        # A client that is still sending may miss the end of the connection, but not the response.
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(1 << 16):
                answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split(" ")[1]), {key.lower(): value for key, _, value in pairs}, body


def lines(*fields: str, body: str = "") -> str:
    return "\r\n".join([*fields, "Connection: close", "", ""]) + body


HOST = "Host: localhost"
MALFORMED = [
    ("an unknown method", lines("FOO / HTTP/1.1", HOST), 405),
    ("a long URL", lines(f"GET /{'x' * 70_000} HTTP/1.1", HOST), 414),
    ("a rather long URL", lines(f"GET /health?{'x' * 40_000} HTTP/1.1", HOST), 414),
    ("many headers", lines("GET /health HTTP/1.1", HOST, *["X: y"] * 1500), 431),
    ("a long header", lines("GET /health HTTP/1.1", HOST, f"X: {'y' * 100_000}"), 431),
    (
        "a bad chunk",
        lines(f"POST {LIEUTENANTS} HTTP/1.1", HOST, GOOD, "Transfer-Encoding: chunked", body="zz"),
        400,
    ),
    ("no HTTP", "hello\r\n\r\n", 400),
    ("another protocol", "\x16\x03\x01\x02\r\n\r\n", 400),
    ("a bad length", lines("POST /health HTTP/1.1", HOST, "Content-Length: -1"), 400),
    ("a blank in the path", lines("GET /a b HTTP/1.1", HOST), 400),
    ("no host", lines("GET /health HTTP/1.1"), 400),
    ("two hosts", lines("GET /health HTTP/1.1", HOST, HOST), 400),
]


@pytest.mark.parametrize(("request_", "status"), [each[1:] for each in MALFORMED],
                         ids=[each[0] for each in MALFORMED])  # fmt: skip
def test_malformed_requests_are_refused_in_json(stack: Stack, request_: str, status: int) -> None:
    got, headers, body = ask(stack, request_)

    assert got == status, body
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]
    assert stack.is_responding()


def test_response_to_an_unknown_method_lists_the_known_ones(stack: Stack) -> None:
    assert "POST" in ask(stack, lines("FOO / HTTP/1.1", HOST))[1]["allow"]


def test_http_1_0_needs_no_host(stack: Stack) -> None:
    assert ask(stack, "GET /health HTTP/1.0\r\n\r\n")[0] == 200


ROUTES = [
    ("GET", "/registry/vms/x"),
    ("GET", "/registry/discover/infra"),
    ("POST", "/registry/vms/x/heartbeat"),
    ("POST", "/registry/heartbeats"),
    ("GET", "/events"),
    ("GET", f"{LIEUTENANTS}/nobody/stream"),
    ("GET", "/vm-tree/vms"),
    ("POST", LIEUTENANTS),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_two_authorization_headers_are_refused(stack: Stack, method: str, path: str) -> None:
    for pair in ((GOOD, BAD), (BAD, GOOD), (GOOD, GOOD)):
        status, _, body = ask(stack, lines(f"{method} {path} HTTP/1.1", HOST, *pair))
        assert (status, json.loads(body)) == (
            400,
            {"error": "authorization: is given more than once"},
        )


def test_stream_continues_only_after_a_number(stack: Stack) -> None:
    stack.create("told")
    path = f"{LIEUTENANTS}/told/stream"
    for wrong in ("abc", "-1", "", "1.5", "9" * 30, "٣"):
        answer = stack.client.get(path, params={"after": wrong})
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "after: must be a whole number, 0 or more"},
        ), wrong
    for good in ("0", "12"):
        with stack.client.stream("GET", path, params={"after": good}) as answer:
            assert answer.status_code == 200
    assert httpx.get(f"{stack.client.base_url}{path}?after=abc").status_code == 401


def test_pipelined_requests_are_not_taken_for_one_long_header(stack: Stack) -> None:
    one = f"GET /health HTTP/1.1\r\n{HOST}\r\n\r\n".encode()
    many = one * 2000 + lines("GET /health HTTP/1.1", HOST).encode()
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(many[: 1 << 17])
        got = b""
        # As many responses as fit.
        while got.count(b"HTTP/1.1 200") < 5:
            chunk = connection.recv(1 << 16)
            assert chunk
            got += chunk
    assert b"HTTP/1.1 4" not in got


def test_connections_of_one_address_are_limited(stack: Stack) -> None:
    made: list[socket.socket] = []
    try:
        made += [socket.create_connection(("127.0.0.1", stack.port), 10) for _ in range(70)]
        last = made[-1].recv(1 << 16)
        assert last.startswith(b"HTTP/1.1 429")
        assert b"too many connections from your address" in last
        # Another address of the same machine is another client.
        other = socket.create_connection(
            ("127.0.0.1", stack.port), timeout=10, source_address=("127.0.0.2", 0)
        )
        made.append(other)
        other.sendall(lines("GET /health HTTP/1.1", HOST).encode())
        assert other.recv(12) == b"HTTP/1.1 200"
    finally:
        for connection in made:
            connection.close()
    until(stack.is_responding)


def test_addresses_of_one_client_are_grouped() -> None:
    same = ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:0:1::")
    assert {client_addresses.client_key(each) for each in same} == {"2001:db8::/64"}
    assert client_addresses.client_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_addresses.client_key("::1") == "::1"
    assert client_addresses.client_key("fe80::1%eth0") == "fe80::/64"
    assert client_addresses.is_loopback("::1")
    assert client_addresses.is_loopback("127.0.0.9")
    assert not client_addresses.is_loopback("192.0.2.1")
    assert not client_addresses.is_loopback("2001:db8::/64")


def test_closed_connection_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol.Protocol, "limits", ConnectionLimits(1, loopback=2))

    async def play() -> list[bytes]:
        heads = []
        async with await _serve(App()) as server:
            host, port = server.sockets[0].getsockname()
            for _ in range(6):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                heads.append((await reader.read())[:12])
                writer.close()
                await writer.wait_closed()
        return heads

    assert asyncio.run(play()) == [b"HTTP/1.1 200"] * 6
