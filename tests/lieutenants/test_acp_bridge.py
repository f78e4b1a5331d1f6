"""The bridge of the agent `acp`, without reef: commands in, events out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents import events
from lieutenants.agents.acp.decode import decode
from lieutenants.agents.acp.dialect import AcpDialect
from lieutenants.agents.acp.program import START, remote_file
from lieutenants.agents.events import Event
from tests.lieutenants.test_command_runner import Uncovered
from tests.waiting import until

AGENT = Path(__file__).parents[1] / "agents" / "acp_agent.py"
DIALECT = AcpDialect()


class Started:
    """A running bridge with the agent of the tests, in a home of its own."""

    def __init__(
        self,
        home: Path,
        *options: str,
        command: list[str] | None = None,
        program: Path = START,
        **settings: str,
    ) -> None:
        (home / "instructions.md").write_text("Be kind.")
        words = {"session": str(home / "session"), "instructions": str(home / "instructions.md")}
        given = [
            word for name, value in {**words, **settings}.items() for word in (f"--{name}", value)
        ]
        agent = command or [sys.executable, str(AGENT), *options]
        self.home = home
        self.garbage: list[bytes] = []
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), *given, "--", *agent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env={**os.environ, "HOME": str(home)},
        )
        self.send(DIALECT.query_state("~ready").line)

    def send(self, line: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout
        for line in self.process.stdout:
            try:
                yield json.loads(line)
            except ValueError:
                self.garbage.append(line)

    def until(self, kind: type, **facts: Any) -> list[Event]:
        """Return the decoded events up to the first of this kind with these facts."""
        found: list[Event] = []
        for line in self.lines():
            if event := decode(line, Uncovered()):
                found.append(event)
                is_it = all(getattr(event, name, None) == value for name, value in facts.items())
                if isinstance(event, kind) and is_it:
                    return found
        raise AssertionError(f"it ended: {found} {self.error()}")

    def ready(self) -> events.AgentState:
        *_, reply = self.until(events.Reply, request_id="~ready")
        assert isinstance(reply, events.Reply)
        assert isinstance(reply.content, events.AgentState)
        return reply.content

    def ask(self, text: str, ident: str = "m1") -> list[Event]:
        """Send a message, and return the events of its turn."""
        self.send(DIALECT.send_message(ident, text, steer=False).line)
        return self.until(events.Settled)

    def texts(self, text: str) -> str:
        """Send a message, and return the text of the answer."""
        found = []
        self.send(DIALECT.send_message("m", text, steer=False).line)
        for line in self.lines():
            if line["type"] == "message_update":
                found.append(line["assistantMessageEvent"]["delta"])
            if line["type"] == "agent_settled":
                return "".join(found)
        raise AssertionError(f"it ended: {found} {self.error()}")

    def log(self, what: str) -> list[Any]:
        """Return what the agent has got of this kind."""
        lines = (self.home / "acp-log.jsonl").read_text().splitlines()
        return [value for name, value in map(json.loads, lines) if name == what]

    def error(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(10)


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path)
    yield started
    started.end()


def of(kind: type, found: list[Event]) -> list[Any]:
    return [each for each in found if isinstance(each, kind)]


# -- turns -----------------------------------------------------------------------------------


def test_a_turn_with_a_tool_becomes_neutral_events(bridge: Started) -> None:
    assert bridge.ready().model == events.Model("big", "Big One")
    found = bridge.ask("tool")
    start, user, receipt, message, tool, result, last, end, settled = found
    assert isinstance(start, events.RunStarted)
    assert user == events.UserMessage("tool")
    assert (receipt.request_id, receipt.success) == ("m1", True)  # type: ignore[union-attr]
    assert message == events.AssistantMessage(stop_reason="toolUse", model="big")
    assert tool == events.ToolStarted("call-1", "execute", {"title": "Run ls", "command": "ls"})
    assert result == events.ToolEnded("call-1", "execute", "a\nb")
    assert last == events.AssistantMessage(stop_reason="stop", model="big")
    assert isinstance(end, events.RunEnded)
    assert isinstance(settled, events.Settled)


def test_instructions_come_with_the_first_message_only(bridge: Started) -> None:
    bridge.ready()
    bridge.ask("one")
    bridge.ask("two", "m2")
    first, second = bridge.log("prompt")
    assert first == ["<instructions>\nBe kind.\n</instructions>", "one"]
    assert second == ["two"]


def test_thoughts_and_text_are_blocks_of_one_message(bridge: Started) -> None:
    bridge.ready()
    bridge.send(DIALECT.send_message("m1", "think", steer=False).line)
    deltas = []
    for line in bridge.lines():
        if line["type"] == "message_update":
            deltas.append(line["assistantMessageEvent"])
        if line["type"] == "agent_settled":
            break
    kinds = [(each["type"], each["contentIndex"], each["delta"]) for each in deltas]
    assert kinds == [("thinking_delta", 0, "hm"), ("text_delta", 1, "Thought.")]


def test_usage_is_reported_with_the_answer(bridge: Started) -> None:
    bridge.ready()
    (message,) = of(events.AssistantMessage, bridge.ask("usage"))
    assert message.usage == events.TokenUsage(input=7, output=3, cost=0.25)
    query = DIALECT.query_context("~stats")
    assert query is not None
    bridge.send(query.line)
    *_, reply = bridge.until(events.Reply, request_id="~stats")
    assert reply.content == events.ContextUsage({"tokens": 500, "window": 2000, "percent": 25.0})  # type: ignore[union-attr]


def test_plan_is_a_notice(bridge: Started) -> None:
    bridge.ready()
    (notice,) = of(events.Notice, bridge.ask("plan"))
    assert notice.text == "Plan:\n☑ first\n☐ second"


@pytest.mark.parametrize(
    ("text", "failure"),
    [("fail", "no credits: at all"), ("refuse", "The model refused to go on.")],
)
def test_failures_are_failed_answers(bridge: Started, text: str, failure: str) -> None:
    bridge.ready()
    (message,) = of(events.AssistantMessage, bridge.ask(text))
    assert (message.stop_reason, message.failure) == (events.ERROR, failure)
    assert bridge.texts("hi") == "echo: hi"


def test_images_need_an_agent_that_takes_them(tmp_path: Path) -> None:
    image = type("Image", (), {"media_type": "image/png", "data": b"x"})()
    plain, able = tmp_path / "plain", tmp_path / "able"
    for home in (plain, able):
        home.mkdir()
    line = DIALECT.send_message("m1", "look", steer=False, images=[image]).line
    bridge = Started(plain)
    bridge.send(line)
    *_, reply = bridge.until(events.Reply, request_id="m1")
    assert (reply.success, reply.error) == (False, "this agent takes no images")  # type: ignore[union-attr]
    bridge.end()
    bridge = Started(able, "images")
    bridge.send(line)
    found = bridge.until(events.Settled)
    assert events.UserMessage("look", images=1) in found
    assert bridge.log("prompt")[0][1:] == ["look", "image"]
    bridge.end()


# -- sessions --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("resume",)], ids=["load", "resume"])
def test_restart_continues_the_session_without_repeating_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    bridge = Started(tmp_path, *options)
    bridge.ask("one")
    assert bridge.end() == 0
    bridge = Started(tmp_path, *options)
    before = bridge.until(events.Reply, request_id="~ready")
    assert len(before) == 1
    assert bridge.texts("history") == '["one"]'
    assert bridge.log("prompt")[1] == ["history"]
    assert len(bridge.log("session/new")) == 1
    assert len(bridge.log(f"session/{'resume' if options else 'load'}")) == 1
    bridge.end()


def test_unused_session_is_not_continued(tmp_path: Path) -> None:
    for _ in range(2):
        bridge = Started(tmp_path)
        bridge.ready()
        bridge.end()
    assert len(bridge.log("session/new")) == 2


def test_agent_without_memory_says_so(tmp_path: Path) -> None:
    bridge = Started(tmp_path, "nothing-stored")
    bridge.ask("one")
    bridge.end()
    bridge = Started(tmp_path, "nothing-stored")
    notice, _ = bridge.until(events.Reply, request_id="~ready")
    assert isinstance(notice, events.Notice)
    assert "remembers nothing" in notice.text
    bridge.end()


def test_lost_session_ends_the_start_with_a_remedy(tmp_path: Path) -> None:
    bridge = Started(tmp_path)
    bridge.ask("one")
    bridge.end()
    (tmp_path / "acp-sessions.json").unlink()
    bridge = Started(tmp_path)
    assert bridge.process.wait(10) == 1
    error = bridge.error()
    assert "cannot continue its session: no such session" in error
    assert "Start it with a new session" in error


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("no-login", "needs a login or a key: Authentication required"),
        ("old", "speaks version 0 of the protocol"),
    ],
)
def test_unusable_agent_ends_with_the_reason(tmp_path: Path, option: str, error: str) -> None:
    bridge = Started(tmp_path, option)
    assert bridge.process.wait(10) == 1
    assert error in bridge.error()


def test_missing_program_is_named(tmp_path: Path) -> None:
    bridge = Started(tmp_path, command=["no-such-agent"])
    assert bridge.process.wait(10) == 127
    assert "no-such-agent is not there" in bridge.error()


def test_model_and_mode_are_chosen_by_name(tmp_path: Path) -> None:
    bridge = Started(tmp_path, model="small", mode="Plan")
    assert bridge.ready().model == events.Model("small", "Small")
    assert bridge.log("session/set_model")[0]["modelId"] == "small"
    assert bridge.log("session/set_mode")[0]["modeId"] == "plan"
    bridge.end()


def test_unknown_mode_is_reported(tmp_path: Path) -> None:
    bridge = Started(tmp_path, mode="yolo")
    notice, _ = bridge.until(events.Reply, request_id="~ready")
    assert notice == events.Notice("The agent has no mode yolo; these are there: plan, work.")
    bridge.end()


def test_reefs_tools_are_offered_to_agents_that_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERS_INFRA_URL", "http://reef.test")
    monkeypatch.setenv("VERS_AUTH_TOKEN", "token")
    for options, tools in ((("http",), "yes"), (("http",), "no"), ((), "yes")):
        bridge = Started(tmp_path, *options, tools=tools)
        bridge.ready()
        bridge.end()
    with_http, *others = (each["mcpServers"] for each in bridge.log("session/new"))
    headers = [{"name": "Authorization", "value": "Bearer token"}]
    server = {"type": "http", "name": "reef", "url": "http://reef.test/mcp", "headers": headers}
    assert with_http == [server]
    assert others == [[], []]


def test_bridge_runs_from_one_file(tmp_path: Path) -> None:
    bridge = Started(tmp_path, program=remote_file())
    assert bridge.texts("hi") == "echo: hi"
    bridge.end()


# -- permissions and files -------------------------------------------------------------------


def permission(bridge: Started, given: object = None) -> events.Dialog:
    """Have the agent ask for a permission, to use a tool with this input."""
    bridge.ready()
    words = f"permission {json.dumps(given)}" if given else "permission"
    bridge.send(DIALECT.send_message("m1", words, steer=False).line)
    *_, dialog = bridge.until(events.Dialog)
    assert isinstance(dialog, events.Dialog)
    return dialog


def test_permission_is_asked_and_answered_once(bridge: Started) -> None:
    dialog = permission(bridge)
    assert (dialog.kind, dialog.title, dialog.message) == ("permission", "Remove file 1", "rm x")
    assert [each.value for each in dialog.options] == ["yes", "ever", "no"]
    assert dialog.request_id is not None
    for choice in ("ever", "no"):
        bridge.send(DIALECT.answer_dialog(dialog.request_id, "permission", choice).line)
    bridge.until(events.Settled)
    bridge.texts("sync")
    (answer,) = bridge.log("answer")
    assert answer["result"]["outcome"] == {"outcome": "selected", "optionId": "ever"}


def test_permission_shows_the_whole_input_or_says_what_is_missing(bridge: Started) -> None:
    shown = permission(bridge, {"command": "ls", "cwd": "/etc", "message": "harmless"}).message
    assert shown.startswith("ls\n{")
    assert '"cwd": "/etc"' in shown
    assert '"message": "harmless"' in shown


def test_long_input_of_a_permission_shows_both_ends(bridge: Started) -> None:
    shown = permission(bridge, {"command": "true #" + "x" * 20_000 + "\nrm -rf ~"}).message
    assert shown.startswith("true #xxx")
    assert shown.endswith("\nrm -rf ~")
    assert "\n[… 12015 characters are not shown …]\n" in shown


def test_deeply_nested_input_does_not_end_the_bridge(bridge: Started) -> None:
    """Between some of these depths it can be parsed, but not be written any more."""
    bridge.ready()
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(3 * old)  # for what is decoded here
    try:
        for depth in range(955, 1005):
            assert bridge.texts(f"nested {depth}") == "still here"
    finally:
        sys.setrecursionlimit(old)


def test_dismissed_permission_is_refused(bridge: Started) -> None:
    dialog = permission(bridge)
    assert dialog.request_id is not None
    bridge.send(DIALECT.dismiss_dialog(dialog.request_id).line)
    bridge.until(events.Settled)
    assert bridge.log("answer")[0]["result"]["outcome"]["optionId"] == "no"


def test_abort_cancels_open_permissions(bridge: Started) -> None:
    permission(bridge)
    bridge.send(DIALECT.abort("~abort-1").line)
    bridge.until(events.Reply, request_id="~abort-1")
    assert bridge.log("answer")[0]["result"]["outcome"] == {"outcome": "cancelled"}


@pytest.mark.parametrize(("policy", "option"), [("allow", "yes"), ("reject", "no")])
def test_policy_answers_without_a_person(tmp_path: Path, policy: str, option: str) -> None:
    bridge = Started(tmp_path, permissions=policy)
    found = bridge.ask("permission")
    assert not of(events.Dialog, found)
    assert bridge.log("answer")[0]["result"]["outcome"]["optionId"] == option
    bridge.end()


def test_flood_of_permissions_is_refused_beyond_a_limit(bridge: Started) -> None:
    bridge.ready()
    bridge.send(DIALECT.send_message("m1", "flood 60", steer=False).line)
    asked = set()
    for line in bridge.lines():
        event = decode(line, Uncovered())
        if isinstance(event, events.Dialog):
            asked.add(event.request_id)
        if isinstance(event, events.Notice):
            break
    assert len(asked) == 40
    # Each answer makes room for another one.
    until(lambda: len(bridge.log("answer")) == 20)
    for each in asked:
        assert each is not None
        bridge.send(DIALECT.answer_dialog(each, "permission", "yes").line)
    bridge.until(events.Settled)
    outcomes = [each["result"]["outcome"]["optionId"] for each in bridge.log("answer")]
    assert len(outcomes) == 60
    assert outcomes.count("yes") == 40


def test_files_are_served_inside_the_working_folder_only(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    home = tmp_path / "home"
    home.mkdir()
    (home / "in.txt").write_text("one\ntwo\n")
    (home / "link").symlink_to(tmp_path / "outside.txt")
    bridge = Started(home, files="write")
    assert "one\\ntwo" in bridge.texts(f"read {home}/in.txt")
    for path in (tmp_path / "outside.txt", home / "link", home / ".." / "outside.txt", home):
        assert "must be inside the working folder" in bridge.texts(f"read {path}")
    assert "absolute" in bridge.texts("read in.txt")
    assert bridge.texts(f"write {home}/new/file.txt") == "done"
    assert (home / "new" / "file.txt").read_text() == "written"
    assert "must be inside" in bridge.texts(f"write {home}/link")
    assert (tmp_path / "outside.txt").read_text() == "secret"
    bridge.end()


def test_files_and_terminals_are_refused_by_default(bridge: Started) -> None:
    assert "reef does not offer fs/read_text_file" in bridge.texts(f"read {bridge.home}/session")
    assert "reef does not offer terminal/create" in bridge.texts("terminal ls")
    offered = bridge.log("initialize")[0]["clientCapabilities"]
    assert offered == {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}


def test_terminals_run_commands_from_the_working_folder(tmp_path: Path) -> None:
    bridge = Started(tmp_path, terminals="yes")
    for command, output, is_cut, code, signal in (
        ("basename $PWD", f"{tmp_path.name}\n"[-9:], len(tmp_path.name) > 8, 0, None),
        ("echo 12; echo 34 >&2; exit 3", "12\n34\n", False, 3, None),
        ("printf 123456789abc", "456789abc", True, 0, None),
        ("exec sleep 1000", "", False, None, "SIGKILL"),
    ):
        shown = json.loads(bridge.texts(f"terminal {command}"))
        status = {"exitCode": code, "signal": signal}
        assert shown == [output, is_cut, status, "terminalId: is not known"]
    assert "must be inside the working folder" in bridge.texts("away /")
    bridge.end()


# -- agents that misbehave -------------------------------------------------------------------


def test_garbage_is_passed_on_as_garbage(bridge: Started) -> None:
    assert bridge.texts("garbage") == "still here"
    lines = [line for line in bridge.garbage if line.startswith(b"agent: ")]
    assert len(lines) == 7
    assert lines[1] == b'agent: {"type":"agent_end","messages":[]}\n'


def test_text_outside_of_an_answer_is_left_out_and_reported(bridge: Started) -> None:
    bridge.ask("late")
    (notice,) = bridge.until(events.Notice)
    assert isinstance(notice, events.Notice)
    assert "outside of an answer" in notice.text


def test_cancel_ends_the_answer(bridge: Started) -> None:
    bridge.ready()
    bridge.send(DIALECT.send_message("m1", "wait", steer=False).line)
    bridge.until(events.Reply, request_id="m1")
    bridge.send(DIALECT.abort("~abort-1").line)
    (message,) = of(events.AssistantMessage, bridge.until(events.Reply, request_id="~abort-1"))
    assert message.stop_reason == events.ABORTED


@pytest.mark.rotated
def test_agent_that_does_not_obey_a_cancel_is_started_again(bridge: Started) -> None:
    bridge.ask("one")
    bridge.send(DIALECT.send_message("m2", "deaf", steer=False).line)
    bridge.until(events.Reply, request_id="m2")
    bridge.send(DIALECT.abort("~abort-1").line)
    found = bridge.until(events.Reply, request_id="~abort-1")
    assert "started again" in of(events.Notice, found)[0].text
    assert of(events.AssistantMessage, found)[0].stop_reason == events.ABORTED
    assert bridge.texts("history") == '["one"]'
    assert len(bridge.log("session/load")) == 1


def test_exit_in_mid_turn_ends_the_bridge_with_the_same_status(bridge: Started) -> None:
    bridge.ready()
    bridge.send(DIALECT.send_message("m1", "exit 3", steer=False).line)
    assert bridge.process.wait(10) == 3
    assert "ended with exit status 3" in bridge.error()
