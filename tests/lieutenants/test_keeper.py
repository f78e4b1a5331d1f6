"""The keeper with real processes: its journal, remaining processes, memory and disk use."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lieutenants.supervision.keeper import limits
from lieutenants.supervision.keeper.commands import Outbox
from lieutenants.supervision.keeper.journal import Journal
from lieutenants.supervision.keeper.json_lines import pack
from lieutenants.supervision.keeper.lines import Line
from lieutenants.supervision.keeper.outlines import outline
from lieutenants.supervision.keeper.pacing import Floods, Throttle
from lieutenants.supervision.keeper.processes import Process, find_remaining, sweep
from lieutenants.supervision.keeper.program import local_file
from lieutenants.supervision.keeper.recorder import Recorder
from tests.waiting import PATIENCE

HERE = Path(__file__).resolve().parent
KEEPER = local_file()
JOURNAL = "lieutenants.supervision.keeper.journal"
# Another interpreter for the keeper alone: it must run wherever an agent may live.
PYTHON = os.environ.get("KEEPER_PYTHON", sys.executable)
STANDIN = [sys.executable, "-S", str(HERE.parent / "agents" / "standin.py"), "--mode", "rpc"]
SAY = "import json, os, sys, time\ndef say(**event): print(json.dumps(event), flush=True)\n"

Record = list[Any]
T = TypeVar("T")


def python(code: str) -> list[str]:
    """Return the command of an agent given as code; `say` prints an event."""
    return [sys.executable, "-S", "-c", SAY + code]


def wait(condition: Callable[[], T], limit: float = 10.0) -> T:
    """Wait until the condition is true; return its value."""
    until = time.monotonic() + limit * PATIENCE
    while not (value := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
    return value


def lives(pid: int) -> bool:
    try:
        return Process(pid).state != b"Z"
    except OSError:
        return False


def status(pid: int, name: str) -> int:
    """Return a number of /proc/PID/status; sizes are in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


class Kept:
    """An agent under a keeper."""

    def __init__(self, root: Path, argv: list[str], **more: Any) -> None:
        self.dir = root / f"run-{uuid.uuid4().hex}"
        self.tag = f"REEF_LIEUTENANT={uuid.uuid4().hex}"
        env = {"PATH": os.environ["PATH"], **dict([self.tag.split("=")]), **more.pop("env", {})}
        base = {"run": self.dir.name, "dir": str(self.dir), "cwd": str(root), "tag": self.tag}
        self.spec = {**base, "argv": argv, "env": env, **more}
        self.answer: dict[str, Any] = {}

    def start(self) -> dict[str, Any]:
        command = [PYTHON, "-I", "-S", str(KEEPER), "start"]
        done = subprocess.run(
            command, input=json.dumps(self.spec).encode(), capture_output=True, timeout=20
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if answer["ok"] else 1)
        self.answer = self.answer or answer
        return answer

    @property
    def keeper_pid(self) -> int:
        return int(self.answer["keeper_pid"])

    @property
    def agent_pid(self) -> int:
        return int(self.answer["agent_pid"])

    def connect(self) -> socket.socket:
        directory = os.open(self.dir, os.O_RDONLY)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(f"/proc/self/fd/{directory}/control.sock")
        os.close(directory)
        return client

    @property
    def key(self) -> str:
        return (self.dir / "control.key").read_text()

    def ask(self, **request: Any) -> dict[str, Any]:
        with self.connect() as client:
            client.sendall(json.dumps({"key": self.key, **request}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(client.makefile().readline())
        return answer

    def send(self, ident: str, **line: Any) -> dict[str, Any]:
        return self.ask(op="send", id=ident, line={"id": ident, **line})

    def prompt(self, ident: str, message: str) -> dict[str, Any]:
        return self.send(ident, type="prompt", message=message, streamingBehavior="followUp")

    def records(self) -> list[Record]:
        lines = (self.dir / "journal.jsonl").read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]

    def kind(self, kind: str) -> list[Record]:
        return [record for record in self.records() if record[0] == kind]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [record[2] for record in self.kind("e") if record[2].get("type") == kind]

    def text(self) -> str:
        return "".join(record[2] for record in self.kind("t"))

    def end(self, limit: float = 15.0) -> dict[str, Any]:
        """Wait for the keeper's end; return the end record."""
        wait(lambda: not lives(self.keeper_pid), limit)
        *_, last = self.records()
        assert last[0] == "x", last
        end: dict[str, Any] = last[2]
        return end


Keep = Callable[..., Kept]


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    """Start agents; their processes end with the test."""
    made: list[Kept] = []

    def start(argv: list[str], **more: Any) -> Kept:
        kept = Kept(tmp_path, argv, **more)
        made.append(kept)
        assert kept.start()["ok"], kept.answer
        return kept

    yield start
    for kept in made:
        if lives(kept.keeper_pid):
            os.kill(kept.keeper_pid, signal.SIGKILL)
        sweep(kept.tag)


# --- the journal --------------------------------------------------------------------------------


def test_complete_run_is_recorded(keep: Keep) -> None:
    kept = keep(["sh", "-c", 'read line; echo "$line"; echo oops >&2; exit 3'])
    assert json.loads((kept.dir / "keeper.json").read_bytes()) == kept.answer
    assert kept.send("one", type="hello") == {"ok": True}

    end = kept.end()

    assert end == {"code": 3, "signal": None, "stderr": ["oops"], "stopped": False}
    begin, *middle, _ = kept.records()
    assert begin[2] == {name: kept.answer[name] for name in ("run", "agent_pid", "agent_started")}
    assert [[kind, what] for kind, _, what in middle] == [
        ["s", "one"],
        ["e", {"id": "one", "type": "hello"}],
    ]
    assert not (kept.dir / "control.sock").exists()


def test_stand_in_answer_is_recorded(keep: Keep) -> None:
    kept = keep(STANDIN, hello=[{"id": "hello-1", "type": "get_state"}])
    kept.prompt("p1", "TOOL please")
    wait(lambda: kept.events("agent_settled"))

    assert [record[2] for record in kept.kind("s")] == ["hello-1", "p1"]
    state, accepted = kept.events("response")
    assert state["data"]["model"] == {"provider": "standin", "id": "echo"}
    assert accepted == {"id": "p1", "type": "response", "command": "prompt", "success": True}
    assert kept.text() == "the tool said hi please"
    assert json.loads(kept.kind("c")[0][2]) == {"command": "echo hi"}
    start = kept.events("toolcall_start")[0]
    assert (start["contentIndex"], start["toolName"]) == (0, "bash")
    assert kept.events("message_start")[-1] == {
        "type": "message_start",
        "message": {"role": "assistant"},
    }
    assert [turn["stopReason"] for turn in kept.events("turn_end")] == ["toolUse", "stop"]
    assert kept.events("agent_end") == [
        {"type": "agent_end", "willRetry": False, "stopReason": "stop"}
    ]
    assert kept.events("message_end")[-1]["message"]["usage"]["output"] == 5


@pytest.mark.parametrize("mode", ["", "fat", "old,fat"])
def test_long_answer_needs_little_memory_and_disk(keep: Keep, mode: str) -> None:
    kept = keep(STANDIN, env={"STANDIN_MODE": mode})
    kept.prompt("p1", "TOKENS 2500 0")
    wait(lambda: kept.events("agent_end"), 30)

    text = " ".join(f"w{number}" for number in range(2500))
    assert kept.text() == text
    assert kept.events("message_end")[-1]["message"]["content"][0]["text"] == text
    assert kept.ask(op="state")["journal"] <= 5 * len(text)
    assert status(kept.keeper_pid, "VmRSS") <= 16 << 10


def test_slow_deltas_have_small_records(keep: Keep) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", "SLOW 2.7 " + " ".join(["1234567"] * 60))
    wait(lambda: kept.events("agent_settled"))

    deltas = b"".join(pack(record) for record in kept.kind("t"))
    assert len(kept.kind("t")) >= 50
    assert len(deltas) <= 3 * len(kept.text())


def test_split_lines_and_characters_are_joined(keep: Keep) -> None:
    code = """
line = json.dumps({"type": "x", "text": "größer 😀 \\u2028"}, ensure_ascii=False).encode()
for byte in line + b"\\n" + line + b"\\r\\n" + line:
    os.write(1, bytes([byte]))
"""
    kept = keep(python(code))
    kept.end()
    assert [event["text"] for event in kept.events("x")] == ["größer 😀 \u2028"] * 3


def test_lone_surrogates_and_huge_numbers_are_recorded(keep: Keep) -> None:
    code = r"""
update = '{"type":"message_update","assistantMessageEvent":{"type":"text_delta",%s}}'
for half in ("d83d", "de00", "d800"):
    print(update % ('"contentIndex":0,"delta":"\\u' + half + '"'))
print('{"type":"x","number":1e999,"more":[NaN,1.5]}')
print('{"type":"y","deep":' + "[" * 100000)
"""
    kept = keep(python(code))
    kept.end()
    assert kept.text() == "😀\ud800"
    assert kept.events("x")[0] == {"type": "x", "number": None, "more": [None, 1.5]}
    assert kept.kind("g")[0][3] > 100000


def test_huge_line_is_recorded_by_size_only(keep: Keep) -> None:
    code = """
os.write(1, b'{"type":"big","text":"')
for _ in range(50): sys.stdout.write("x" * 1000000)
print('"}')
say(type="after")
sys.stdin.read()
"""
    kept = keep(python(code))
    wait(lambda: kept.events("after"))
    (line,) = kept.kind("l")
    assert line[3] == 50_000_000 + len('{"type":"big","text":""}')
    assert line[2].startswith('{"type":"big","text":"xxx')
    assert len(line[2]) == 500
    assert status(kept.keeper_pid, "VmHWM") < 40 << 10


def test_essential_huge_lines_are_outlined(keep: Keep) -> None:
    code = """
message = {"role": "assistant", "content": [], "stopReason": "error", "errorMessage": "500"}
say(type="message_end", message=message)
big = {"role": "user", "content": "x" * 9000000}
compact = json.JSONEncoder(separators=(",", ":")).encode
inner = {"type": "text_delta", "contentIndex": 2, "delta": "hi", "partial": big}
print(compact({"type": "message_update", "assistantMessageEvent": inner, "message": big}))
print(compact({"type": "agent_end", "messages": [big], "willRetry": True}))
"""
    kept = keep(python(code))
    kept.end()
    assert kept.kind("t") == [["t", 2, "hi"]]
    assert kept.events("agent_end") == [
        {"type": "agent_end", "willRetry": True, "stopReason": "error", "errorMessage": "500"}
    ]
    assert not kept.kind("l")


def test_garbage_is_recorded_within_bounds(keep: Keep) -> None:
    kept = keep(python(r"os.write(1, b'\xff\xfe!\n[1]\n' + b'no json\n' * 5000)"))
    kept.end()
    first, second, *_ = records = kept.kind("g")
    assert (first[2], first[3]) == ("��!", 3)
    assert (second[2], second[3]) == ("[1]", 3)
    (more,) = kept.kind("m")
    assert len(records) == limits.ROWS_PER_MINUTE
    assert more[2] == "garbage"
    assert len(records) + more[3] == 5002
    assert sum(record[3] for record in records) + more[4] == 6 + 5000 * len("no json")


@pytest.mark.parametrize("kind", ["extension_error", "notify"])
def test_event_flood_is_limited_and_counted(keep: Keep, kind: str) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", f"FLOOD {kind} 60000 20000")
    wait(lambda: kept.events("agent_settled"), 30)
    kept.ask(op="stop")
    kept.end()

    name = "extension_ui_request" if kind == "notify" else kind
    recorded, summaries = kept.events(name), kept.kind("m")
    assert len(recorded) <= 2 * limits.ROWS_PER_MINUTE
    assert len(summaries) <= 6
    assert {record[2] for record in summaries} == {kind}
    assert len(recorded) + sum(record[3] for record in summaries) == 60000
    assert kept.text() == "flooded"


def test_events_without_rows_are_limited_too(keep: Keep) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", "FLOOD setStatus 10000 10000")
    kept.prompt("p2", "FLOOD my_own_event 10000 10000")
    wait(lambda: len(kept.events("turn_end")) == 2, 30)
    kept.ask(op="stop")
    kept.end()

    for kind, name in (("setStatus", "extension_ui_request"), ("my_own_event", "my_own_event")):
        recorded = len(kept.events(name))
        assert recorded <= limits.OTHERS_PER_MINUTE + 400
        more = sum(record[3] for record in kept.kind("m") if record[2] == kind)
        assert recorded + more == 10000


def test_too_many_kinds_share_one_counter(keep: Keep) -> None:
    code = 'for n in range(200000): os.write(1, b\'{"type":"k%d"}\\n\' % n)'
    kept = keep(python(code))
    kept.end(30)
    assert len(kept.kind("e")) <= limits.OTHERS_PER_MINUTE + limits.MAX_KINDS + 1000
    assert len(kept.kind("e")) + sum(record[3] for record in kept.kind("m")) == 200000
    assert {record[2] for record in kept.kind("m")} == {"other"}


def test_throttle_admits_a_burst_and_then_waits() -> None:
    pace = Throttle()
    for _ in range(limits.BURST):
        pace.count(10.0)
    assert pace.wait(10.0) == 0
    for _ in range(300):
        pace.count(10.0)
    assert pace.wait(10.0) == pytest.approx(300 / limits.STEADY_PER_SECOND)
    assert pace.wait(12.0) == pytest.approx(300 / limits.STEADY_PER_SECOND - 2)
    assert pace.wait(99.0) == 0


@pytest.mark.thorough
def test_essential_events_are_read_more_slowly(keep: Keep) -> None:
    code = """
message = {"role": "user", "content": "x"}
for _ in range(20000): say(type="message_end", message=message)
sys.stdin.readline()
"""
    kept = keep(python(code))
    wait(lambda: len(kept.events("message_end")) >= limits.BURST)
    begun, a_chunk = time.monotonic(), limits.READ_BYTES // 70
    wait(lambda: len(kept.events("message_end")) >= limits.BURST + 2 * a_chunk, 60)
    assert time.monotonic() - begun > a_chunk / limits.STEADY_PER_SECOND / 2
    assert kept.ask(op="state")["ok"]


class CountingJournal(Journal):
    """A journal that writes nothing."""

    def __init__(self) -> None:
        self.offered = 0

    def add(self, record: Record) -> None:
        self.offered += limits.RECORD_BYTES + len(json.dumps(record))


def test_journal_grows_by_a_burst_and_then_slowly() -> None:
    journal = CountingJournal()
    recorder = Recorder(journal, lambda _: None)
    end = {"type": "queue_update", "steering": ["x" * 100_000]}
    line = Line(data := json.dumps(end).encode(), len(data))
    now = 10.0
    while recorder.wait(now) == 0:
        recorder.take(line, now)
    burst = journal.offered
    assert limits.JOURNAL_BURST < burst < limits.JOURNAL_BURST + 2 * len(data)

    for _ in range(60):
        now += recorder.wait(now)
        recorder.take(line, now)
    assert journal.offered - burst <= (now - 10.0) * limits.JOURNAL_STEADY + 2 * len(data)


PRINT_OUTPUT = """
import json, sys
event, field, megabytes = sys.argv[1:]
about = {"type": event, "toolCallId": "c1", "toolName": "bash"}
content = {"content": [{"type": "text", "text": "x" * 1_000_000}]}
line = json.dumps({**about, field: content}, separators=(",", ":")) + "\\n"
for _ in range(int(megabytes)):
    sys.stdout.write(line)
sys.stdout.write('{"type":"agent_settled"}\\n')
sys.stdout.flush()
sys.stdin.readline()
"""
ENDS, UPDATES = ("tool_execution_end", "result"), ("tool_execution_update", "partialResult")


@pytest.mark.parametrize(
    ("event", "megabytes", "most"),
    [
        pytest.param(ENDS, 20, 21, id="results"),
        pytest.param(UPDATES, 60, 1, id="output so far"),
        pytest.param(UPDATES, 2000, 2, id="2 GB of output so far", marks=pytest.mark.thorough),
    ],
)
def test_much_tool_output_needs_little_memory(
    keep: Keep, event: tuple[str, str], megabytes: int, most: int
) -> None:
    """`most` is the size of the journal in MB."""
    kept = keep([PYTHON, "-S", "-c", PRINT_OUTPUT, *event, str(megabytes)])
    journal = kept.dir / "journal.jsonl"
    wait(lambda: journal.read_bytes()[-100:].find(b"agent_settled") > 0, 100)

    assert status(kept.keeper_pid, "VmHWM") < 60 << 10
    assert kept.ask(op="state")["journal"] < most * 1_000_000 + 500_000


def test_end_of_a_flood_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Record] = []
    floods = Floods(records.append)
    for number in range(1000):
        floods.admit("notify", 10, 100 + number / 1000)
    assert floods.due == pytest.approx(101.05, abs=0.01)
    floods.tick(101.1)
    assert [record[2:] for record in records] == [["notify", 950, 9500]]
    floods.tick(104.0)
    assert [record[0] for record in records] == ["m", "q"]
    assert floods.due is None


# --- lines that are too long to be kept ---------------------------------------------------------

LONG_LINE = 10_500_000


def test_long_result_still_ends_its_call(keep: Keep) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", f"LONG tool {LONG_LINE}")
    wait(lambda: kept.events("agent_settled"), 30)

    (end,) = kept.events("tool_execution_end")
    assert (end["toolName"], end["isError"], end["images"]) == ("bash", False, 3)
    assert end["toolCallId"] == kept.events("tool_execution_start")[0]["toolCallId"]
    assert end["cut"] > LONG_LINE
    message = kept.events("message_end")[-2]
    assert message["message"]["role"] == "toolResult"
    assert message["message"]["toolCallId"] == end["toolCallId"]
    assert (message["images"], message["message"]["isError"]) == (3, False)
    assert kept.text() == "done"
    assert status(kept.keeper_pid, "VmHWM") < 3 * LONG_LINE >> 10


@pytest.mark.parametrize("what", ["tool_execution_start", "user", "assistant", "response"])
def test_long_line_keeps_its_outline(keep: Keep, what: str) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", f"LONG {what} {LONG_LINE}")
    kept.send("q", type="get_state")
    kept.prompt("p2", "hello")
    wait(lambda: kept.text().endswith("echo: hello") and len(kept.events("agent_end")) == 1, 30)

    found = [record[2] for record in kept.kind("e") if record[2].get("cut")]
    (event,) = found
    if what == "response":
        assert (event["id"], event["command"], event["success"]) == ("q", "get_state", True)
    elif what == "tool_execution_start":
        assert (event["toolName"], event["toolCallId"]) == ("bash", "call_0")
    else:
        assert event["message"]["role"] == what
    if what == "assistant":
        assert event["message"]["stopReason"] == "toolUse"
        assert event["message"]["usage"]["input"] == 10
        assert "content" not in event["message"]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_outline_has_the_members_of_both_ends(separators: tuple[str, str]) -> None:
    result = {"content": [{"type": "text", "text": 'é"\\' * 50000}], "details": {"a": [1]}}
    event = {"type": "tool_execution_end", "toolCallId": "c", "result": result, "isError": True}
    line = json.dumps(event, separators=separators).encode()
    for head in range(200, 260):
        found = outline(line[:head], line[-400:])
        assert found is not None
        text = found["result"]["content"][0]["text"]
        assert result["content"][0]["text"].startswith(text.rstrip("�"))  # type: ignore[index]
        found["result"].pop("content")
        expected = {**event, "result": {"details": {"a": [1]}}}
        assert found == expected


@pytest.mark.parametrize("head", [b"", b"[1", b"no json", b'"x', b"[" * 70000, b'{"a":' * 20000])
def test_outline_of_invalid_input_is_none(head: bytes) -> None:
    found = outline(head, b"}" * 100)
    assert found is None or list(found) == ["a"]


def test_tool_updates_are_throttled_and_the_newest_arrives(keep: Keep) -> None:
    code = """
for number in range(200):
    content = [{"type": "text", "text": "x" * 50000 + str(number)}]
    say(type="tool_execution_update", toolCallId="c1", toolName="bash", args={"command": "y"},
        partialResult={"content": content, "details": {"truncation": {"content": "z"}}})
details = {"truncation": {"content": "z"}, "other": 1}
sys.stdin.readline()
say(type="tool_execution_end", toolCallId="c1", result={"content": [], "details": details})
sys.stdin.readline()
"""
    kept = keep(python(code))

    def newest() -> bool:
        updates = kept.events("tool_execution_update")
        return bool(updates) and updates[-1]["partialResult"]["content"][0]["text"].endswith("199")

    wait(newest)
    updates = kept.events("tool_execution_update")
    assert len(updates) <= 20
    assert all(len(one["partialResult"]["content"][0]["text"]) <= 4000 for one in updates)
    kept.send("go", type="go")
    end = wait(lambda: kept.events("tool_execution_end"))[0]
    assert end["result"]["details"] == {"other": 1}


def test_stderr_is_kept_short(keep: Keep) -> None:
    code = (
        "for n in range(20000): sys.stderr.write(f'{n} ' + 'e' * 90 + '\\n')\n"
        "sys.stderr.write('x' * 600 + '\\n')"
    )
    kept = keep(python(code))
    lines = kept.end()["stderr"]
    assert len(lines) == 20
    assert lines[-1] == "x" * 500
    assert lines[-2].startswith("19999 ")
    log = (kept.dir / "stderr.log").read_bytes()
    assert len(log) <= 256 << 10
    assert log.endswith(b"x" * 600 + b"\n")


def test_full_disk_loses_nothing(keep: Keep) -> None:
    kept = keep(STANDIN)
    size = (kept.dir / "journal.jsonl").stat().st_size
    usual = resource.prlimit(kept.keeper_pid, resource.RLIMIT_FSIZE)
    resource.prlimit(kept.keeper_pid, resource.RLIMIT_FSIZE, (size + 100, usual[1]))
    for number in range(20):
        kept.prompt(f"p{number}", "TOKENS 500 0")
    wait(lambda: "trying again" in (kept.dir / "keeper.log").read_text())
    assert (kept.dir / "journal.jsonl").stat().st_size <= size + 100

    resource.prlimit(kept.keeper_pid, resource.RLIMIT_FSIZE, usual)
    wait(lambda: len(kept.events("turn_end")) == 20)
    assert kept.text() == " ".join(f"w{number}" for number in range(500)) * 20


def test_loss_on_a_full_disk_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limits of memory deltas are dropped first, events much later."""
    monkeypatch.setattr(f"{JOURNAL}.MAX_DELTA_BACKLOG", 100)
    monkeypatch.setattr(f"{JOURNAL}.MAX_BACKLOG", 200)
    path = tmp_path / "journal.jsonl"
    journal = Journal(str(path))
    for number in range(20):
        journal.add(["t", 0, f"delta {number:2}"])
    for number in range(20):
        journal.add(["e", 0, {"number": number}])
    journal.add(["x", 0, {}])
    journal.tick(0.0)

    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    kinds = [record[0] for record in records]
    assert kinds == ["t"] * 5 + ["e"] * 5 + ["g", "x"]
    assert records[-2][2] == "… 30 records lost: the disk was full"
    assert journal.size == path.stat().st_size


# --- commands -----------------------------------------------------------------------------------


def test_command_is_passed_on_once(keep: Keep) -> None:
    kept = keep(["cat"], hello=[{"id": "h", "type": "first"}])
    assert kept.send("h", type="again") == {"ok": True, "repeated": True}
    assert kept.send("a", type="x") == {"ok": True}
    assert kept.send("a", type="x") == {"ok": True, "repeated": True}
    wait(lambda: kept.events("x"))
    kept.ask(op="stop")
    kept.end()
    assert [record[2] for record in kept.kind("s")] == ["h", "a"]
    assert [record[2]["type"] for record in kept.kind("e")] == ["first", "x"]


def test_agent_that_does_not_read_blocks_no_client(keep: Keep) -> None:
    kept = keep(["cat"])
    os.kill(kept.agent_pid, signal.SIGSTOP)
    for number in range(40):
        assert kept.send(f"m{number}", type="x", text="x" * 10_000)["ok"]
    assert kept.ask(op="state")["buffered"] > 100_000
    assert len(kept.kind("s")) < 40

    os.kill(kept.agent_pid, signal.SIGCONT)
    wait(lambda: len(kept.events("x")) == 40)
    assert [record[2] for record in kept.kind("s")] == [f"m{number}" for number in range(40)]
    assert kept.ask(op="state")["buffered"] == 0


def test_too_many_pending_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieutenants.supervision.keeper.commands.MAX_PENDING_BYTES", 1000)
    outbox = Outbox(-1, lambda _: None)
    assert outbox.push("a", {"text": "x" * 900})["ok"]
    assert not outbox.push("b", {"text": "x" * 100})["ok"]
    assert outbox.push("c", {})["ok"]


def test_many_concurrent_clients_are_served(keep: Keep) -> None:
    kept = keep(["cat"])
    silent = [kept.connect() for _ in range(300)]
    half = kept.connect()
    half.sendall(b'{"op":"sta')

    def client(number: int) -> int:
        answers = [kept.send(f"{number % 10}-{count}", type="x") for count in range(20)]
        return sum("repeated" not in answer and answer["ok"] for answer in answers)

    with ThreadPoolExecutor(20) as pool:
        accepted = sum(pool.map(client, range(20)))
    assert accepted == 200
    wait(lambda: len(kept.events("x")) == 200)
    assert len({record[2] for record in kept.kind("s")}) == len(kept.kind("s")) == 200
    key = json.dumps(kept.key).encode()
    half.sendall(b'te","key":%b}\n{"op":"state","key":%b}\n' % (key, key))
    stream = half.makefile()
    assert [json.loads(stream.readline())["ok"] for _ in range(2)] == [True, True]
    for connection in (half, *silent):
        connection.close()


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"\xff\x00 what", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"op":"dance"}', "unknown op"),
        (b'{"op":"send","id":"a","line":null}', "line must be"),
        (b'{"op":"send","id":"a","line":[1]}', "line must be"),
        (b'{"op":"send","id":7,"line":{}}', "id must be"),
    ],
)
def test_invalid_request_is_refused(keep: Keep, request_line: bytes, error: str) -> None:
    kept = keep(["cat"])
    request_line = request_line.replace(b'{"op"', b'{"key":"%b","op"' % kept.key.encode())
    with kept.connect() as client:
        client.sendall(request_line + b"\n")
        answer = json.loads(client.makefile().readline())
    assert not answer["ok"]
    assert error in answer["error"]
    assert kept.ask(op="state")["ok"]


def test_commands_of_an_older_follower_are_refused(keep: Keep) -> None:
    kept = keep(["cat"])
    assert kept.ask(op="state", generation=4)["generation"] == 4
    for request in ({"op": "state"}, {"op": "send", "id": "a", "line": {}}, {"op": "stop"}):
        assert kept.ask(**request, generation=3) == {
            "ok": False,
            "error": "another follower has taken this agent over",
            "generation": 4,
        }
    assert (kept.dir / "generation").read_text() == "4"
    assert kept.ask(op="state")["generation"] == 4, "requests without one are those of this host"


def test_the_call_command_reaches_deep_directories(tmp_path: Path, keep: Keep) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    kept = keep(["cat"], dir=str(deep / "run"))
    command = [PYTHON, str(KEEPER), "call", str(deep / "run")]
    ask = {"op": "state"}
    done = subprocess.run(command, input=json.dumps(ask).encode(), capture_output=True, timeout=20)
    assert json.loads(done.stdout)["agent_pid"] == kept.agent_pid
    gone = subprocess.run([*command[:-1], str(tmp_path)], input=b"{}", capture_output=True)
    assert gone.returncode == 1
    assert not json.loads(gone.stdout)["ok"]


# --- ends ---------------------------------------------------------------------------------------


def test_immediate_exit_is_recorded(keep: Keep) -> None:
    kept = keep(STANDIN, env={"STANDIN_MODE": "exit:4"})
    end = kept.end()
    assert (end["code"], end["stopped"]) == (4, False)
    assert end["stderr"] == ["Error: the stand-in exits at once"]


@pytest.mark.parametrize(
    ("message", "code", "number"), [("DIE 7", 7, None), ("KILL", None, signal.SIGKILL)]
)
def test_crash_during_an_answer_is_recorded(
    keep: Keep, message: str, code: int, number: int
) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", message)
    end = kept.end()
    assert (end["code"], end["signal"]) == (code, number)
    assert kept.text() == "I am about to"


def test_stop_sends_the_final_command_first(keep: Keep) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", "SILENT")
    wait(lambda: kept.events("turn_start"))
    farewell = {"id": "bye-1", "type": "abort"}
    assert kept.ask(op="stop", grace=5, farewell=farewell, farewell_wait=30) == {"ok": True}
    end = kept.end()
    assert end["stopped"]
    assert end["code"] == 143
    assert kept.events("message_end")[-1]["message"]["stopReason"] == "aborted"
    assert kept.events("response")[-1]["id"] == "bye-1"


def test_agent_that_ignores_the_stop_is_killed(keep: Keep) -> None:
    kept = keep(STANDIN, env={"STANDIN_MODE": "stubborn,mute"}, hello=[{"type": "get_state"}])
    wait(lambda: sigterm_ignored(kept.agent_pid))
    farewell = {"id": "bye", "type": "abort"}
    assert kept.ask(op="stop", grace=0.2, farewell=farewell, farewell_wait=0.1)["ok"]
    assert kept.ask(op="stop")["ok"]
    assert kept.ask(op="state")["stopping"]
    assert not kept.send("late", type="x")["ok"]
    end = kept.end()
    assert (end["signal"], end["stopped"]) == (signal.SIGKILL, True)


@pytest.mark.parametrize("texts", [[], ["no key for"], ["no key for", "Could not restore model"]])
def test_warnings_of_the_spec_are_recorded(keep: Keep, texts: list[str]) -> None:
    lines = ["noise", "Warning: Could not restore model a/b. Using c/d", "There is no key for x"]
    kept = keep(
        python(f"print(*{lines!r}, sep='\\n', file=sys.stderr); sys.exit(0)"), warnings=texts
    )
    kept.end()
    expected = [line for line in lines if any(text in line for text in texts)]
    assert [record[2] for record in kept.kind("w")] == expected


def test_time_to_end_after_sigterm_comes_with_the_start(keep: Keep) -> None:
    slow = python(
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.6), sys.exit(7)))\n"
        "say(type='ready')\ntime.sleep(60)"
    )
    given = {0.1: (None, signal.SIGKILL), 30: (7, None)}
    for seconds, (code, number) in given.items():
        kept = keep(slow, stop_seconds=seconds)
        wait(lambda kept=kept: kept.events("ready"))  # type: ignore[misc]
        assert kept.ask(op="stop")["ok"]
        end = kept.end()
        assert (end["code"], end["signal"]) == (code, number)


def sigterm_ignored(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def test_suspended_agent_can_be_stopped(keep: Keep) -> None:
    kept = keep(["cat"])
    os.kill(kept.agent_pid, signal.SIGSTOP)
    os.kill(kept.keeper_pid, signal.SIGTERM)
    end = kept.end()
    assert (end["signal"], end["stopped"]) == (signal.SIGTERM, True)


@pytest.mark.parametrize("mode", ["", "stubborn"])
def test_children_in_their_own_sessions_are_ended(keep: Keep, mode: str) -> None:
    """The child holds the agent's stdout open; the end is recorded soon nevertheless."""
    kept = keep(STANDIN, env={"STANDIN_MODE": mode})
    kept.prompt("p1", "CHILD")
    wait(lambda: kept.events("agent_settled"))
    child = int(kept.text().split()[1])
    assert os.getsid(child) == child
    died = time.time()
    os.kill(kept.agent_pid, signal.SIGKILL)
    end = kept.end()
    assert end["signal"] == signal.SIGKILL
    assert not lives(child)
    assert kept.records()[-1][1] / 1000 - died < 1.6


def test_agent_that_closes_its_output_is_still_supervised(keep: Keep) -> None:
    kept = keep(["sh", "-c", "exec 1>&- 2>&-; read line; exit 5"])
    assert kept.ask(op="state")["ok"]
    kept.send("go", type="go")
    assert kept.end()["code"] == 5


def test_exit_is_noticed_at_once_without_polling(keep: Keep) -> None:
    kept = keep(STANDIN)
    kept.prompt("p1", "hello")
    wait(lambda: kept.events("agent_settled"))
    kept.ask(op="state")
    # It sees our connection's end first; then a whole second passes without a wake-up.
    wait(lambda: wake_ups_in_a_second(kept) == 0)

    died = time.time()
    os.kill(kept.agent_pid, signal.SIGKILL)
    kept.end()
    # Not by the look that it takes after ten seconds.
    assert kept.records()[-1][1] / 1000 - died < 5


def wake_ups_in_a_second(kept: Kept) -> int:
    before = status(kept.keeper_pid, "voluntary_ctxt_switches")
    subprocess.run(["sleep", "1"], check=True)
    return status(kept.keeper_pid, "voluntary_ctxt_switches") - before


# --- starting -----------------------------------------------------------------------------------


def test_agent_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    kept = Kept(tmp_path, ["/no/such/program"])
    answer = kept.start()
    assert answer == {
        "ok": False,
        "error": "the agent cannot be run: No such file or directory: /no/such/program",
    }
    assert not find_remaining(kept.tag, 0, 0, 0, {})
    assert not (kept.dir / "control.sock").exists()
    assert not (kept.dir / "keeper.json").exists()
    again = Kept(tmp_path, ["true"], dir=str(kept.dir))
    again.dir = kept.dir
    assert again.start()["ok"]
    assert again.end()["code"] == 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"argv": []}, "argv is empty"),
        ({"cwd": "relative"}, "cwd must be an absolute path"),
        ({"env": {"A": 1}}, "env must map"),
        ({"run": None}, "run must be a text"),
        ({"cwd": "/no/such/folder"}, "No such file or directory: /no/such/folder"),
    ],
)
def test_invalid_spec_is_refused(tmp_path: Path, wrong: dict[str, Any], error: str) -> None:
    kept = Kept(tmp_path, ["true"])
    kept.spec.update(wrong)
    answer = kept.start()
    assert not answer["ok"]
    assert error in answer["error"]


def test_run_is_started_once(keep: Keep) -> None:
    kept = keep(["cat"])
    first = kept.answer
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: kept.start(), range(4)))
    assert answers == [{**first, "already": True}] * 4
    kept.ask(op="stop")
    kept.end()
    assert "is over" in kept.start()["error"]
    assert len(kept.kind("b")) == 1


def test_session_has_one_keeper(tmp_path: Path, keep: Keep) -> None:
    lock = tmp_path / "session.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        kept = Kept(tmp_path, ["cat"], lock=str(lock))
        assert kept.start() == {"ok": False, "error": "another supervisor holds this session"}
    first = keep(["cat"], lock=str(lock))
    assert not Kept(tmp_path, ["cat"], lock=str(lock)).start()["ok"]
    first.ask(op="stop")
    wait(lambda: first.kind("x"))
    keep(["cat"], lock=str(lock))


def test_torn_session_files_are_truncated(tmp_path: Path, keep: Keep) -> None:
    files = [tmp_path / name for name in ("whole", "torn", "long", "only", "empty")]
    long = b"a\n" + b"x" * 200_000
    for file, data in zip(files, [b"a\nb\n", b"a\nb", long, b"torn", b""], strict=True):
        file.write_bytes(data)
    keep(["cat"], heal=[*map(str, files), str(tmp_path / "missing")])
    assert [file.read_bytes() for file in files] == [b"a\nb\n", b"a\n", b"a\n", b"", b""]


def test_processes_of_an_earlier_run_are_ended(tmp_path: Path, keep: Keep) -> None:
    tag = f"REEF_LIEUTENANT={uuid.uuid4().hex}"
    env = {**os.environ, **dict([tag.split("=")])}
    left = subprocess.Popen(["sleep", "600"], env=env, start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], env={**env, "REEF_LIEUTENANT": "another"})
    try:
        keep(["cat"], tag=tag)
        assert left.wait(5) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (left, other):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def test_environment_is_visible_to_the_agent_only(keep: Keep) -> None:
    secret = uuid.uuid4().hex
    code = """
say(type="seen", env=dict(os.environ), fds=sorted(os.listdir("/proc/self/fd")), cwd=os.getcwd(),
    leads=os.getpid() == os.getsid(0) == os.getpgrp())
sys.stdin.readline()
"""
    kept = keep(python(code), env={"SECRET": secret})
    seen = wait(lambda: kept.events("seen"))[0]
    assert set(seen["env"]) - {"LC_CTYPE"} == set(kept.spec["env"])
    assert (len(seen["fds"]), seen["cwd"], seen["leads"]) == (4, kept.spec["cwd"], True)
    environment = Path(f"/proc/{kept.keeper_pid}/environ").read_bytes()
    assert b"PATH" not in environment
    assert kept.tag.encode() not in environment
    for file in kept.dir.iterdir():
        if file.is_file() and file.name != "journal.jsonl":
            assert secret.encode() not in file.read_bytes()
    assert kept.dir.stat().st_mode & 0o777 == 0o700


def test_modules_are_valid_python_3_8() -> None:
    with zipfile.ZipFile(KEEPER) as archive:
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    assert len(sources) > 15
    for source in sources:
        ast.parse(source, feature_version=(3, 8))
