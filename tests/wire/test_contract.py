"""The rules of the agents' API that the recorded exchanges do not show."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, Message, new_ulid
from lieutenants.states import Outcome, Status
from tests.conftest import Api, Fleet
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"
STARTING_NOTE = "queued until the lieutenant is ready"
FOLLOW_UP_NOTE = "auto-queued as follow-up since lieutenant is working"
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def send(api: Api, name: str, text: str, mode: str | None = None, key: str = "") -> Any:
    body = {"message": text, **({"mode": mode} if mode else {})}
    headers = {"idempotency-key": key} if key else {}
    return api.post(f"{LIEUTENANTS}/{name}/send", body, **headers)


# -- sending -----------------------------------------------------------------------------------


def test_what_is_sent_while_starting_is_queued_and_answered(fleet: Fleet) -> None:
    fleet.create("early", ready=False)

    modes = ["prompt", "followUp", "prompt", "steer"]
    said = [send(fleet.api, "early", f"m{n}", mode).json() for n, mode in enumerate(modes)]

    # The first must be a prompt, whatever was asked for.
    assert [each["mode"] for each in said] == ["prompt", "followUp", "prompt", "steer"]
    assert {each["note"] for each in said} == {STARTING_NOTE}
    assert {each["state"] for each in said} == {"queued"}
    fleet.wait("early", "idle")
    assert sorted(fleet.texts("early", "user")) == ["m0", "m1", "m2", "m3"]
    assert fleet.get("early")["taskCount"] == 2


def test_the_first_message_while_starting_is_a_prompt(fleet: Fleet) -> None:
    fleet.create("early", ready=False)

    said = send(fleet.api, "early", "go", "steer").json()

    assert (said["mode"], said["note"]) == ("prompt", STARTING_NOTE)
    fleet.wait("early", "idle")
    assert fleet.texts("early") == ["echo: go"]


def test_a_key_gives_the_same_message(fleet: Fleet) -> None:
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


def test_a_key_with_another_message_is_a_409(fleet: Fleet) -> None:
    for name in ("one", "two"):
        fleet.create(name)
    send(fleet.api, "one", "hello", key="k")

    for text, mode in (("other", None), ("hello", "steer")):
        refused = send(fleet.api, "one", text, mode, key="k")
        assert refused.status_code == 409
        assert refused.json() == {"error": "Idempotency-Key: was used for another message"}
    # Another lieutenant's keys are its own; a key is taken for what was asked, not what it became.
    assert send(fleet.api, "two", "other", "steer", key="k").status_code == 200
    assert send(fleet.api, "two", "other", "steer", key="k").status_code == 200
    assert send(fleet.api, "two", "x", key="k" * 201).status_code == 400


def test_a_message_has_its_verdict(fleet: Fleet) -> None:
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
    assert (listed["count"], listed["messages"]) == (1, [message])
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
def test_modes_there_are_not(mode: object, fleet: Fleet) -> None:
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
    # The tail is of the current part only.
    assert both == f"=== Response 1 ===\n{answer}\n\n=== Current (idle) ===\n...漢"


@pytest.mark.django_db
@pytest.mark.parametrize("value", ["-1", "abc", "8abc", "1.5", "1e3", "+1", "٣", "1" * 30, "%20"])
@pytest.mark.parametrize("name", ["tail", "history"])
def test_odd_numbers_are_refused(api: Api, name: str, value: str) -> None:
    living("odd")

    refused = api.get(f"{LIEUTENANTS}/odd/read?{name}={value}")

    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{name}: must be a whole number from 0 to ")


def living(name: str, **fields: Any) -> Lieutenant:
    """A row without a process."""
    fields = {"status": Status.IDLE, "role": "tests", "host": "elsewhere", **fields}
    return Lieutenant.objects.create(name=name, **fields)


def answered(row: Lieutenant, count: int) -> None:
    process = row.processes.create(host=row.host, transport="local", directory="/", agent="x")
    now = timezone.now()
    facts = {"lieutenant": row, "process": process, "started_at": now, "ended_at": now}
    Answer.objects.bulk_create(
        Answer(**facts, outcome=Outcome.COMPLETED, text=f"answer {number}")
        for number in range(count)
    )


@pytest.mark.django_db
def test_the_history_holds_the_newest_twenty(api: Api) -> None:
    row = living("wordy")
    answered(row, 25)
    Answer.objects.filter(text="answer 24").update(text="  \n ")

    got = api.get(f"{LIEUTENANTS}/wordy").json()["outputHistory"]
    read = api.get(f"{LIEUTENANTS}/wordy/read?history=2").json()

    assert got == [f"answer {number}" for number in range(5, 24)]
    assert read["historyCount"] == 19
    assert read["output"] == (
        "=== Response 18 ===\nanswer 22\n\n=== Response 19 ===\nanswer 23\n\n"
        "=== Current (idle) ===\nanswer 23"
    )


# -- transcript --------------------------------------------------------------------------------


def test_the_transcript_is_complete_and_pages_are_stable(fleet: Fleet) -> None:
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


def test_pages_do_not_shift_while_it_grows(fleet: Fleet) -> None:
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


def test_a_running_answer_is_in_the_transcript(fleet: Fleet) -> None:
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


def test_abort(fleet: Fleet) -> None:
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


def test_restart(fleet: Fleet) -> None:
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


@pytest.mark.django_db
@pytest.mark.parametrize("verb", ["send", "pause", "resume", "restart", "abort"])
def test_whom_nobody_knows(api: Api, verb: str) -> None:
    answer = api.post(f"{LIEUTENANTS}/nobody/{verb}", {"message": "x"})

    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "Lieutenant 'nobody' not found"},
    )


@pytest.mark.django_db
@pytest.mark.parametrize("route", ["", "/read", "/transcript", "/messages", "/usage", "/stream"])
def test_what_nobody_can_read(api: Api, route: str) -> None:
    answer = api.get(f"{LIEUTENANTS}/nobody{route}")

    assert (answer.status_code, answer.json()) == (404, {"error": "Lieutenant not found"})


@pytest.mark.django_db
def test_sending_to_one_whose_agent_is_dead(api: Api) -> None:
    living("dead", status=Status.ERROR)

    refused = send(api, "dead", "x")

    assert refused.status_code == 400
    assert refused.json() == {"error": "No active RPC connection for 'dead'"}


# -- waiting -----------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5"])
def test_how_long_nobody_waits(api: Api, wait: str) -> None:
    living("asleep", status=Status.PAUSED)
    for path in ("", "/asleep/resume", "/asleep/restart"):
        body = {"name": "a", "role": "r", "local": True}
        refused = api.post(f"{LIEUTENANTS}{path}?wait={wait}", body)
        assert refused.status_code == 400
        assert refused.json() == {"error": "wait: must be a whole number from 0 to 60"}
    # Nothing was done before the refusal.
    assert [each.status for each in Lieutenant.objects.all()] == [Status.PAUSED]


# -- shapes ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_keys_are_absent_when_unset(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    plain = api.post(LIEUTENANTS, {"name": "plain", "role": "r", "local": True}).json()
    settings.AGENT_NAME = "parent"
    full = api.post(
        LIEUTENANTS,
        {"name": "full", "role": "r", "model": "a/b", "idleLimitMinutes": 5, "commitId": None},
    ).json()

    optional = {"model", "parentAgent", "error", "trouble", "restartAt", "idleLimitMinutes"}
    assert not optional & plain.keys()
    assert None not in plain.values()
    assert (full["model"], full["parentAgent"], full["idleLimitMinutes"]) == ("a/b", "parent", 5)
    assert list(full)[:14] == [
        *("id", "name", "role", "vmId", "isLocal", "status", "lastOutput", "outputHistory"),
        *("taskCount", "createdAt", "lastActivityAt", "systemPrompt", "model", "parentAgent"),
    ]
    assert ULID.fullmatch(full["id"])
    assert DATE.fullmatch(full["createdAt"])


@pytest.mark.django_db
def test_the_body_is_json_whatever_its_type_says(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
    for number, kind in enumerate(types):
        body = json.dumps({"name": f"n{number}", "role": "r é", "local": True})
        answer = api.client.generic("POST", LIEUTENANTS, body.encode(), content_type=kind)
        assert (answer.status_code, answer.json()["role"]) == (201, "r é")
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "body",
    [
        b"{bad",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name":"a","role":"r","local":NaN}x',
        b'{"message":"\\ud800","name":"a","role":"\\ud800"}',
        b'{"name":"a\\u0000b","role":"r","message":"a\\u0000b"}',
        b'{"name":1e999,"role":[],"message":{}}',
        b'"text"',
        b"[1]",
        b"null",
        b"5",
        b"true",
    ],
)
def test_nothing_that_is_sent_is_a_500(api: Api, body: bytes) -> None:
    living("target")
    for path in (LIEUTENANTS, f"{LIEUTENANTS}/target/send"):
        answer = api.client.generic("POST", path, body, content_type="application/json")
        assert answer.status_code == 400, answer.content
        assert list(answer.json()) == ["error"]
        assert len(answer.content) < 500


BAD_FIELDS: dict[str, list[object]] = {
    "name": ["../x", "a/b", "a\nb", "-a", ".a", "ä", "a" * 65, "a" * 10_000],
    "role": ["r" * 4001],
    "local": ["false", 0, "", []],
    "model": [5, ["x"], "-x", "m" * 201],
    "directive": [5, "d" * 20_001],
    "folder": ["relative", "/no/such/folder", "/dev/null", 5, "/\0"],
    "restartPolicy": ["always", 5],
    "idleLimitMinutes": [0, -1, "5", 1.5, True, 10**12],
    "stallLimitSeconds": [-1, "5", 10**12],
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in BAD_FIELDS for value in BAD_FIELDS[field]]
)
def test_fields_are_checked_and_named(api: Api, field: str, value: object) -> None:
    body = {"name": "good", "role": "r", "local": True, field: value}

    refused = api.post(LIEUTENANTS, body)

    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{field}: "), refused.json()
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_names_that_are_good(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    for name in ("a", "0", "a.b_c-D", "a" * 64, "discover2"):
        assert api.post(LIEUTENANTS, {"name": f" {name}\n", "role": " r "}).status_code == 201
        got = api.get(f"{LIEUTENANTS}/{name}").json()
        assert (got["name"], got["role"]) == (name, "r")


@pytest.mark.django_db
def test_names_are_no_routes(api: Api, settings: Any) -> None:
    """A lieutenant may be called like a route without taking its place."""
    settings.PI_PATH = "/bin/true"
    for name in ("destroy-all", "discover"):
        assert api.post(LIEUTENANTS, {"name": name, "role": "r"}).status_code == 201

    assert api.post(f"{LIEUTENANTS}/discover").json().keys() == {"results"}
    results = api.post(f"{LIEUTENANTS}/destroy-all").json()["results"]
    assert results == [
        f"{name}: destroyed (local, 0 tasks completed)" for name in ("destroy-all", "discover")
    ]


@pytest.mark.django_db
def test_without_an_agent_it_is_a_503_that_helps(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/nowhere/pi"

    refused = api.post(LIEUTENANTS, {"name": "a", "role": "r"})

    assert refused.status_code == 503
    assert "/nowhere/pi" in refused.json()["error"]
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_large_messages(api: Api) -> None:
    living("target")
    most = settings.MAX_MESSAGE_BYTES

    refused = send(api, "target", "é" * most)

    assert refused.status_code == 413
    assert refused.json() == {"error": f"message: has {2 * most} bytes, at most {most} are taken"}
    assert not Message.objects.exists()


@pytest.mark.django_db
def test_a_trailing_slash_works_like_none(api: Api) -> None:
    row = living("slash")
    gets = ["", "/slash", "/slash/read", "/slash/transcript", "/slash/messages", "/slash/usage"]
    for path in [*(f"{LIEUTENANTS}{each}" for each in gets), "/lieutenant/usage"]:
        plain, slashed = api.get(path), api.get(f"{path}/")
        assert plain.status_code == slashed.status_code == 200
        assert plain.json() == slashed.json()
    assert api.get("/lieutenant/_panel/").status_code == 200
    assert api.post(f"{LIEUTENANTS}/slash/send/", {"message": "x"}).status_code == 200
    assert api.post(f"{LIEUTENANTS}/discover/").status_code == 200
    assert api.delete(f"{LIEUTENANTS}/slash/").status_code == 200
    row.refresh_from_db()
    assert row.status == Status.DESTROYED


@pytest.mark.django_db
def test_head_works_where_get_does(api: Api) -> None:
    living("head")
    for path in (LIEUTENANTS, f"{LIEUTENANTS}/head", f"{LIEUTENANTS}/head/read"):
        answer = api.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.django_db
def test_lists_by_status(api: Api) -> None:
    for status in Status.values:
        living(f"is-{status}", status=status)

    def names(query: str) -> list[str]:
        found = api.get(f"{LIEUTENANTS}{query}").json()
        assert found["count"] == len(found["lieutenants"])
        return [each["name"] for each in found["lieutenants"]]

    living_ones = [f"is-{each}" for each in reversed(Status.values) if each != "destroyed"]
    assert names("") == names("?status=") == living_ones
    assert names("?status=idle") == ["is-idle"]
    assert names("?status=destroyed") == names("?status=IDLE") == names("?status=%00") == []


@pytest.mark.django_db
def test_the_panel_escapes(api: Api) -> None:
    living("panel", role="<script>alert(1)</script>" + "x" * 100)

    panel = api.get("/lieutenant/_panel")

    assert panel.headers["Content-Type"] == "text/html; charset=utf-8"
    html = panel.content.decode()
    assert "<table" in html
    assert "panel" in html
    assert "<script" not in html
    assert "x" * 60 not in html


# -- the tools of agents in the field ------------------------------------------------------------


class OldClient:
    """What the tools of the old extension ask, and the texts that they make of the answers."""

    def __init__(self) -> None:
        token = f"Bearer {settings.ROOT_TOKEN}"
        self.client = Client(headers={"authorization": token})

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON, or an exception in the old client's words."""
        answer: Any = self.client.generic(
            method,
            f"/lieutenant{path}",
            b"" if body is None else json.dumps(body).encode(),
            content_type="application/json",
        )
        if not 200 <= answer.status_code < 300:
            error = answer.json()["error"]
            raise RuntimeError(f"{method} /lieutenant{path} ({answer.status_code}): {error}")
        return answer.json()

    def create(self, name: str, role: str, **more: object) -> str:
        made = self.call(
            "POST", "/lieutenants", {"name": name, "role": role, "local": True, **more}
        )
        where = "[local]" if made["isLocal"] else f"[VM: {made['vmId']}]"
        head = f'Lieutenant "{made["name"]}" is ready {where}.'
        return f"{head}\n  Role: {made['role']}\n  Status: {made['status']}"

    def send(self, name: str, message: str, **more: object) -> str:
        said = self.call("POST", f"/lieutenants/{name}/send", {"message": message, **more})
        note = f" ({said['note']})" if said.get("note") else ""
        shown = message[:120] + ("..." if len(message) > 120 else "")
        return f'Sent to {name} ({said["mode"]}){note}: "{shown}"'

    def read(self, name: str, query: str = "") -> str:
        got = self.call("GET", f"/lieutenants/{name}/read{query}")
        head = f"[{got['name']}] ({got['status']}, {got['taskCount']} tasks):"
        return f"{head}\n\n{got['output']}"

    def status(self) -> str:
        found = self.call("GET", "/lieutenants")
        if not found["count"]:
            return "No lieutenants active."
        icons = {"working": "~", "idle": "*", "paused": "||", "error": "X"}
        return "\n\n".join(
            "\n".join(
                (
                    f"{icons.get(each['status'], 'o')} {each['name']} [{each['status']}]",
                    f"  Role: {each['role']}",
                    "  local" if each["isLocal"] else f"  VM: {each['vmId'][:12]}",
                    f"  Tasks: {each['taskCount']}",
                    f"  Last active: {each['lastActivityAt']}",
                )
            )
            for each in found["lieutenants"]
        )

    def destroy(self, name: str) -> str:
        if name == "*":
            results = self.call("POST", "/lieutenants/destroy-all")["results"]
            return "\n".join(results) or "No lieutenants to destroy."
        return str(self.call("DELETE", f"/lieutenants/{name}")["detail"])

    def widget(self) -> str:
        """The line that the extension shows in the agent's own terminal."""
        found = self.call("GET", "/lieutenants")
        if not found["count"]:
            return ""
        line = f"Lieutenants: {found['count']} LT"
        for status in ("working", "idle", "paused"):
            count = sum(each["status"] == status for each in found["lieutenants"])
            line += f", {count} {status}" if count else ""
        return line


def test_an_old_client_works_unchanged(fleet: Fleet) -> None:
    old = OldClient()
    assert old.status() == "No lieutenants active."
    assert old.widget() == ""
    assert old.destroy("*") == "No lieutenants to destroy."

    made = old.create("scout", "looks around")
    assert made == 'Lieutenant "scout" is ready [local].\n  Role: looks around\n  Status: starting'
    fleet.wait("scout", "idle")
    assert old.read("scout") == "[scout] (idle, 0 tasks):\n\n(no output yet)"

    long = "x" * 130
    assert old.send("scout", long) == f'Sent to scout (prompt): "{"x" * 120}..."'
    fleet.wait("scout", "idle")
    assert old.read("scout") == f"[scout] (idle, 1 tasks):\n\necho: {long}"
    assert old.read("scout", "?tail=5") == "[scout] (idle, 1 tasks):\n\n...xxxxx"

    old.send("scout", "SILENT")
    assert old.send("scout", "more") == f'Sent to scout (followUp) ({FOLLOW_UP_NOTE}): "more"'
    assert old.send("scout", "now", mode="steer") == 'Sent to scout (steer): "now"'
    assert old.widget() == "Lieutenants: 1 LT, 1 working"
    lines = old.status().split("\n")
    assert lines[:4] == ["~ scout [working]", "  Role: looks around", "  local", "  Tasks: 2"]
    assert DATE.fullmatch(lines[4].removeprefix("  Last active: "))

    detail = "scout: destroyed (local, 2 tasks completed)"
    assert old.destroy("scout") == detail
    assert old.destroy("scout") == detail
    assert old.status() == "No lieutenants active."


def test_an_old_client_pauses_and_is_told_what_is_wrong(fleet: Fleet) -> None:
    old = OldClient()
    old.create("sleeper", "sleeps")
    fleet.wait("sleeper", "idle")

    assert old.call("POST", "/lieutenants/sleeper/pause") == {"paused": True}
    assert old.widget() == "Lieutenants: 1 LT, 1 paused"
    assert old.status().startswith("|| sleeper [paused]")
    with pytest.raises(RuntimeError, match=r"^POST /lieutenant/lieutenants/sleeper/send \(400\): "):
        old.send("sleeper", "x")
    with pytest.raises(RuntimeError, match=r"\(409\): Lieutenant 'sleeper' already exists\. Destr"):
        old.create("sleeper", "x")
    assert old.call("POST", "/lieutenants/sleeper/resume") == {"resumed": True}
    with pytest.raises(RuntimeError, match=r"\(400\): Lieutenant 'sleeper' is not paused \(status"):
        old.call("POST", "/lieutenants/sleeper/resume")
    results = old.call("POST", "/lieutenants/discover")["results"]
    assert all(isinstance(each, str) for each in results)
    fleet.wait("sleeper", "idle")
    assert old.destroy("*") == "sleeper: destroyed (local, 0 tasks completed)"
