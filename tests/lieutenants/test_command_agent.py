"""Lieutenants of the agent `command`: real processes, created and driven through the API."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from lieutenants.isolation.homes import home_of
from lieutenants.models import Answer, Lieutenant, Message
from lieutenants.states import MessageState, Mode, Outcome
from tests.conftest import Api, Fleet
from tests.lieutenants.rows import page
from tests.waiting import until

SHELL = ["sh", "-c"]
# Notes each start in its folder, says something, and goes on only when the file `go` is there.
_WAIT = 'echo "$REEF_MESSAGE_ID" >>starts; echo begun; until [ -e go ]; do sleep 0.02; done'
WAITS = [*SHELL, _WAIT]


def create(fleet: Fleet, command: list[str], name: str = "cmd", **fields: Any) -> dict[str, Any]:
    return fleet.create(name, agent="command", command=command, **fields)


def python(code: str) -> list[str]:
    return ["python3", "-c", code]


def folder() -> Path:
    return home_of(Lieutenant.objects.get().pk).workspace


def newest() -> Answer:
    return Answer.objects.order_by("-id")[0]


# -- answers ---------------------------------------------------------------------------------


def test_message_is_its_input_and_its_output_the_answer(fleet: Fleet) -> None:
    made = create(fleet, python("import sys; print(sys.stdin.read().upper())"))
    assert made["agent"] == "command"
    assert made["command"][0] == "python3"
    assert "model" not in made
    text = 'it\'s "quoted" $HOME `x`\\n\nsecond line, no newline at the end: ä€😀'

    assert fleet.ask("cmd", text) == text.upper() + "\n"

    message = Message.objects.get()
    assert message.state == MessageState.ACCEPTED
    assert newest().outcome == Outcome.COMPLETED
    assert fleet.texts("cmd", "user") == [text]
    assert fleet.texts("cmd", "tool_result") == ["exit status 0"]
    assert fleet.ask("cmd", "once more") == "ONCE MORE\n"
    assert fleet.get("cmd")["outputHistory"] == [text.upper() + "\n", "ONCE MORE\n"]


def test_output_is_streamed_while_it_runs(fleet: Fleet) -> None:
    create(fleet, WAITS)
    fleet.send("cmd", "go")
    until(lambda: fleet.get("cmd")["lastOutput"] == "begun\n")
    assert fleet.get("cmd")["status"] == "working"
    assert fleet.get("cmd")["waitingFor"].startswith("tool sh (sh -c ")
    (folder() / "go").touch()
    fleet.wait("cmd", "idle")


def test_failing_exit_is_a_failed_answer_with_the_end_of_stderr(fleet: Fleet) -> None:
    create(fleet, [*SHELL, "echo part; echo 'no such thing' >&2; exit 3"])
    assert fleet.ask("cmd", "x") == "part\n"
    answer = newest()
    assert (answer.outcome, answer.error) == (Outcome.ERROR, "exit status 3: no such thing")
    assert fleet.texts("cmd", "tool_result") == ["no such thing\nexit status 3"]
    assert fleet.get("cmd")["trouble"] == "exit status 3: no such thing"
    fleet.ask("cmd", "y")
    shown = fleet.get("cmd")
    assert shown["failing"]["count"] == 2
    assert shown["failing"]["canRewind"] is False


def test_signal_is_named(fleet: Fleet) -> None:
    create(fleet, [*SHELL, "kill -SEGV $$"])
    fleet.ask("cmd", "x")
    assert newest().error == "killed by SIGSEGV"


def test_program_that_ignores_its_input_is_no_failure(fleet: Fleet) -> None:
    create(fleet, ["echo", "done"])
    assert fleet.ask("cmd", "x" * 900_000) == "done\n"


def test_environment_has_fleet_and_message_and_no_model_keys(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-provider")
    create(fleet, ["env"])
    env = dict(line.split("=", 1) for line in fleet.ask("cmd", "x").splitlines() if "=" in line)
    assert env["REEF_MESSAGE_ID"] == Message.objects.get().pk
    assert env["REEF_LIEUTENANT"] == Lieutenant.objects.get().pk
    assert env["VERS_AGENT_NAME"] == "cmd"
    assert "OPENAI_API_KEY" not in env
    assert not any(home_of(env["REEF_LIEUTENANT"]).config.iterdir())


def test_long_output_keeps_beginning_and_end(fleet: Fleet) -> None:
    code = "import sys; sys.stdout.write('first' + 'x' * 30_000_000 + 'last')"
    create(fleet, python(code))
    text = fleet.ask("cmd", "x", 60)
    text = newest().text
    assert text.startswith("firstxxx")
    assert text.endswith("xlast")
    assert "characters left out …" in text
    assert len(text) < 1_100_000


def test_long_stderr_keeps_its_end(fleet: Fleet) -> None:
    create(fleet, python("import sys; sys.stderr.write('x' * 5_000_000 + 'the end'); sys.exit(1)"))
    fleet.ask("cmd", "x")
    (result,) = fleet.texts("cmd", "tool_result")
    assert result.endswith("the end\nexit status 1")
    assert len(result) < 20_000
    assert len(newest().error) < 1000


def test_output_of_any_bytes_is_kept_as_text(fleet: Fleet) -> None:
    create(fleet, python(r"import sys; sys.stdout.buffer.write(b'a\0b\xffc\xe2\x82')"))
    assert fleet.ask("cmd", "x") == "a�b�c�"


def test_child_that_keeps_the_output_open_does_not_hold_the_answer(fleet: Fleet) -> None:
    create(fleet, [*SHELL, "sleep 1000 & echo $!"])
    pid = int(fleet.ask("cmd", "x"))
    until(lambda: not Path(f"/proc/{pid}").exists())


# -- abort, queue, ends ----------------------------------------------------------------------


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "], ids=["obedient", "stubborn"])
def test_abort_ends_the_program(fleet: Fleet, trap: str) -> None:
    create(fleet, [*SHELL, f"{trap}echo $$; while :; do sleep 0.02; done"])
    fleet.send("cmd", "x")
    until(lambda: fleet.get("cmd")["lastOutput"])
    pid = int(fleet.get("cmd")["lastOutput"])
    queued = fleet.send("cmd", "y")
    answer = fleet.api.post("/lieutenant/lieutenants/cmd/abort")
    assert answer.status_code == 200
    fleet.wait("cmd", "idle")
    assert newest().outcome == Outcome.ABORTED
    assert not Path(f"/proc/{pid}").exists()
    queued.refresh_from_db()
    assert queued.state == MessageState.REJECTED
    assert Answer.objects.count() == 1


def test_further_messages_wait_in_the_queue_of_reef(fleet: Fleet) -> None:
    create(fleet, [*SHELL, f"{_WAIT}; cat"])
    fleet.send("cmd", "one")
    until(lambda: fleet.get("cmd")["lastOutput"])
    follow, steer = fleet.send("cmd", "two"), fleet.send("cmd", "three", mode="steer")
    assert follow.mode == Mode.FOLLOW_UP
    assert steer.mode == Mode.FOLLOW_UP
    assert steer.mode_asked == Mode.STEER
    assert steer.note == "sent as follow-up since the agent 'command' cannot be steered"
    third = f"/lieutenant/lieutenants/cmd/messages/{steer.pk}"
    assert fleet.api.get(third).json()["state"] == "queued"
    assert fleet.api.delete(third).status_code == 200
    (folder() / "go").touch()
    fleet.wait("cmd", "idle")
    assert fleet.get("cmd")["outputHistory"] == ["begun\none", "begun\ntwo"]


def test_new_follower_goes_on_with_a_running_program(fleet: Fleet) -> None:
    create(fleet, WAITS)
    first = fleet.send("cmd", "one")
    until(lambda: fleet.get("cmd")["lastOutput"])
    second = fleet.send("cmd", "two")
    fleet.restart_follower()
    (folder() / "go").touch()
    fleet.wait("cmd", "idle")
    assert (folder() / "starts").read_text().split() == [first.pk, second.pk]
    assert [each.outcome for each in Answer.objects.all()] == [Outcome.COMPLETED] * 2


def test_message_is_not_run_again_after_its_process_was_killed(fleet: Fleet) -> None:
    create(fleet, WAITS, restartPolicy="on-failure")
    first = fleet.send("cmd", "one")
    until(lambda: fleet.get("cmd")["lastOutput"])
    second = fleet.send("cmd", "two")
    os.kill(fleet.process("cmd").handle["agent_pid"], signal.SIGKILL)
    until(lambda: Answer.objects.filter(outcome=Outcome.INTERRUPTED).exists())
    (folder() / "go").touch()
    until(lambda: Message.objects.filter(pk=second.pk, taken_up_at__isnull=False).exists())
    fleet.wait("cmd", "idle")
    assert (folder() / "starts").read_text().split() == [first.pk, second.pk]


def test_pause_ends_the_program_and_resume_starts_anew(fleet: Fleet) -> None:
    create(fleet, [*SHELL, "echo $$; cat; [ -e go ] || sleep 1000"])
    fleet.send("cmd", "one")
    until(lambda: fleet.get("cmd")["lastOutput"].endswith("one"))
    pid = int(fleet.get("cmd")["lastOutput"].split()[0])
    paused = fleet.api.post("/lieutenant/lieutenants/cmd/pause", {"force": True})
    assert paused.status_code == 200
    until(lambda: fleet.row("cmd").live_process() is None)
    assert not Path(f"/proc/{pid}").exists()
    assert newest().outcome == Outcome.ABORTED
    (folder() / "go").touch()
    assert fleet.api.post("/lieutenant/lieutenants/cmd/resume").status_code == 200
    fleet.wait("cmd", "idle")
    assert fleet.ask("cmd", "two").endswith("two")
    assert fleet.api.delete("/lieutenant/lieutenants/cmd").status_code == 200


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "command is required for the agent 'command'"),
        ({"command": []}, "command is required for the agent 'command'"),
        ({"command": [" "]}, "command is required for the agent 'command'"),
        ({"command": "ls"}, "command: must be a list of texts"),
        ({"command": ["ls", 1]}, "command: must be a list of texts"),
        ({"command": ["ls", "a\0"]}, "command: has characters that are no text"),
        ({"command": ["ls", "x" * 20_000]}, "command: at most 20000 characters"),
        ({"command": ["ls"] * 300}, "command: at most 256 texts"),
        ({"command": ["no-such-prog"]}, "command: there is no program 'no-such-prog' here"),
        ({"command": ["ls"], "model": "a/b"}, "model: the agent 'command' uses no model"),
        ({"command": ["ls"], "agent": "pi"}, "command: is for the agents 'command' and 'acp' only"),
        ({"agent": "vi"}, "agent: must be one of pi, command, acp"),
    ],
)
@pytest.mark.django_db
def test_invalid_request_is_refused(api: Api, fields: dict[str, Any], error: str) -> None:
    body = {"name": "cmd", "role": "r", "agent": "command", **fields}
    answer = api.post("/lieutenant/lieutenants", body)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_repeated_request_finds_its_lieutenant_without_the_program(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "some-tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    body = {"name": "cmd", "role": "r", "local": True, "agent": "command"}
    body["command"] = ["some-tool"]
    first = api.post("/lieutenant/lieutenants", body, **{"Idempotency-Key": "one"})
    program.unlink()
    again = api.post("/lieutenant/lieutenants", body, **{"Idempotency-Key": "one"})

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]


def test_missing_file_is_an_error_at_the_start(fleet: Fleet) -> None:
    create(fleet, ["./nowhere"], ready=False)
    row = fleet.wait("cmd", "error")
    assert "The program ./nowhere is not there, or cannot be run." in row.error


def test_program_that_vanishes_is_a_failed_answer(fleet: Fleet) -> None:
    create(fleet, ["./tool"], ready=False)
    fleet.wait("cmd", "error")
    script = folder() / "tool"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    os.chown(script, folder().stat().st_uid, -1)
    assert fleet.api.post("/lieutenant/lieutenants/cmd/restart").status_code == 200
    fleet.wait("cmd", "idle")
    assert fleet.ask("cmd", "x") == "here\n"
    script.unlink()
    fleet.ask("cmd", "x")
    assert newest().error == "./tool cannot be run: No such file or directory"


def test_missing_abilities_are_refused_with_a_reason(fleet: Fleet) -> None:
    create(fleet, ["cat"])
    first = fleet.send("cmd", "hello")
    fleet.wait("cmd", "idle")
    path = "/lieutenant/lieutenants/cmd"
    for answer, status, error in (
        (
            fleet.api.post(f"{path}/rewind", {"messageId": first.pk}),
            409,
            "The agent 'command' cannot go back to before a message",
        ),
        (
            fleet.api.post(f"{path}/restart", {"session": "new"}),
            409,
            "The agent 'command' has no session: each message starts anew",
        ),
        (
            fleet.api.client.patch(path, {"model": "a/b"}, content_type="application/json"),
            400,
            "model: the agent 'command' uses no model",
        ),
    ):
        assert (answer.status_code, answer.json()["error"]) == (status, error)


# -- pages -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_form_creates_one_and_its_page_shows_what_it_can(operator: Client) -> None:
    fields = {"name": "cmd", "role": "r", "agent": "command", "restart_policy": "never"}
    wrong = operator.post("/lieutenants/_new", {**fields, "command": "sh -c 'echo"})
    assert "No closing quotation" in wrong.content.decode()
    made = operator.post("/lieutenants/_new", {**fields, "command": "sh -c 'echo \"$1\"'"})
    assert made.status_code == 302, made.content
    row = Lieutenant.objects.get()
    assert (row.agent, row.command, row.model) == ("command", ["sh", "-c", 'echo "$1"'], "")
    html = page(operator, made["Location"])
    assert "sh -c &#x27;echo &quot;$1&quot;&#x27;" in html
    assert 'value="steer"' not in html
    assert "<dt>Model</dt>" not in html
    assert "<dt>Session</dt>" not in html
