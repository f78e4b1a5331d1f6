"""The edge in front of real processes: forwarding, limits and errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from reef_site.edge import file_offload, request_bodies, server, web_client
from tests.stack import EVENT_STREAM, TOKEN, Stack
from tests.waiting import PATIENCE, until

LIEUTENANTS = "/lieutenant/lieutenants"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("edge"), REEF_MAX_MESSAGE_BYTES=str(6 << 20)) as stack:
        yield stack


def raw(stack: Stack, *parts: bytes) -> tuple[int, bytes]:
    """Send raw bytes with `Connection: close`; return status and body of the response."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def request(line: str, *headers: str, host: str | None = "localhost", body: str = "") -> bytes:
    lines = [line, "Connection: close", f"Authorization: Bearer {TOKEN}", *headers]
    lines += [f"Host: {host}"] if host else []
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


# -- bodies ------------------------------------------------------------------------------------


@pytest.mark.rotated
def test_a_body_of_5_mb_passes(stack: Stack) -> None:
    stack.create("large")
    text = "é" * (5 << 19)

    assert stack.send("large", text).json()["sent"] is True

    until(lambda: stack.get("large")["status"] == "idle", 60)
    assert stack.texts("large", "user") == [text]


def test_a_body_of_17_mb_is_refused(stack: Stack) -> None:
    path = f"{LIEUTENANTS}/large/send"

    answer = stack.client.post(path, content=b"x" * (17 << 20))

    assert answer.status_code == 413
    assert answer.json() == {"error": f"body: more than {16 << 20} bytes"}
    assert stack.is_responding()


def test_a_chunked_body_is_bounded_too(stack: Stack) -> None:
    def much() -> Iterator[bytes]:
        for _ in range(17):
            yield b"x" * (1 << 20)

    answer = stack.client.post(f"{LIEUTENANTS}/large/send", content=much())

    assert answer.status_code == 413


def test_a_chunked_body_arrives_whole(stack: Stack) -> None:
    body = json.dumps({"name": "chunked", "role": "tests", "local": True}).encode()

    def bits() -> Iterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    answer = stack.client.post(f"{LIEUTENANTS}?wait=30", content=bits())

    assert (answer.status_code, answer.json()["name"]) == (201, "chunked")


def test_slow_bodies_do_not_delay_others(stack: Stack) -> None:
    head = request(f"POST {LIEUTENANTS} HTTP/1.1", "Content-Length: 100", body="{")
    slow = [socket.create_connection(("127.0.0.1", stack.port)) for _ in range(8)]
    try:
        for connection in slow:
            connection.sendall(head)
        began = time.monotonic()
        for _ in range(5):
            assert stack.client.get("/health", timeout=5).status_code == 200
        assert time.monotonic() - began < 3 * PATIENCE
    finally:
        for connection in slow:
            connection.close()


def test_body_that_never_arrives_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "BODY_PAUSE_SECONDS", 0.05)

    monkeypatch.setattr(request_bodies, "LINGER_SECONDS", 0.05)

    sent = asyncio.run(_ask_alone(_drip(at_once=1, pause=60)))

    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"]) == {"error": "body: did not come in time"}


def test_slow_body_becomes_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(request_bodies, "LINGER_SECONDS", 0.05)

    began = time.monotonic()
    sent = asyncio.run(_ask_alone(_drip(at_once=0, pause=0.05)))

    assert sent[0]["status"] == 408
    assert time.monotonic() - began < 5 * PATIENCE


def _drip(*, at_once: int, pause: float) -> request_bodies.Receive:
    left = at_once

    async def receive() -> request_bodies.Event:
        nonlocal left
        if left <= 0:
            await asyncio.sleep(pause)
        left -= 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    return receive


async def _ask_alone(receive: request_bodies.Receive) -> list[Any]:
    """Return the edge's own response to a POST, without a web process."""
    sent: list[Any] = []

    async def send(event: request_bodies.Event) -> None:
        sent.append(event)

    headers = [(b"host", b"localhost"), (b"content-length", b"1000")]
    scope = {"type": "http", "method": "POST", "path": LIEUTENANTS, "headers": headers}
    app = server.Edge()
    app._credentials = AcceptAllCredentials()
    await app({**scope, "query_string": b""}, receive, send)
    return sent


class AcceptAllCredentials:
    """Stand-in that accepts all credentials."""

    async def body_limit(self, scope: request_bodies.Scope) -> request_bodies.BodyLimit:
        return request_bodies.BodyLimit(request_bodies.MAX_BODY)


# -- what web sees -----------------------------------------------------------------------------


def _forwarded(**changes: Any) -> dict[bytes, bytes]:
    scope = {
        "method": "GET",
        "scheme": "http",
        "client": ("192.0.2.7", 1234),
        "headers": [(b"host", b"reef.example")],
        **changes,
    }
    size = changes.pop("size", 0)
    return dict(web_client.request_headers(scope, size))


def test_client_address_is_forwarded() -> None:
    kept = _forwarded(headers=[(b"host", b"reef.example"), (b"x-forwarded-for", b"6.6.6.6")])

    assert kept[b"host"] == b"reef.example"
    assert kept[b"x-forwarded-for"] == b"192.0.2.7"
    assert kept[b"x-forwarded-proto"] == b"http"


def test_hop_by_hop_and_ambiguous_headers_are_dropped() -> None:
    dropped = [b"connection", b"transfer-encoding", b"te", b"upgrade", b"keep-alive", b"expect"]
    dropped += [
        b"x_forwarded_for",
        b"reef_takes_files",
        b"content_length",
        b"forwarded",
        b"x-real-ip",
    ]
    kept = _forwarded(
        headers=[(b"host", b"h"), (b"x-own", b"1"), *((key, b"x") for key in dropped)]
    )

    own = {b"x-forwarded-for", b"x-forwarded-proto", b"reef-takes-files"}
    assert kept.keys() == {b"host", b"x-own", *own}


def test_content_length_matches_the_body() -> None:
    lying = [(b"host", b"h"), (b"content-length", b"999")]

    assert _forwarded(headers=lying, method="POST", size=5)[b"content-length"] == b"5"
    assert _forwarded(headers=lying, method="POST")[b"content-length"] == b"0"
    assert b"content-length" not in _forwarded(headers=lying)


# -- files that web leaves to the edge -----------------------------------------------------------


def test_a_snapshot_is_sent_by_the_edge(stack: Stack) -> None:
    made = stack.client.post("/vm-tree/snapshot").json()
    name = Path(made["snapshot"]).name
    file = stack.data / "snapshots" / name
    whole = file.read_bytes()
    path = f"/vm-tree/snapshots/{made['id']}/download"
    answer = stack.client.get(path)
    assert (answer.status_code, answer.content) == (200, whole)
    assert answer.headers["content-type"] == "application/vnd.sqlite3"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["content-length"] == str(len(whole))
    assert not {"reef-file", "reef-takes-files"} & answer.headers.keys()
    refused = httpx.get(f"{stack.client.base_url}{path}")
    assert refused.status_code == 401
    file.unlink()
    assert stack.client.get(path).status_code == 409


def test_files_are_sent_as_fast_as_the_client_reads(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DATA_DIR = tmp_path
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "vms-x.sqlite").write_bytes(b"0123456789")
    monkeypatch.setattr(file_offload, "AT_ONCE", 4)
    sent: list[Any] = []

    async def send(event: request_bodies.Event) -> None:
        sent.append(event)

    # Only files inside of the folder are sent.
    for name in ("vms-x.sqlite", "..%2Fsnapshots/vms-x.sqlite"):
        sent.clear()
        asyncio.run(file_offload.send_file(name, [(b"content-length", b"0")], send))
        assert sent[0]["headers"] == [(b"content-length", b"10")]
        assert [each["body"] for each in sent[1:]] == [b"0123", b"4567", b"89", b""]
    (tmp_path / "secret").write_bytes(b"x")
    sent.clear()
    for name in ("../secret", "..%2fsecret", "%2e%2e%2fsecret"):
        with pytest.raises(FileNotFoundError):
            asyncio.run(file_offload.send_file(name, [], send))
    assert sent == []


def test_unknown_hosts_are_refused(stack: Stack) -> None:
    refused = raw(stack, request("GET /signin/ HTTP/1.1", host="evil.example"))
    assert refused[0] == 400
    assert b"REEF_ALLOWED_HOSTS" in refused[1]
    # Such requests are not logged as errors.
    assert "evil.example" not in (stack.data / "web.log").read_text()
    assert raw(stack, request("GET /signin/ HTTP/1.1", host="localhost"))[0] == 200


def test_invalid_requests_are_refused(stack: Stack) -> None:
    smuggled = request(
        "POST /health HTTP/1.1", "Content-Length: 4", "Transfer-Encoding: chunked", body="0\r\n\r\n"
    )
    assert raw(stack, smuggled)[0] == 400
    assert raw(stack, request("GET /health HTTP/1.1", "Host: other")) == (
        400,
        b'{"error":"host: is given more than once"}',
    )
    assert raw(stack, request("OPTIONS * HTTP/1.1"))[0] == 400
    assert raw(stack, request("GET /a b HTTP/1.1"))[0] == 400
    assert raw(stack, request("POST /health HTTP/1.1", "Content-Length: -1"))[0] == 400
    assert raw(stack, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")[0] == 400
    assert stack.is_responding()


def test_blanks_around_the_values_of_headers_do_not_count(stack: Stack) -> None:
    paths = ("/vm-tree/vms", "/events", f"{LIEUTENANTS}/nobody/stream", "/registry/discover/infra")
    for path in paths:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        for empty in ("Authorization: Bearer ", "Authorization:  Bearer \t ", "Authorization: "):
            status, body = raw(stack, "\r\n".join([*lines, empty, "", ""]).encode())
            assert status == 401, (path, empty, body)
    blank = ("X-Foo: a ", "X-Bar:\t b\t", "X-Empty: ")
    assert raw(stack, request("GET /vm-tree/vms HTTP/1.1", *blank))[0] == 200
    assert raw(stack, request(f"GET {LIEUTENANTS}/nobody/stream HTTP/1.1", *blank))[0] == 404


def test_endless_headers_are_cut_off(stack: Stack) -> None:
    for endless in (b"X: " + b"x" * (1 << 18), b"X: y\r\n" * 40_000):
        with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /health HTTP/1.1\r\n" + endless)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(12) in (b"HTTP/1.1 431", b"")
    # A large body directly after the headers does not count as headers.
    body = "x" * (1 << 18)
    whole = request("POST /health HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    assert raw(stack, whole)[0] == 405


def test_old_clients_without_a_host(stack: Stack) -> None:
    assert raw(stack, request("GET /health HTTP/1.0", host=None))[0] == 200


def test_unusual_paths_are_forwarded(stack: Stack) -> None:
    for path in ("/%ff", "//lieutenant/lieutenants", "/%00", "/%zz", "/%2e%2e/etc", "/a%0d%0aX:1"):
        status, body = raw(stack, request(f"GET {path} HTTP/1.1"))
        assert (status, body) == (404, b'{"error":"not found"}'), path
    name = f"GET {LIEUTENANTS}/a%2Fb%20c HTTP/1.1"
    assert raw(stack, request(name)) == (404, b'{"error":"not found"}')


# -- responses ---------------------------------------------------------------------------------


def test_head_has_the_headers_of_get(stack: Stack) -> None:
    for path in ("/health", LIEUTENANTS, f"{settings.STATIC_URL}reef/base.css"):
        got, head = stack.client.get(path), stack.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert "transfer-encoding" not in head.headers


def test_an_unchanged_file_is_a_304_without_a_body(stack: Stack) -> None:
    got = stack.client.get(f"{settings.STATIC_URL}reef/base.css")
    since = {"If-Modified-Since": got.headers["last-modified"]}

    # Twice on one connection: an unexpected body would break the second response.
    with httpx.Client(base_url=stack.client.base_url, headers=since) as client:
        for _ in range(2):
            again = client.get(f"{settings.STATIC_URL}reef/base.css")
            assert (again.status_code, again.content) == (304, b"")


def test_multiple_cookies_are_kept(stack: Stack) -> None:
    path = httpx.URL(stack.manage("signin").strip()).path

    answer = stack.client.get(path, follow_redirects=False)

    assert answer.status_code == 302
    names = [cookie.split("=")[0] for cookie in answer.headers.get_list("set-cookie")]
    # Each reef has its own cookie names.
    assert sorted(name[: name.rindex("-")] for name in names) == ["reef-csrf", "reef-session"]


# -- waiting -----------------------------------------------------------------------------------


def test_wait_returns_the_state_after_the_start(stack: Stack) -> None:
    body = {"name": "waiter", "role": "tests", "local": True}

    at_once = stack.client.post(f"{LIEUTENANTS}", json={**body, "name": "hasty"})
    waited = stack.client.post(f"{LIEUTENANTS}?wait=30", json=body)

    assert (at_once.status_code, at_once.json()["status"]) == (201, "starting")
    assert (waited.status_code, waited.json()["status"]) == (201, "idle")
    assert "reef-wait" not in waited.headers


def test_wait_returns_the_reason_of_a_failed_start(stack: Stack) -> None:
    body = {"name": "nowhere", "role": "tests", "folder": str(stack.data.parent / "gone")}
    Path(body["folder"]).mkdir()
    # Agents of a reef that root runs have their own users; a group may grant access.
    os.chown(body["folder"], -1, 4242 if os.geteuid() == 0 else -1)
    Path(body["folder"]).chmod(0o2770)
    created = stack.client.post(LIEUTENANTS, json=body)
    assert created.status_code == 201, created.text
    until(lambda: stack.get("nowhere")["status"] == "idle")
    assert stack.client.post(f"{LIEUTENANTS}/nowhere/pause").status_code == 200
    Path(body["folder"]).rmdir()

    resumed = stack.client.post(f"{LIEUTENANTS}/nowhere/resume?wait=30")

    assert resumed.status_code == 200
    facts = stack.get("nowhere")
    assert facts["status"] == "error"
    assert "could not be started" in facts["error"]


def test_pause_responds_when_the_process_has_ended(stack: Stack) -> None:
    stack.create("pausing")
    (keeper,) = [
        json.loads(path.read_text())
        for path in stack.data.glob(f"lieutenants/{stack.get('pausing')['id']}/runs/*/keeper.json")
    ]
    assert _alive(keeper["agent_pid"])

    paused = stack.client.post(f"{LIEUTENANTS}/pausing/pause").json()
    assert paused == {"paused": True, "status": "paused", "error": None}

    assert not _alive(keeper["agent_pid"])
    resumed = stack.client.post(f"{LIEUTENANTS}/pausing/resume?wait=30").json()
    assert resumed == {"resumed": True, "status": "idle", "error": None}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- web is not running --------------------------------------------------------------------------


@pytest.mark.rotated
def test_edge_reports_missing_web_and_recovers(stack: Stack) -> None:
    stack.kill("web")
    try:
        for path in ("/lieutenant/hosts", "/events", f"{LIEUTENANTS}/large/stream"):
            answer = stack.client.get(path)
            assert answer.status_code == 502
            assert "web process is not there; nothing was done" in answer.json()["error"]
    finally:
        stack.start("web")
    until(stack.is_responding, 30)


def test_edge_warns_that_web_is_away_only_after_it_was_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers: list[httpx.Response | httpx.HTTPError] = [
        httpx.ConnectTimeout("it starts"),
        httpx.Response(200, stream=httpx.ByteStream(b"{}")),
        httpx.ConnectTimeout("it ended"),
    ]
    warnings = []

    def respond(_request: httpx.Request) -> httpx.Response:
        if isinstance(found := answers.pop(0), httpx.HTTPError):
            raise found
        return found

    async def work() -> None:
        edge = server.Edge()
        transport = httpx.MockTransport(respond)
        edge._parts.web = web_client.WebClient(httpx.AsyncClient(transport=transport))
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": headers}
        while answers:
            await edge({**scope, "query_string": b""}, _drip(at_once=0, pause=1), _take)
            warnings.append(caplog.text.count("WARNING"))

    asyncio.run(work())
    assert warnings == [0, 0, 1]
    assert "GET /health: web is away (it ended)" in caplog.text


async def _take(_event: request_bodies.Event) -> None:
    pass


def test_request_during_a_restart_of_web_succeeds(stack: Stack) -> None:
    """The edge retries connecting for a while, since an unsent request cannot be repeated."""
    stack.kill("web")
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(stack.client.get("/health").status_code)
    )
    asking.start()
    stack.start("web")
    asking.join(20)

    assert answers in ([200], [502])
    until(stack.is_responding, 30)


@pytest.mark.rotated
def test_truncated_web_response_closes_connection(stack: Stack) -> None:
    """Stop the web process by SIGSTOP during a request, then kill it."""
    process = stack.processes["web"]
    answers: list[httpx.Response] = []
    os.killpg(process.pid, signal.SIGSTOP)
    asking = threading.Thread(
        target=lambda: answers.append(stack.client.post(f"{LIEUTENANTS}/destroy-all"))
    )
    asking.start()
    time.sleep(0.3)  # The request was sent; there is no sign of when it is written.
    stack.kill("web")
    stack.start("web")
    asking.join(30)

    assert answers[0].status_code == 502
    assert "look before you repeat" in answers[0].json()["error"]
    until(stack.is_responding, 30)


def test_streams_and_waits_end_quietly_when_the_edge_stops(stack: Stack) -> None:
    stack.create("streamed")
    log = stack.data / "edge.log"
    before = log.stat().st_size
    with (
        stack.client.stream("GET", "/events", headers=EVENT_STREAM, timeout=30) as listing,
        stack.client.stream("GET", f"{LIEUTENANTS}/streamed/stream", timeout=30) as transcript,
    ):
        streams = [listing.iter_raw(), transcript.iter_raw()]
        assert all(next(each) for each in streams)
        stack.processes["edge"].send_signal(signal.SIGTERM)
        # An incomplete end would be an httpx.RemoteProtocolError.
        for each in streams:
            list(each)
    assert stack.processes["edge"].wait(10) in (0, -signal.SIGTERM)
    said = log.read_bytes()[before:].decode()
    assert "Exception" not in said
    assert "ERROR" not in said
    stack.start("edge")
    until(stack.is_responding, 30)


# -- few open files ------------------------------------------------------------------------------


@pytest.fixture
def few_files(stack: Stack) -> Iterator[int]:
    """Limit the open files of the edge."""
    pid = stack.processes["edge"].pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (180, before[1]))
    yield 180
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def opened(stack: Stack, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=20)
    connection.sendall(request)
    return connection


def test_streams_beyond_open_file_limit_are_refused(stack: Stack, few_files: int) -> None:
    fields = f"host: 127.0.0.1:{stack.port}\r\nauthorization: Bearer {TOKEN}"
    fields += "\r\naccept: text/event-stream"
    head = f"GET /events HTTP/1.1\r\n{fields}\r\n\r\n".encode()
    log = stack.data / "edge.log"
    before = log.stat().st_size
    with contextlib.ExitStack() as streams:
        made = [streams.enter_context(opened(stack, head)) for _ in range(few_files)]
        first = [stream.recv(1 << 16) for stream in made]
        statuses = [int(each.split(b" ")[1]) for each in first]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) > few_files // 3
        refused = first[statuses.index(503)]
        assert b"no room for another stream" in refused
        assert b"ulimit -n" in refused
        assert b"retry-after" in refused.lower()
        assert stack.client.get("/health").status_code == 200
        assert stack.client.get(LIEUTENANTS).status_code == 200
        assert log.read_text()[before:].count("no room for another") == 1
    until(lambda: opened(stack, head).recv(100).startswith(b"HTTP/1.1 200"))


def test_connections_beyond_open_file_limit_are_refused(stack: Stack, few_files: int) -> None:
    with contextlib.ExitStack() as idle:
        made = [idle.enter_context(opened(stack, b"G")) for _ in range(few_files + 50)]
        last = made[-1].recv(1 << 16)
        assert last.startswith(b"HTTP/1.1 503")
        assert b"no room for another connection" in last
    until(lambda: stack.client.get("/health").status_code == 200)
