"""The runner of the agent `command`, without reef: commands in, events out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lieutenants.agents import events
from lieutenants.agents.command.decode import decode
from lieutenants.agents.command.dialect import RUNNER, CommandDialect
from lieutenants.agents.events import Event


class Uncovered:
    """A screening without secrets."""

    def cover(self, value: Any) -> Any:
        return value

    def cover_message(self, event: dict[str, Any]) -> Any:
        return event


class Started:
    """A running runner."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(RUNNER), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def send(self, line: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout
        for line in self.process.stdout:
            yield json.loads(line)

    def until_settled(self) -> list[Event]:
        """Return the decoded events of one run."""
        found: list[Event] = []
        for line in self.lines():
            if event := decode(line, Uncovered()):
                found.append(event)
                if isinstance(event, events.Settled):
                    return found
        raise AssertionError(f"it ended: {found}")

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(10)


@pytest.fixture
def dialect() -> CommandDialect:
    return CommandDialect()


def test_a_run_is_decoded_into_neutral_events(dialect: CommandDialect) -> None:
    runner = Started("sh", "-c", "echo oops >&2; cat >/dev/null; exit 3")
    runner.send(dialect.send_message("m1", "hi\nthere", steer=False).line)
    (start, user, tool, receipt, *middle, ended, message, run_end, settled) = runner.until_settled()
    assert isinstance(start, events.RunStarted)
    assert user == events.UserMessage("hi\nthere")
    assert isinstance(tool, events.ToolStarted)
    assert tool.tool == "sh"
    assert isinstance(receipt, events.Reply)
    assert (receipt.request_id, receipt.success) == ("m1", True)
    assert receipt.content == events.MessageReceipt()
    assert all(isinstance(each, events.ToolUpdated) for each in middle)
    assert isinstance(ended, events.ToolEnded)
    assert (ended.text, ended.is_error) == ("oops\nexit status 3", True)
    assert message == events.AssistantMessage(
        stop_reason=events.ERROR, failure="exit status 3: oops"
    )
    assert isinstance(run_end, events.RunEnded)
    assert isinstance(settled, events.Settled)
    assert runner.end() == 0


def test_state_and_abort_are_answered_while_it_runs(dialect: CommandDialect) -> None:
    runner = Started("sleep", "1000")
    for command in (
        dialect.query_state("q1"),
        dialect.send_message("m1", "x", steer=False),
        dialect.send_message("m2", "y", steer=False),
        dialect.query_state("q2"),
        dialect.clear_queue("c"),
        dialect.abort("a"),
    ):
        runner.send(command.line)
    found = runner.until_settled()
    replies = {each.request_id: each for each in found if isinstance(each, events.Reply)}
    assert replies["q1"].content == events.AgentState()
    assert replies["m2"].success is False
    assert replies["c"].content == events.QueueReturned(("y",))
    last = [each for each in found if isinstance(each, events.AssistantMessage)]
    assert [each.stop_reason for each in last] == [events.ABORTED]
    abort = decode(next(runner.lines()), Uncovered())
    assert isinstance(abort, events.Reply)
    assert (abort.request_id, abort.success) == ("a", True)
    assert runner.end() == 0


def test_closed_input_ends_the_program(dialect: CommandDialect) -> None:
    runner = Started("sleep", "1000")
    runner.send(dialect.send_message("m1", "x", steer=False).line)
    assert runner.end() == 0


@pytest.mark.parametrize("line", [b"no JSON", b"[]", b'{"type":"fork","id":"f"}'])
def test_unknown_commands_are_refused(dialect: CommandDialect, line: bytes) -> None:
    runner = Started("cat")
    assert runner.process.stdin
    runner.process.stdin.write(line + b"\n")
    runner.process.stdin.flush()
    answer = next(runner.lines())
    assert answer["success"] is False
    assert answer["error"].startswith("unknown command: ")
    assert runner.end() == 0


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"type": ["x"]},
        {"type": "message_end"},
        {"type": "message_end", "message": {"role": "other"}},
        {"type": "message_update"},
    ],
)
def test_damaged_reports_are_no_events(payload: dict[str, Any]) -> None:
    assert decode(payload, Uncovered()) is None


def test_damaged_parts_are_left_out() -> None:
    assert decode({"type": "tool_execution_end", "result": [1]}, Uncovered()) == events.ToolEnded(
        call_id="", tool="", text=""
    )
    reply = decode({"type": "response", "command": "get_state", "data": 5}, Uncovered())
    assert isinstance(reply, events.Reply)
    assert reply.content == events.AgentState()
