"""Lieutenants of the agent `acp`: real processes, created and driven through the API."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from bootloader.boot import npm_agent
from lieutenants.isolation.homes import home_of
from lieutenants.models import Answer, Lieutenant, Message, Question, Usage
from lieutenants.states import MessageState, Outcome
from tests.conftest import Fleet, real_agent
from tests.lieutenants.test_pages import FORM
from tests.stack import ROOT
from tests.stub_llm import StubLLM
from tests.waiting import until

AGENT = Path(__file__).parents[1] / "agents" / "acp_agent.py"
COMMAND = [sys.executable, str(AGENT)]
ROUTE = "/lieutenant/lieutenants"


@pytest.fixture(autouse=True)
def agents_reach_the_checkout(settings: Any) -> None:
    """Show agents the programs of these tests, also in a checkout below /tmp."""
    settings.AGENT_FOLDERS = [f"{ROOT}:ro"]


def create(fleet: Fleet, *options: str, name: str = "ada", **fields: Any) -> dict[str, Any]:
    agent = {"dialect": "acp", "command": [*COMMAND, *options], **fields.pop("settings", {})}
    return fleet.create(name, agent=agent, **fields)


def log(what: str) -> list[Any]:
    """Return what the agent has got of this kind."""
    path = home_of(Lieutenant.objects.get().pk).user / "acp-log.jsonl"
    lines = map(json.loads, path.read_text().splitlines())
    return [value for name, value in lines if name == what]


def question() -> Question:
    found: Question = until(lambda: Question.objects.open().first())
    return found


def answer(fleet: Fleet, asked: Question, value: Any) -> None:
    done = fleet.api.post(f"/lieutenant/questions/{asked.pk}/answer", {"answer": value})
    assert done.status_code == 200, done.content


def newest() -> Answer:
    return Answer.objects.order_by("-id")[0]


def restart(fleet: Fleet, name: str = "ada", seconds: float = 30, **body: str) -> None:
    """Restart the agent, and wait for its next process."""
    before = fleet.process(name).pk

    def is_there() -> bool:
        live = fleet.row(name).live_process()
        return live is not None and live.pk != before

    assert fleet.api.post(f"{ROUTE}/{name}/restart", body).status_code == 200
    until(is_there, seconds)
    fleet.wait(name, "idle", seconds)


# -- answers ---------------------------------------------------------------------------------


def test_message_is_answered_with_text_tools_and_usage(fleet: Fleet) -> None:
    made = create(fleet, settings={"permissions": "allow", "files": "none"})
    assert made["agent"] == "acp"
    assert made["command"] == COMMAND
    assert made["agentOptions"] == {"permissions": "allow"}
    assert fleet.ask("ada", "tool") == "Looking. \n\nTwo files."
    assert fleet.texts("ada", "tool_result") == ["a\nb"]
    assert fleet.ask("ada", "think") == "Thought."
    assert fleet.texts("ada", "thinking") == ["hm"]
    fleet.ask("ada", "usage")
    used = Usage.objects.get(input=7)
    assert (used.output, float(used.cost), used.model) == (3, 0.25, "big")
    until(
        lambda: (
            fleet.get("ada").get("contextUsage") == {"tokens": 500, "window": 2000, "percent": 25}
        )
    )
    shown = fleet.get("ada")
    assert shown["modelInUse"] == "big"
    assert Message.objects.filter(state=MessageState.ACCEPTED).count() == 3
    first = log("prompt")[0][0]
    assert "tests" in first  # the role
    fleet.ask("ada", "fail")
    assert (newest().outcome, newest().error) == (Outcome.ERROR, "no credits: at all")


def test_follow_up_waits_in_reef_and_steering_is_degraded(fleet: Fleet) -> None:
    create(fleet)
    fleet.send("ada", "permission")
    asked = question()
    steered = fleet.send("ada", "next", "steer")
    assert steered.note == "sent as follow-up since the agent 'acp' cannot be steered"
    assert len(log("prompt")) == 1
    answer(fleet, asked, "yes")
    until(lambda: len(log("prompt")) == 2)
    fleet.wait("ada", "idle")
    assert [each[-1] for each in log("prompt")] == ["permission", "next"]


def test_restart_goes_on_with_the_session(fleet: Fleet) -> None:
    create(fleet)
    fleet.ask("ada", "one")
    for mode in ("kept", "new"):
        restart(fleet, session=mode)
        expected = ["one"] if mode == "kept" else []
        assert fleet.ask("ada", "history") == json.dumps(expected)
    assert fleet.texts("ada", "user") == ["one", "history", "history"]
    assert len(fleet.texts("ada")) == 3


# -- permissions -----------------------------------------------------------------------------


def test_permission_is_a_question_that_survives_the_follower(fleet: Fleet) -> None:
    create(fleet)
    fleet.send("ada", "permission")
    asked = question()
    assert (asked.kind, asked.text, asked.details) == ("permission", "Remove file 1", "rm x")
    assert [each["label"] for each in asked.options] == ["Allow", "Always", "Reject"]
    until(lambda: "a person to answer" in fleet.get("ada")["waitingFor"])
    fleet.stop_follower()
    answer(fleet, asked, "ever")
    fleet.restart_follower()
    fleet.wait("ada", "idle")
    (told,) = log("answer")
    assert told["result"]["outcome"] == {"outcome": "selected", "optionId": "ever"}
    asked.refresh_from_db()
    assert asked.delivered_at
    assert "answered: Always" in fleet.texts("ada", "notice")[-1]


def test_dismissed_permission_is_refused(fleet: Fleet) -> None:
    create(fleet)
    fleet.send("ada", "permission")
    answer(fleet, question(), None)
    fleet.wait("ada", "idle")
    assert log("answer")[0]["result"]["outcome"]["optionId"] == "no"


def test_flood_of_permissions_asks_few_questions(fleet: Fleet) -> None:
    create(fleet)
    fleet.send("ada", "flood 60")
    until(lambda: len(log("answer")) >= 40)
    assert Question.objects.open().count() == 20
    while open_one := Question.objects.open().first():
        answer(fleet, open_one, "yes")
    fleet.wait("ada", "idle")
    assert fleet.get("ada")["outputHistory"] == ["flooded"]


def test_abort_withdraws_the_permission_and_ends_the_answer(fleet: Fleet) -> None:
    create(fleet)
    fleet.send("ada", "permission")
    asked = question()
    fleet.api.post(f"{ROUTE}/ada/abort")
    fleet.wait("ada", "idle")
    asked.refresh_from_db()
    assert asked.state == "withdrawn"
    assert log("answer")[0]["result"]["outcome"] == {"outcome": "cancelled"}
    assert fleet.ask("ada", "hi") == "echo: hi"


# -- agents that misbehave -------------------------------------------------------------------


@pytest.mark.rotated
def test_abort_of_a_deaf_agent_starts_it_again(fleet: Fleet) -> None:
    create(fleet)
    fleet.ask("ada", "one")
    fleet.send("ada", "deaf")
    until(lambda: fleet.get("ada")["lastOutput"])
    fleet.api.post(f"{ROUTE}/ada/abort")
    fleet.wait("ada", "idle")
    assert newest().outcome == Outcome.ABORTED
    assert "did not end its answer" in " ".join(fleet.texts("ada", "notice"))
    assert fleet.ask("ada", "history") == '["one"]'


def test_garbage_is_shown_and_harms_nothing(fleet: Fleet) -> None:
    create(fleet)
    assert fleet.ask("ada", "garbage") == "still here"
    assert any("invalid line: agent: not json" in each for each in fleet.texts("ada", "notice"))


def test_deeply_nested_input_of_a_tool_harms_nothing(fleet: Fleet) -> None:
    create(fleet)
    for depth in (300, 900, 980, 1000):
        assert fleet.ask("ada", f"nested {depth}") == "still here"


def test_exit_in_mid_answer_is_an_error_and_is_started_again(fleet: Fleet) -> None:
    create(fleet, restartPolicy="on-failure")
    fleet.ask("ada", "one")
    fleet.send("ada", "exit 3")
    until(lambda: Answer.objects.filter(outcome=Outcome.INTERRUPTED).exists())
    assert "exit status 3" in " ".join(fleet.texts("ada", "error"))
    fleet.wait("ada", "idle")
    assert fleet.ask("ada", "history") == '["one"]'


def test_unusable_agent_is_an_error_with_the_remedy(fleet: Fleet) -> None:
    create(fleet, "no-login", ready=False)
    row = fleet.wait("ada", "error")
    assert "needs a login or a key" in row.error


@pytest.mark.parametrize(
    ("agent", "error"),
    [
        ({"dialect": "acp"}, "command is required for the agent 'acp'"),
        ({"command": ["x"]}, "agent: must be a text, or an object with a dialect"),
        ({"dialect": "acp", "command": "x"}, "agent: command must be a list of texts"),
        (
            {"dialect": "acp", "command": ["sh"], "permissions": "yes"},
            "agent.permissions: must be one of ask, allow, reject",
        ),
        (
            {"dialect": "acp", "command": ["sh"], "color": "red"},
            "agent.color: is not a setting of the agent 'acp'",
        ),
        ({"dialect": "pi", "files": "read"}, "agent.files: is not a setting of the agent 'pi'"),
        (
            {"dialect": "acp", "preset": "vim"},
            "agent: preset must be one of claude, codex, gemini, opencode, goose, copilot, pi",
        ),
        (
            {"dialect": "acp", "preset": "goose", "command": ["goose"]},
            "agent: has both command and preset",
        ),
        (
            {"dialect": "acp", "preset": "codex"},
            "command: there is no program 'codex-acp' here; get it with npm install -g "
            "@zed-industries/codex-acp",
        ),
        ({"dialect": "acp", "command": ["no-such"]}, "command: there is no program 'no-such' here"),
    ],
)
def test_invalid_agent_is_refused(fleet: Fleet, agent: dict[str, Any], error: str) -> None:
    body = {"name": "ada", "role": "tests", "local": True, "agent": agent}
    answered = fleet.api.post(ROUTE, body)
    assert answered.status_code == 400
    assert answered.json()["error"] == error
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_form_offers_presets_and_permissions(operator: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    page = operator.get("/lieutenants/_new")
    assert "acp: Gemini CLI" in page.content.decode()
    fields = {"agent": "acp:gemini", "permissions": "reject"}
    sent = operator.post("/lieutenants/_new", {**FORM, **fields})
    assert sent.status_code == 302, sent.content
    row = Lieutenant.objects.get()
    assert (row.agent, row.command) == ("acp", ["gemini", "--acp"])
    assert row.agent_options == {"permissions": "reject"}
    assert not row.model


# -- an agent on the official SDK -------------------------------------------------------------


def test_agent_on_the_official_sdk_takes_every_message(fleet: Fleet, settings: Any) -> None:
    settings.AGENT_TOOLS = True
    own = [sys.executable, str(AGENT.with_name("acp_sdk_agent.py"))]
    agent = {"dialect": "acp", "command": own, "mode": "plan", "files": "write", "terminals": "yes"}
    fleet.create("ada", agent=agent, model="small")
    servers = [f"{settings.INFRA_URL}/mcp"]
    assert fleet.ask("ada", "who") == json.dumps(["small", "plan", servers])
    assert fleet.get("ada")["modelInUse"] == "small"

    fleet.send("ada", "work notes.txt")
    asked = question()
    assert (asked.kind, asked.text) == ("permission", "Write notes.txt")
    answer(fleet, asked, "yes")
    fleet.wait("ada", "idle")
    assert fleet.texts("ada", "tool_result") == ["0 True written by an agent"]
    assert fleet.get("ada")["outputHistory"][-1] == "worked"
    assert any("Write" in each for each in fleet.texts("ada", "notice"))
    assert Usage.objects.filter(input=7, output=3).count() == 2

    fleet.send("ada", "wait")
    until(lambda: fleet.get("ada")["lastOutput"] == "waiting")
    fleet.api.post(f"{ROUTE}/ada/abort")
    fleet.wait("ada", "idle")
    assert newest().outcome == Outcome.ABORTED
    before = len(fleet.texts("ada"))
    restart(fleet)
    assert fleet.ask("ada", "history") == '["who", "work notes.txt", "wait"]'
    assert len(fleet.texts("ada")) == before + 1


# -- a real agent ----------------------------------------------------------------------------

EXTENSION = """export default function (pi) {
  pi.on("tool_call", async (event, ctx) => {
    const command = event.input.command ?? "";
    if (command.includes("danger") && !(await ctx.ui.confirm("Allow?", command)))
      return { block: true, reason: "a person said no" };
  });
}
"""
# Writes files into the home and sets variables, both JSON objects, then becomes the agent.
SCRIPT = """
import json, os, pathlib, sys
for name, text in json.loads(sys.argv[1]).items():
    path = pathlib.Path(os.environ["HOME"], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
os.environ.update(json.loads(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:])
"""


def configured(files: dict[str, str], env: dict[str, str], *command: str) -> list[str]:
    """Return the command of an agent that finds these files in its home."""
    return [sys.executable, "-c", SCRIPT, json.dumps(files), json.dumps(env), *command]


def pi_acp(stub: StubLLM) -> list[str]:
    """Return the command of pi's adapter, with the stub as its model."""
    adapter = os.environ.get("REEF_TEST_PI_ACP", "")
    if not adapter:
        pytest.fail("no pi-acp: run the tests with `python3 manage.py test`")
    settings = {
        "quietStartup": True,
        "defaultProvider": "stub",
        "defaultModel": "echo",
        "retry": {"maxRetries": 0},
    }
    files = {
        ".pi/agent/models.json": json.dumps(stub.models_json()),
        ".pi/agent/settings.json": json.dumps(settings),
        ".pi/agent/extensions/ask.ts": EXTENSION,
    }
    env = {"PI_ACP_PI_COMMAND": real_agent("160"), "PI_OFFLINE": "1"}
    return configured(files, env, os.environ["REEF_TEST_NODE22"], adapter)


@pytest.mark.agent
def test_pi_works_over_the_protocol(fleet: Fleet, stub: StubLLM) -> None:
    stub.reset()
    fleet.create("ada", agent={"dialect": "acp", "command": pi_acp(stub)})
    stub.script({"text": "hello to you, too", "chunk": 4})
    assert fleet.ask("ada", "my number is 4711") == "hello to you, too"
    assert fleet.get("ada")["modelInUse"] == "stub/echo"
    shown = json.dumps(stub.requests[-1]["body"]["messages"])
    assert "my number is 4711" in shown
    assert "<instructions>" in shown

    # A tool call for which pi's extension asks a person.
    call = {"tool": {"name": "bash", "arguments": {"command": "echo danger"}}}
    stub.script(call, {"text": "done"})
    fleet.send("ada", "do it")
    asked = question()
    assert (asked.kind, asked.text) == ("permission", "Allow?")
    assert [each["label"] for each in asked.options] == ["Yes", "No"]
    answer(fleet, asked, "yes")
    fleet.wait("ada", "idle")
    assert fleet.get("ada")["outputHistory"][-1] == "done"
    assert any("danger\n" in each for each in fleet.texts("ada", "tool_result"))

    # An abort in the middle of an answer.
    stub.script({"steps": [{"text": "half "}, {"gate": "never"}]})
    fleet.send("ada", "talk")
    until(lambda: fleet.get("ada")["lastOutput"] == "half ")
    fleet.api.post(f"{ROUTE}/ada/abort")
    fleet.wait("ada", "idle")
    assert newest().outcome == Outcome.ABORTED

    # Its memory after a restart, which repeats nothing.
    before = len(fleet.texts("ada"))
    restart(fleet)
    stub.script({"text": "4711, of course"})
    assert fleet.ask("ada", "which number?") == "4711, of course"
    assert "my number is 4711" in json.dumps(stub.requests[-1]["body"]["messages"])
    assert len(fleet.texts("ada")) == before + 1


def opencode(stub: StubLLM) -> list[str]:
    """Return the command of opencode, which is installed if it is missing (177 MB)."""
    folder = Path(os.environ["REEF_TEST_CACHE"]) / "agents" / "opencode"
    program = folder / "node_modules" / "opencode-linux-x64" / "bin" / "opencode"
    if not program.exists():
        shutil.copytree(AGENT.with_name("opencode"), folder, dirs_exist_ok=True)
        subprocess.run(["npm", "ci", *npm_agent.NPM_OPTIONS], cwd=folder, check=True, timeout=300)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": stub.base_url, "apiKey": "stub-key"},
        "models": {"echo": {"name": "Echo"}, "think": {"name": "Think"}},
    }
    config = {
        "model": "stub/think",
        "small_model": "stub/echo",
        "provider": {"stub": provider},
        "permission": {"bash": "ask"},
    }
    off = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    env = {f"OPENCODE_DISABLE_{name}": "1" for name in off}
    files = {".config/opencode/opencode.json": json.dumps(config)}
    return configured(files, env, str(program), "acp")


@pytest.mark.thorough
@pytest.mark.agent
@pytest.mark.timeout(400)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="its recipe is for x86-64")
def test_opencode_works_over_the_protocol(fleet: Fleet, stub: StubLLM) -> None:
    stub.reset()
    agent = {"dialect": "acp", "command": opencode(stub)}
    fleet.create("ada", agent=agent, model="stub/echo", ready=False)
    fleet.wait("ada", "idle", 90)
    assert fleet.get("ada")["modelInUse"] == "stub/echo"
    # Not the requests by which it names its session: those have no tools.
    mine = {"any": '"name": "bash"'}
    call = {"name": "bash", "arguments": {"command": "echo dan''ger", "description": "test"}}
    stub.script({"match": mine, "tool": call}, {"match": mine, "text": "done"})
    fleet.send("ada", "my number is 4711")
    asked: Question = until(lambda: Question.objects.open().first(), 60)
    assert asked.kind == "permission"
    once = next(each["value"] for each in asked.options if "once" in each["value"])
    answer(fleet, asked, once)
    fleet.wait("ada", "idle", 60)
    assert fleet.get("ada")["outputHistory"] == ["done"]
    assert any("danger" in each for each in fleet.texts("ada", "tool_result"))

    stub.script({"match": mine, "steps": [{"text": "half "}, {"gate": "never"}]})
    fleet.send("ada", "talk")
    until(lambda: fleet.get("ada")["lastOutput"] == "half ", 60)
    fleet.api.post(f"{ROUTE}/ada/abort")
    fleet.wait("ada", "idle", 60)
    assert newest().outcome == Outcome.ABORTED

    before = len(fleet.texts("ada"))
    restart(fleet, seconds=90)
    stub.script({"match": mine, "text": "4711"})
    assert fleet.ask("ada", "which number?", 60) == "4711"
    assert len(fleet.texts("ada")) == before + 1
