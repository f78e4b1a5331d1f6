"""Only reef itself can use its sockets and read the memory of its processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from reef_site import hardening
from reef_site.launcher import lockfile
from tests.stack import EVENT_STREAM, TOKEN, Stack
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("private")) as stack:
        yield stack


def ask_web(stack: Stack, headers: dict[str, str], content: bytes = b"") -> httpx.Response:
    """Send a request to the web process without the edge."""
    transport = httpx.HTTPTransport(uds=str(stack.run / "web.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        return client.request("GET", "/vm-tree/vms", headers=headers, content=content)


def edge_key(stack: Stack) -> str:
    return (stack.data / "edge-key").read_text()


def test_web_answers_the_edge_only(stack: Stack) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    refusal = {"error": "this socket is for reef's edge only"}

    for key in ("", "nope", edge_key(stack)[:-1], "ü"):
        shown = {"Reef-Edge-Key": key} if key.isascii() else {}
        answer = ask_web(stack, {**token, **shown, "X-Forwarded-Proto": "https"}, b"x" * 40_000)
        assert (answer.status_code, answer.json()) == (403, refusal)
    assert ask_web(stack, {**token, "Reef-Edge-Key": edge_key(stack)}).status_code == 200
    assert ask_web(stack, {"Reef-Edge-Key": edge_key(stack)}).status_code == 401


def test_clients_cannot_set_internal_headers(stack: Stack) -> None:
    for name in ("Reef-Edge-Key", "Reef-Body-Withheld", "Reef-Takes-Files"):
        answer = stack.client.post("/vm-tree/vms", json={}, headers={name: "yes"})
        assert answer.status_code == 400
        assert "name" in answer.json()["error"]


@pytest.mark.rotated
def test_redis_asks_for_a_password(stack: Stack) -> None:
    path = str(stack.run / "redis.sock")
    password = (stack.data / "redis-password").read_text()
    with pytest.raises(RedisError, match=r"(?i)authenticat"):
        Redis(unix_socket_path=path).ping()
    with pytest.raises(AuthenticationError):
        Redis(unix_socket_path=path, password="nope").ping()
    assert Redis(unix_socket_path=path, password=password).ping()


def test_secrets_are_in_private_files_only(stack: Stack) -> None:
    secrets = [(stack.data / name).read_text() for name in ("edge-key", "redis-password")]
    for name in ("edge-key", "redis-password", "run/redis.conf"):
        assert stat.S_IMODE((stack.data / name).stat().st_mode) == 0o600
    stack.create("quiet")
    for secret in secrets:
        for log in stack.data.glob("*.log"):
            assert secret not in log.read_text(), log
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert secret.encode() not in entry.read_bytes()
            except OSError:
                continue


def test_notifications_work_with_password(stack: Stack) -> None:
    with stack.client.stream("GET", "/events", headers=EVENT_STREAM, timeout=20) as events:
        lines = events.iter_lines()
        assert "event: hello" in (next(lines), next(lines))
        stack.create("rung")
        assert any(line.startswith("event: lieutenants") for line in lines)
    assert stack.health()["broker"]["ok"]


# -- processes ---------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [
        below for child in children for below in descendants(int(child))
    ]


def status_of(pid: int, field: str) -> str:
    found = re.search(rf"^{field}:\s+(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return found[1]


PROGRAM = """
import ctypes, os
from reef_site.hardening import harden_process
harden_process()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), oct(os.umask(0)))
"""


def test_hardening_hides_a_process_and_its_new_files() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # PR_GET_DUMPABLE is 0: only root can read /proc/<pid>/environ and its memory.
    assert done.stdout.split() == ["0", "0o77"]


def test_all_processes_are_hardened(stack: Stack) -> None:
    """Hardened processes have the umask 0077, and root owns their /proc/<pid>."""
    for name in ("web", "edge", "worker", "beat"):
        leader = stack.processes[name].pid
        workers = [pid for pid in descendants(leader) if "granian" in cmdline(pid)]
        for pid in [leader, *workers] if name == "web" else [leader]:
            assert status_of(pid, "Umask") == "0077", (name, pid)
            if os.getuid() != 0:
                assert Path(f"/proc/{pid}").stat().st_uid == 0, (name, pid)


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_a_failure_to_harden_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.umask(0o022)
    monkeypatch.setattr(hardening, "_PR_SET_DUMPABLE", 987654)
    try:
        hardening.harden_process()
    finally:
        os.umask(before)

    assert "stays readable" in caplog.text


LEADER = """
import ctypes, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("here", flush=True)
time.sleep(60)
"""


def test_leftovers_are_found_without_their_environment(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout
        process.stdout.readline()
        assert lockfile.tagged(tmp_path) == []
        lockfile.record_process(tmp_path, process.pid)
        both = lockfile.tagged(tmp_path)
        assert process.pid in both
        assert len(both) == 2
        process.kill()
        process.wait()
        assert lockfile.tagged(tmp_path) == [pid for pid in both if pid != process.pid]
        assert lockfile.clear(tmp_path, 2.0) == 1
        assert not (tmp_path / lockfile.PROCESSES).exists()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_reused_pid_is_not_a_leftover(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        lockfile.record_process(tmp_path, process.pid)
        note = tmp_path / lockfile.PROCESSES
        assert process.pid in lockfile.tagged(tmp_path)
        pid, _, place = note.read_text().split()
        note.write_text(f"{pid} 1 {place}\n")
        assert lockfile.tagged(tmp_path) == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_half_sent_body_ends_quietly(stack: Stack) -> None:
    log = stack.data / "web.log"
    before = log.stat().st_size
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(stack.run / "web.sock"))
        connection.sendall(
            f"POST /vm-tree/vms HTTP/1.1\r\nHost: localhost\r\nReef-Edge-Key: {edge_key(stack)}\r\n"
            f"Content-Length: 100000\r\n\r\n{{".encode()
        )
    until(lambda: stack.is_responding())
    for _ in range(4):
        assert stack.is_responding()
    assert b"Traceback" not in log.read_bytes()[before:]


def test_a_copy_of_the_folder_has_no_leftovers(tmp_path: Path) -> None:
    folder, copy = tmp_path / "data", tmp_path / "copy"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        lockfile.record_process(folder, process.pid)
        shutil.copytree(folder, copy)
        assert process.pid in lockfile.tagged(folder)
        assert lockfile.tagged(copy) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
