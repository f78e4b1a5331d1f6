"""Bench of idle lieutenants: `python tests/bench/idle.py [number]`.

Runs `manage.py up` on a temporary data folder with the stand-in as agent, creates 100 lieutenants
through the API, waits until all are idle, and then measures for 20 s the memory and processor time
of reef's processes and the keepers. PSS divides shared memory among the processes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
STANDIN = CHECKOUT / "tests" / "agents" / "standin.py"
SECONDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reef:
    """`up` in a temporary folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.address = f"http://127.0.0.1:{free_port()}"
        agent = self.folder / "pi"
        # The interpreter itself, without a possible shim for `env python3`.
        agent.write_text(
            f"#!{sys.executable} -S\n"
            f"import runpy\nrunpy.run_path({str(STANDIN)!r}, run_name='__main__')\n"
        )
        agent.chmod(0o755)
        env = {**os.environ, "REEF_DATA_DIR": str(self.folder / "data"), "PI_PATH": str(agent)}
        port = self.address.rpartition(":")[2]
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--no-agent", "--port", port],
            cwd=CHECKOUT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, method: str, path: str, body: object = None) -> Any:
        token = (self.folder / "data" / "root-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait_up(self) -> None:
        while True:
            try:
                self.ask("GET", "/health")
            except (OSError, urllib.error.URLError):
                assert self.process.poll() is None, "up has ended"
                time.sleep(0.1)
            else:
                return

    def wait_idle(self, number: int) -> None:
        while True:
            rows = self.ask("GET", "/lieutenant/lieutenants")["lieutenants"]
            if sum(row["status"] == "idle" for row in rows) == number:
                return
            time.sleep(0.5)

    def close(self) -> None:
        try:
            self.ask("POST", "/lieutenant/lieutenants/destroy-all", {})
            while keepers(self.folder):
                time.sleep(0.2)
        finally:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


def parents() -> dict[int, int]:
    """Map the processes of this machine to their children."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = int(fields[1])
    return found


def descendants(root: int) -> list[int]:
    """Return a process and its descendants."""
    tree, found = parents(), [root]
    for pid in found:
        found += [child for child, parent in tree.items() if parent == pid]
    return found


def keepers(folder: Path) -> list[int]:
    """Return the keepers of this data folder, found by their working folders."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            here = os.readlink(entry / "cwd") if entry.name.isdigit() else ""
        except OSError:
            continue
        if here.startswith(str(folder)) and "/runs/" in here:
            found.append(int(entry.name))
    return found


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def role(pid: int) -> str:
    """Return the name of this process of reef."""
    line = command(pid)
    marks = {"valkey": "redis", "granian": "web", "reef_site.edge": "edge", "worker": "worker"}
    marks |= {" beat": "beat", "reef_site.launcher.supervisor": "up", "manage.py up": "up"}
    return next((name for mark, name in marks.items() if mark in line), line[:40])


def memory(pid: int) -> tuple[float, float]:
    """Return RSS and PSS in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return sizes["Rss"] / 1024, sizes["Pss"] / 1024


def cpu(pid: int) -> float:
    """Return the seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(reef: Reef) -> None:
    groups: dict[str, list[int]] = {}
    for pid in descendants(reef.process.pid):
        groups.setdefault(role(pid), []).append(pid)
    groups["keepers"] = keepers(reef.folder)
    before = {pid: cpu(pid) for pids in groups.values() for pid in pids}
    time.sleep(SECONDS)
    for name, pids in groups.items():
        rss = sum(memory(pid)[0] for pid in pids)
        pss = sum(memory(pid)[1] for pid in pids)
        used = sum(cpu(pid) - before[pid] for pid in pids)
        share = f"{rss / len(pids):.1f} MB RSS each, " if len(pids) > 1 else ""
        print(
            f"{name:8} {len(pids):4} processes: {rss:7.1f} MB RSS, {pss:7.1f} MB PSS, {share}"
            f"{100 * used / SECONDS:5.2f} % processor"
        )


def main(number: int) -> None:
    with tempfile.TemporaryDirectory(prefix="reef-idle-") as folder:
        reef = Reef(folder)
        try:
            reef.wait_up()
            begun = time.monotonic()
            for each in range(number):
                body = {"name": f"l{each}", "role": "bench", "local": True}
                reef.ask("POST", "/lieutenant/lieutenants", body)
            reef.wait_idle(number)
            print(
                f"{number} lieutenants idle {time.monotonic() - begun:.1f} s after the first POST"
            )
            measure(reef)
        finally:
            reef.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100)
