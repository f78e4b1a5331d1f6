"""Rules of the API that the recorded exchanges do not show."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant
from lieutenants.states import Outcome, Status
from reef_site.common.ids import new_ulid
from tests.conftest import Api, Fleet
from tests.dispatching import drop_tasks
from tests.waiting import until
from tests.wire.api_client import DATE, LIEUTENANTS, STARTING_NOTE, create_row, send

# -- sending -----------------------------------------------------------------------------------


def test_message_during_start_is_queued_and_answered(fleet: Fleet) -> None:
    fleet.create("early", ready=False)

    modes = ["prompt", "followUp", "prompt", "steer"]
    said = [send(fleet.api, "early", f"m{n}", mode).json() for n, mode in enumerate(modes)]

    # The first message must be a prompt, whatever mode was requested.
    assert [each["mode"] for each in said] == ["prompt", "followUp", "prompt", "steer"]
    assert {each["note"] for each in said} == {STARTING_NOTE}
    assert {each["state"] for each in said} == {"queued"}
    fleet.wait("early", "idle")
    assert sorted(fleet.texts("early", "user")) == ["m0", "m1", "m2", "m3"]
    assert fleet.get("early")["taskCount"] == 2


def test_first_message_during_start_is_a_prompt(fleet: Fleet) -> None:
    fleet.create("early", ready=False)

    said = send(fleet.api, "early", "go", "steer").json()

    assert (said["mode"], said["note"]) == ("prompt", STARTING_NOTE)
    fleet.wait("early", "idle")
    assert fleet.texts("early") == ["echo: go"]


def test_repeated_key_returns_the_same_message(fleet: Fleet) -> None:
    fleet.create("once")

    first = send(fleet.api, "once", "hello", key="k1")
    again = send(fleet.api, "once", "hello", key="k1")
    fleet.wait("once", "idle")
    late = send(fleet.api, "once", "hello", key="k1")

    ids = {each.json()["messageId"] for each in (first, again, late)}
    assert {each.status_code for each in (first, again, late)} == {200}
    assert len(ids) == 1
    assert late.json()["state"] == "accepted"
    assert fleet.texts("once", "user") == ["hello"]
    assert fleet.get("once")["taskCount"] == 1


def test_repeated_key_with_another_message_is_a_409(fleet: Fleet) -> None:
    for name in ("one", "two"):
        fleet.create(name)
    send(fleet.api, "one", "hello", key="k")

    for text, mode in (("other", None), ("hello", "steer")):
        refused = send(fleet.api, "one", text, mode, key="k")
        assert refused.status_code == 409
        assert refused.json() == {"error": "Idempotency-Key: was used for another message"}
    # Keys belong to one lieutenant, and are compared with the request, not with its result.
    assert send(fleet.api, "two", "other", "steer", key="k").status_code == 200
    assert send(fleet.api, "two", "other", "steer", key="k").status_code == 200
    assert send(fleet.api, "two", "x", key="k" * 201).status_code == 400


def test_message_has_state_and_evidence(fleet: Fleet) -> None:
    fleet.create("judge")
    said = send(fleet.api, "judge", "hello").json()
    assert list(said) == ["sent", "mode", "messageId", "state"]
    fleet.wait("judge", "idle")

    path = f"{LIEUTENANTS}/judge/messages"
    message = fleet.api.get(f"{path}/{said['messageId']}").json()

    assert (message["state"], message["text"], message["modeAsked"]) == (
        "accepted",
        "hello",
        "prompt",
    )
    assert message["evidence"] == {
        "id": said["messageId"],
        "type": "response",
        "command": "prompt",
        "success": True,
    }
    dates = [message[f"{each}At"] for each in ("created", "delivered", "decided", "takenUp")]
    assert all(DATE.fullmatch(each) for each in dates)
    assert dates[0] <= dates[1] <= dates[2]
    assert message["usage"]["calls"] == 1
    listed = fleet.api.get(path).json()
    assert message.pop("answer") == "echo: hello"
    assert (listed["count"], listed["messages"], listed["next"]) == (1, [message], None)
    missing = fleet.api.get(f"{path}/{new_ulid()}")
    assert (missing.status_code, missing.json()) == (404, {"error": "Message not found"})


def test_messages_are_newest_first_and_limited(fleet: Fleet) -> None:
    fleet.create("many")
    for number in range(5):
        send(fleet.api, "many", f"m{number}")

    listed = fleet.api.get(f"{LIEUTENANTS}/many/messages?limit=2").json()

    assert [each["text"] for each in listed["messages"]] == ["m4", "m3"]
    assert fleet.api.get(f"{LIEUTENANTS}/many/messages?limit=1001").status_code == 400


@pytest.mark.parametrize("mode", ["followup", "", 5, [], {}, True, "PROMPT"])
def test_unknown_modes_are_rejected(mode: object, fleet: Fleet) -> None:
    fleet.create("picky")

    refused = fleet.api.post(f"{LIEUTENANTS}/picky/send", {"message": "x", "mode": mode})

    assert refused.status_code == 400
    assert refused.json() == {"error": "mode: must be one of prompt, steer, followUp"}


# -- reading -----------------------------------------------------------------------------------


def test_tail_counts_characters_not_code_units(fleet: Fleet) -> None:
    fleet.create("poet")
    answer = fleet.ask("poet", "🐙🐙🐙é漢")
    assert answer == "echo: 🐙🐙🐙é漢"

    def read(query: str) -> Any:
        return fleet.api.get(f"{LIEUTENANTS}/poet/read{query}").json()

    assert read("?tail=3")["output"] == "...🐙é漢"
    assert read("?tail=3")["outputLength"] == 11
    assert read("?tail=11")["output"] == answer
    assert read("?tail=")["output"] == answer
    both = read("?history=5&tail=1")["output"]
    # The tail covers only the current part, and the newest answer is shown once.
    assert both == f"=== Response 1 ===\n{answer}\n\n=== Current (idle) ===\n(no output yet)"


@pytest.mark.django_db
@pytest.mark.parametrize("value", ["-1", "abc", "8abc", "1.5", "1e3", "+1", "٣", "1" * 30, "%20"])
@pytest.mark.parametrize("name", ["tail", "history"])
def test_invalid_numbers_are_rejected(api: Api, name: str, value: str) -> None:
    create_row("odd")

    refused = api.get(f"{LIEUTENANTS}/odd/read?{name}={value}")

    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{name}: must be a whole number from 0 to ")


def create_turns(row: Lieutenant, count: int) -> None:
    process = row.processes.create(host=row.host, transport="local", directory="/", agent="x")
    now = timezone.now()
    facts = {"lieutenant": row, "process": process, "started_at": now, "ended_at": now}
    Answer.objects.bulk_create(
        Answer(**facts, outcome=Outcome.COMPLETED, text=f"answer {number}")
        for number in range(count)
    )


@pytest.mark.django_db
def test_history_has_the_newest_twenty_answers(api: Api) -> None:
    row = create_row("wordy")
    create_turns(row, 25)
    Answer.objects.filter(text="answer 24").update(text="  \n ")

    got = api.get(f"{LIEUTENANTS}/wordy").json()["outputHistory"]
    read = api.get(f"{LIEUTENANTS}/wordy/read?history=2").json()

    assert got == [f"answer {number}" for number in range(5, 24)]
    assert read["historyCount"] == 19
    assert read["output"] == (
        "=== Response 18 ===\nanswer 22\n\n=== Response 19 ===\nanswer 23\n\n"
        "=== Current (idle) ===\n(no output yet)"
    )


# -- transcript --------------------------------------------------------------------------------


def test_transcript_is_complete_and_pages_are_stable(fleet: Fleet) -> None:
    fleet.create("teller")
    for text in ("THINK one", "TOOL two", "three"):
        fleet.ask("teller", text)
    path = f"{LIEUTENANTS}/teller/transcript"
    whole = fleet.api.get(path).json()
    kinds = [each["kind"] for each in whole["entries"]]

    for limit in (1, 2, 3, 7):
        pages, after = [], 0
        while after is not None:
            page = fleet.api.get(f"{path}?after={after}&limit={limit}").json()
            assert page["count"] == len(page["entries"]) <= limit
            pages += page["entries"]
            after = page["next"]
        assert pages == whole["entries"]
    assert whole["next"] is None
    assert whole["rev"] == fleet.get("teller")["rev"]
    assert {"user", "thinking", "text", "tool_call", "tool_result", "usage"} <= set(kinds)
    assert kinds.count("user") == 3
    ids = [each["id"] for each in whole["entries"]]
    assert ids == sorted(set(ids))


def test_pages_are_stable_while_the_transcript_grows(fleet: Fleet) -> None:
    fleet.create("grower")
    fleet.ask("grower", "before")
    path = f"{LIEUTENANTS}/grower/transcript"
    first = fleet.api.get(f"{path}?limit=2").json()
    fleet.ask("grower", "after")

    rest = fleet.api.get(f"{path}?after={first['next']}&limit=1000").json()

    texts = [each["text"] for each in first["entries"] + rest["entries"] if each["text"]]
    assert texts == ["before", "echo: before", "after", "echo: after"]
    nothing = fleet.api.get(f"{path}?after={rest['entries'][-1]['id']}").json()
    assert (nothing["entries"], nothing["next"]) == ([], None)


def test_transcript_contains_the_running_turn(fleet: Fleet) -> None:
    fleet.create("slow")
    fleet.send("slow", "SLOW 30 one two three four five six")

    def begun() -> Any:
        entries = fleet.api.get(f"{LIEUTENANTS}/slow/transcript").json()["entries"]
        return next((each for each in entries if each["kind"] == "text" and each["text"]), None)

    entry = until(begun)
    assert entry["final"] is False
    assert "one two".startswith(entry["text"].strip()[:7])
    assert fleet.get("slow")["lastOutput"].startswith("one")
    fleet.api.post(f"{LIEUTENANTS}/slow/abort")
    fleet.wait("slow", "idle")


# -- what changes state ------------------------------------------------------------------------


def test_abort_ends_the_turn(fleet: Fleet) -> None:
    fleet.create("stopped")
    refused = fleet.api.post(f"{LIEUTENANTS}/stopped/abort")
    assert refused.status_code == 400
    assert refused.json() == {"error": "Lieutenant 'stopped' is not working (status: idle)"}
    fleet.send("stopped", "SILENT")
    until(lambda: fleet.texts("stopped", "user"))

    done = fleet.api.post(f"{LIEUTENANTS}/stopped/abort")

    assert (done.status_code, done.json()) == (200, {"aborted": True})
    fleet.wait("stopped", "idle")
    assert fleet.ask("stopped", "go on") == "echo: go on"


def test_restart_replaces_the_process(fleet: Fleet) -> None:
    fleet.create("again")
    fleet.ask("again", "remember me")
    before = fleet.process("again").pk

    done = fleet.api.post(f"{LIEUTENANTS}/again/restart?wait=30")

    assert (done.status_code, done.json()) == (200, {"restarted": True})
    until(lambda: (live := fleet.row("again").live_process()) and live.pk != before)
    fleet.wait("again", "idle")
    assert fleet.ask("again", "RECALL") == "recall: remember me"


def test_pause_while_working_needs_force(fleet: Fleet) -> None:
    fleet.create("busy")
    fleet.send("busy", "SILENT")
    fleet.wait("busy", "working")

    refused = fleet.api.post(f"{LIEUTENANTS}/busy/pause")
    forced = fleet.api.post(f"{LIEUTENANTS}/busy/pause", {"force": True})

    text = "Lieutenant 'busy' is working. Wait for it to finish or steer it first."
    assert (refused.status_code, refused.json()) == (400, {"error": text})
    assert (forced.status_code, forced.json()) == (200, {"paused": True})
    again = fleet.api.post(f"{LIEUTENANTS}/busy/pause")
    assert (again.status_code, again.json()) == (200, {"paused": True})
    sent = send(fleet.api, "busy", "x")
    assert (sent.status_code, sent.json()) == (
        400,
        {"error": "Lieutenant 'busy' is paused. Resume it first."},
    )


def test_resume_right_after_pause_is_accepted(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume during a stop still stops the process and starts another one."""
    fleet.create("hasty")
    fleet.ask("hasty", "remember me")
    before = fleet.process("hasty").pk
    with monkeypatch.context() as context:
        drop_tasks(context, "lieutenants.settle")
        assert fleet.api.post(f"{LIEUTENANTS}/hasty/pause").json() == {"paused": True}

    assert fleet.api.post(f"{LIEUTENANTS}/hasty/resume").json() == {"resumed": True}

    fleet.wait("hasty", "idle")
    assert fleet.process("hasty").pk != before
    assert fleet.ask("hasty", "RECALL") == "recall: remember me"


@pytest.mark.django_db
@pytest.mark.parametrize("verb", ["send", "pause", "resume", "restart", "abort"])
def test_action_on_an_unknown_lieutenant_is_a_404(api: Api, verb: str) -> None:
    body = {"message": "x"} if verb == "send" else {}
    answer = api.post(f"{LIEUTENANTS}/nobody/{verb}", body)

    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "Lieutenant 'nobody' not found"},
    )


@pytest.mark.django_db
@pytest.mark.parametrize("route", ["", "/read", "/transcript", "/messages", "/usage", "/stream"])
def test_reading_an_unknown_lieutenant_is_a_404(api: Api, route: str) -> None:
    answer = api.get(f"{LIEUTENANTS}/nobody{route}")

    assert (answer.status_code, answer.json()) == (404, {"error": "Lieutenant not found"})


@pytest.mark.django_db
def test_sending_to_a_dead_agent_is_rejected(api: Api) -> None:
    create_row("dead", status=Status.ERROR)

    refused = send(api, "dead", "x")

    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error.startswith("No active RPC connection for 'dead'")
    assert "/restart" in error


# -- waiting -----------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5"])
def test_invalid_waits_are_rejected(api: Api, wait: str) -> None:
    create_row("asleep", status=Status.PAUSED)
    for path in ("", "/asleep/resume", "/asleep/restart"):
        body = {} if path else {"name": "a", "role": "r", "local": True}
        refused = api.post(f"{LIEUTENANTS}{path}?wait={wait}", body)
        assert refused.status_code == 400
        assert refused.json() == {"error": "wait: must be a whole number from 0 to 60"}
    # Nothing was changed before the rejection.
    assert [each.status for each in Lieutenant.objects.all()] == [Status.PAUSED]
