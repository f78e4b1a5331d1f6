"""Bench of the keeper: `python tests/bench/keeper.py`. Prints numbers without judging them.

Start time (median of 20), resident memory, journal against raw output for an answer of 20,000
characters in 2,500 deltas from an agent that repeats itself, lines a second, and idle CPU.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from lieutenants.supervision.keeper.program import program  # noqa: E402

KEEPER = [
    sys.executable,
    "-I",
    "-S",
    str(Path(tempfile.mkdtemp()) / "keeper.pyz"),
]
STANDIN = [sys.executable, "-S", str(HERE.parent / "agents" / "standin.py")]
STREAM = """
import json, os, sys, time
fat, rate = sys.argv[1] == "fat", float(sys.argv[2])
encode = json.JSONEncoder(separators=(",", ":")).encode
text, raw = "", 0
def say(event):
    global raw
    raw += os.write(1, (encode(event) + "\\n").encode())
for number in range(int(sys.argv[3])):
    delta = "%7d " % number
    text += delta
    message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    inner = {"type": "text_delta", "contentIndex": 0, "delta": delta}
    if fat:
        inner["partial"] = message
    event = {"type": "message_update", "assistantMessageEvent": inner}
    say({**event, "message": message} if fat else event)
    if rate:
        time.sleep(1 / rate)
say({"type": "message_end", "message": message})
say({"type": "raw", "bytes": raw})
sys.stdin.read()
"""


def stream(kind: str, rate: float = 0, deltas: int = 2500) -> list[str]:
    """Return the command of an agent that writes deltas of 8 characters, then waits."""
    return [sys.executable, "-S", "-c", STREAM, kind, str(rate), str(deltas)]


class Run:
    """An agent under a keeper."""

    def __init__(self, root: str, argv: list[str]) -> None:
        self.dir = Path(tempfile.mkdtemp(dir=root)) / "run"
        spec: dict[str, Any] = {"run": "bench", "dir": str(self.dir), "cwd": root, "argv": argv}
        spec["env"] = {"PATH": os.environ["PATH"], "REEF_BENCH": str(self.dir)}
        spec["tag"] = f"REEF_BENCH={self.dir}"
        begun = time.perf_counter()
        done = subprocess.run(
            [*KEEPER, "start"], input=json.dumps(spec).encode(), capture_output=True, check=True
        )
        self.seconds = time.perf_counter() - begun
        self.pid = int(json.loads(done.stdout)["keeper_pid"])

    def ask(self, **request: Any) -> None:
        subprocess.run(
            [*KEEPER, "call", str(self.dir)],
            input=json.dumps(request).encode(),
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def wait_for(self, mark: bytes) -> bytes:
        """Return the journal once it contains these bytes."""
        while mark not in (journal := (self.dir / "journal.jsonl").read_bytes()):
            time.sleep(0.02)
        return journal

    def status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

    def cpu(self) -> float:
        """Return the seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.ask(op="stop", grace=1)
        while self.is_alive():
            time.sleep(0.01)

    def is_alive(self) -> bool:
        """Return whether the process runs; False also for a zombie."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"


def bench_start(root: str) -> None:
    runs = [Run(root, STANDIN) for _ in range(20)]
    times = sorted(run.seconds * 1000 for run in runs)
    resident = [run.status("VmRSS") for run in runs]
    print(f"start: median {statistics.median(times):.0f} ms, worst {times[-1]:.0f} ms (20 runs)")
    print(f"fresh: {statistics.median(resident) / 1024:.1f} MB resident")
    for run in runs:
        run.stop()


def bench_answer(root: str, title: str, argv: list[str]) -> None:
    run = Run(root, argv)
    begun = time.perf_counter()
    journal = run.wait_for(b'"type":"raw"')
    seconds = time.perf_counter() - begun
    records = [json.loads(line) for line in journal.splitlines()]
    text = sum(len(record[2]) for record in records if record[0] == "t")
    raw = records[-1][2]["bytes"]
    print(
        f"{title}: {text} chars, raw {raw / 1e6:.2f} MB in {seconds:.2f} s ->"
        f" journal {len(journal) / 1e3:.0f} kB = {len(journal) / text:.2f} x the text;"
        f" keeper {run.cpu():.2f} s CPU, {run.status('VmRSS') / 1024:.1f} MB resident"
        f" (peak {run.status('VmHWM') / 1024:.1f})"
    )
    run.stop()


def bench_idle(root: str, seconds: float = 10.0) -> None:
    run = Run(root, STANDIN)
    run.ask(op="state")
    cpu, switches = run.cpu(), run.status("voluntary_ctxt_switches")
    time.sleep(seconds)
    woken = run.status("voluntary_ctxt_switches") - switches
    print(f"idle for {seconds:.0f} s: {run.cpu() - cpu:.2f} s CPU, woken {woken} times")
    run.stop()


def main() -> None:
    Path(KEEPER[-1]).write_bytes(program())
    with tempfile.TemporaryDirectory() as root:
        bench_start(root)
        bench_answer(root, "fat agent, burst", stream("fat"))
        bench_answer(root, "slim agent, burst", stream("slim"))
        bench_answer(root, "slim agent, 20 deltas/s (not joinable)", stream("slim", 20, 200))
        bench_answer(root, "slim agent, 50,000 deltas", stream("slim", 0, 50_000))
        bench_idle(root)


if __name__ == "__main__":
    main()
