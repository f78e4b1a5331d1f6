"""Log lines: one for each record, and no input can control a log or a terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reef_site.common.log_lines import MAX_LINE_BYTES, LineFormatter, one_line
from tests.stack import STANDIN, free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
FORGED = "2026-11-29 12:00:00 INFO root token changed"
# The escape sequences of our colours on the terminal.
COLOUR = re.compile(r"\x1b\[\d+m([a-z ]+\|)\x1b\[0m")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain é 猫 text", "plain é 猫 text"),
        ("a\nb\r\nc", r"a\nb\r\nc"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x1b[2J\x9b1m", r"\x1b[2J\x9b1m"),
        ("\u202eabc\u200b\u2066\ufeff", r"\u202eabc\u200b\u2066\ufeff"),
        ("\u2028\u2029\x85\t\0", r"\u2028\u2029\x85\t\x00"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("wide\u00a0space\u2003", "wide\u00a0space\u2003"),
    ],
)
def test_control_and_format_characters_are_escaped(given: str, shown: str) -> None:
    assert one_line(given) == shown
    assert one_line(shown) == shown


@pytest.mark.parametrize("given", ["x" * 5000, "é" * 5000, "\x1b" * 5000, "x" * 2040 + "é" * 9])
def test_long_lines_are_truncated(given: str) -> None:
    assert MAX_LINE_BYTES - 8 < len(one_line(given).encode()) <= MAX_LINE_BYTES
    assert one_line(given).endswith("…")


def test_a_record_is_a_line_and_its_traceback_is_marked() -> None:
    formatter = LineFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError(f"bad\n{FORGED}\x1b[2J")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "said %s", (f"a\n{FORGED}",), sys.exc_info()
        )
    first, *rest = formatter.format(record).split("\n")

    assert first == rf"ERROR said a\n{FORGED}"
    assert rest
    assert all(line.startswith("  | ") for line in rest)
    assert "\x1b" not in "".join(rest)


# -- a real process on a terminal ----------------------------------------------------------------


class Terminal:
    """`manage.py up` on a pseudo-terminal, with its output recorded."""

    def __init__(self, data: Path) -> None:
        self.data, self.port = data, free_port()
        self.recorded = b""
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = {**keep, "REEF_DATA_DIR": str(data), "PI_PATH": str(STANDIN)}
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(self.port)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 1 << 16):
                self.recorded += data

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self._reader.join(5)
        os.close(self._ours)

    def send(self, data: bytes) -> None:
        """Send a request and disconnect in the middle of its body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("pty"))
    try:
        until(lambda: b"root token for the API" in terminal.recorded, 90)
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.end()


PATHS = [
    f"/x%0a{FORGED.replace(' ', '%20')}%1b]0;owned%07".encode(),
    b"/%1b[2J",
    b"/%e2%80%ae",
    b"/%0d",
    b"/%ff",
    b"/" + b"long" * 2000,
]


def test_logs_and_terminal_contain_only_printable_text(terminal: Terminal) -> None:
    token = (terminal.data / "root-token").read_text()
    base = f"http://127.0.0.1:{terminal.port}"
    agent = b"curl\x1b[2J"
    for path in PATHS:
        fields = b"Host: 127.0.0.1\r\nContent-Length: 10\r\nX-Forwarded-For: 1\r\n"
        fields += f"Authorization: Bearer {token}\r\n\r\n".encode()
        terminal.send(b"POST " + path + b" HTTP/1.1\r\n" + fields)
    terminal.send(b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: " + agent + b"\r\n\r\n")
    bearer = {"Authorization": f"Bearer {token}"}
    name = {"name": "x\u202ey", "role": "r", "local": True}
    httpx.post(f"{base}/lieutenant/lieutenants", json=name, headers=bearer)
    httpx.post(f"{base}/registry/vms/%1b%0a/heartbeat", json={"status": "\x1b\n"}, headers=bearer)
    log = terminal.data / "logs" / "edge.log"
    until(lambda: log.read_text().count("the client hung up") >= len(PATHS))
    terminal.end()

    for file in (terminal.data / "logs").glob("*.log"):
        lines = file.read_bytes().decode().split("\n")
        assert all(len(line.encode()) <= MAX_LINE_BYTES for line in lines), file
        assert not [line for line in lines if line.startswith(FORGED)], file
        assert not [line for line in lines if not is_text(line)], file
    shown = COLOUR.sub(r"\1", terminal.recorded.decode().replace("\r\n", "\n"))
    assert not [line for line in shown.split("\n") if not is_text(line)]
    assert rf"\n{FORGED}\x1b]0;owned\x07: the client hung up" in shown
    assert r"POST /\u202e: the client hung up" in shown


def is_text(line: str) -> bool:
    return not any(unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp") for each in line)
