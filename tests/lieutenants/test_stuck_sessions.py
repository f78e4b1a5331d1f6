"""Sessions that cannot continue, and the remedies; with real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from lieutenants.agents.pi.session_files import NEW_SESSION_NOTE
from lieutenants.isolation.homes import home_of
from lieutenants.models import AgentModels, Entry, Message
from lieutenants.states import MessageState
from reef_site.accounts import signin_links
from reef_site.common import clock
from registry.rules import conditions
from registry.rules.models import Action, Event, Rule
from tests.conftest import Fleet
from tests.waiting import until

ROUTE = "/lieutenant/lieutenants"
AT_ONCE = 4.0


def session_files(fleet: Fleet, name: str) -> set[str]:
    return {each.name for each in home_of(fleet.row(name).pk).session.glob("*.jsonl")}


def patch(fleet: Fleet, name: str, body: Any) -> Any:
    return fleet.api.client.patch(f"{ROUTE}/{name}", data=body, content_type="application/json")


def poison(fleet: Fleet, name: str) -> None:
    fleet.create(name)
    fleet.ask(name, "remember 4711")
    for text in ("POISON-7", "harmless 1", "harmless 2"):
        fleet.ask(name, text)


def rewind(fleet: Fleet, name: str, **body: object) -> Any:
    answer = fleet.api.post(f"{ROUTE}/{name}/rewind", body)
    if answer.status_code == 202:
        until(lambda: fleet.row(name).rewind_to is None)
    return answer


def test_poisoned_session_continues_before_the_message(fleet: Fleet) -> None:
    poison(fleet, "ada")
    assert fleet.get("ada")["failing"]["count"] == 3
    fleet.api.post(f"{ROUTE}/ada/restart")
    fleet.wait("ada", "idle")
    fleet.ask("ada", "harmless 3")
    known = fleet.get("ada")["failing"]
    assert (known["count"], known["canRewind"]) == (4, True)
    assert len(fleet.texts("ada", "error")) == 2

    answer = rewind(fleet, "ada")
    assert answer.json()["messageId"] == known["messageId"]
    assert "failing" not in fleet.get("ada")
    assert "trouble" not in fleet.get("ada")
    assert "Went back to before message “POISON-7”" in fleet.texts("ada", "notice")[-1]
    assert fleet.ask("ada", "RECALL") == "recall: remember 4711"

    # The next start continues the new branch; the old one is kept.
    assert len(session_files(fleet, "ada")) == 2
    fleet.api.post(f"{ROUTE}/ada/restart")
    fleet.wait("ada", "idle")
    assert fleet.ask("ada", "RECALL") == "recall: remember 4711 | RECALL"
    left = Entry.objects.filter(kind="user", data__rewound=True).values_list("text", flat=True)
    assert list(left) == ["POISON-7", "harmless 1", "harmless 2", "harmless 3"]


def test_session_poisoned_by_its_first_message_starts_over(fleet: Fleet) -> None:
    fleet.create("bob")
    for text in ("POISON", "again"):
        fleet.ask("bob", text)

    assert rewind(fleet, "bob").status_code == 202
    # The new session is still empty: a start must not report that as a loss.
    fleet.api.post(f"{ROUTE}/bob/restart")
    fleet.wait("bob", "idle")
    assert fleet.ask("bob", "RECALL") == "recall: "


def test_rewind_to_any_message_works(fleet: Fleet) -> None:
    fleet.create("cyd")
    for text in ("one", "same", "same", "last"):
        fleet.ask("cyd", text)
    second = Entry.objects.filter(kind="user", text="same").order_by("-id")[0]

    assert rewind(fleet, "cyd", entryId=second.pk).status_code == 202
    assert fleet.ask("cyd", "RECALL") == "recall: one | same"
    first = Message.objects.get(text="one")
    assert rewind(fleet, "cyd", messageId=first.pk).status_code == 202
    assert fleet.ask("cyd", "RECALL") == "recall: "


def test_refused_rewind_has_a_reason(fleet: Fleet) -> None:
    fleet.create("dot")
    fleet.ask("dot", "hello")

    def refused(**body: object) -> str:
        answer = fleet.api.post(f"{ROUTE}/dot/rewind", body)
        assert answer.status_code == 400, answer.content
        return str(answer.json()["error"])

    assert refused() == "messageId or entryId is required"
    assert refused(messageId="nobody").startswith("messageId: 'nobody' is not a message")
    assert refused(entryId=1 << 40).startswith("entryId: ")
    assert refused(entryId="x").startswith("entryId: must be a whole number")
    fleet.send("dot", "SILENT")
    fleet.wait("dot", "working")
    assert "Abort its answer first" in refused(messageId=Message.objects.first().pk)  # type: ignore[union-attr]
    assert fleet.api.post(f"{ROUTE}/nobody/rewind", {}).status_code == 404


def test_message_sent_during_a_rewind_waits(fleet: Fleet) -> None:
    poison(fleet, "eve")
    fleet.api.post(f"{ROUTE}/eve/rewind", {})
    fleet.send("eve", "RECALL")
    fleet.wait("eve", "idle")

    until(lambda: fleet.row("eve").rewind_to is None)
    assert fleet.get("eve")["outputHistory"][-1] == "recall: remember 4711"


def test_rewind_survives_a_new_worker(fleet: Fleet) -> None:
    poison(fleet, "flo")
    fleet.stop_follower()
    assert fleet.api.post(f"{ROUTE}/flo/rewind", {}).status_code == 202
    fleet.restart_follower()

    until(lambda: fleet.row("flo").rewind_to is None)
    assert fleet.ask("flo", "RECALL") == "recall: remember 4711"


def test_rules_and_pages_show_a_failing_lieutenant(fleet: Fleet, client: Client) -> None:
    poison(fleet, "gus")
    client.force_login(signin_links.make_operator())
    rule = Rule.objects.create(
        name="failing", event=Event.LIEUTENANT_FAILING, action=Action.NOTE, enabled=True
    )
    (case,) = conditions.find_cases(rule, clock.now(), 10)
    assert case.subject == fleet.row("gus").pk
    assert "image cannot be decoded" in case.evidence["trouble"]

    page = client.get("/lieutenants/gus/").content.decode()
    assert "Each request fails since message “POISON-7”" in page
    assert "Go back…" in page
    asked = client.get("/lieutenants/gus/rewind").content.decode()
    assert "goes on from before that message" in asked
    done = client.post("/lieutenants/gus/rewind", {"sure": "yes"})
    assert done.status_code == 302
    until(lambda: fleet.row("gus").failing_since is None)
    assert "Go back…" not in client.get("/lieutenants/gus/").content.decode()
    assert not conditions.find_cases(rule, clock.now(), 10)


# -- damaged session files ---------------------------------------------------------------------


def damaged(fleet: Fleet, name: str, damage: Any) -> Path:
    """Return the session file of a paused lieutenant after damaging it."""
    fleet.create(name)
    for text in ("one", "two"):
        fleet.ask(name, text)
    fleet.api.post(f"{ROUTE}/{name}/pause")
    until(lambda: fleet.row(name).live_process() is None)
    file = home_of(fleet.row(name).pk).session_file
    damage(file)
    fleet.api.post(f"{ROUTE}/{name}/resume")
    return file


DAMAGES = {
    "gone": (lambda file: file.unlink(), "is missing"),
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "zeros": (lambda file: file.write_bytes(bytes(4096)), "does not begin with a session's"),
    "rubbish": (lambda file: file.write_bytes(b"rubbish\n"), "does not begin with a session's"),
    "no line": (lambda file: file.write_bytes(b'{"type":"se'), "does not begin with a session's"),
}


ONCE = ("gone", "rubbish")
KINDS = [
    kind if kind in ONCE else pytest.param(kind, marks=pytest.mark.thorough) for kind in DAMAGES
]


@pytest.mark.parametrize("kind", KINDS)
def test_lost_session_file_prevents_the_start(fleet: Fleet, kind: str) -> None:
    damage, words = DAMAGES[kind]
    file = damaged(fleet, "ada", damage)
    row = fleet.wait("ada", "error")
    before = file.read_bytes() if file.exists() else None

    assert f"{file} " in row.error
    assert words in row.error
    assert "new session" in row.error
    assert fleet.get("ada")["sessionProblem"] in row.error
    # The file is unchanged, and another start reports it again.
    fleet.api.post(f"{ROUTE}/ada/restart")
    fleet.wait("ada", "error")
    assert (file.read_bytes() if file.exists() else None) == before

    answer = fleet.api.post(f"{ROUTE}/ada/restart", {"session": "new"})
    assert answer.status_code == 200
    fleet.wait("ada", "idle")
    assert fleet.ask("ada", "RECALL") == "recall: "
    assert "sessionProblem" not in fleet.get("ada")
    assert NEW_SESSION_NOTE in fleet.texts("ada", "notice")
    assert (file.read_bytes() if file.exists() else None) == before


def test_the_page_offers_a_new_session(fleet: Fleet, client: Client) -> None:
    damaged(fleet, "bob", lambda file: file.write_bytes(b"rubbish\n"))
    fleet.wait("bob", "error")
    client.force_login(signin_links.make_operator())

    page = client.get("/lieutenants/bob/").content.decode()
    assert "is damaged" in page
    assert "New session…" in page
    client.post("/lieutenants/bob/new-session", {"sure": "yes"})
    fleet.wait("bob", "idle")
    assert "New session…" not in client.get("/lieutenants/bob/").content.decode()


def test_unreadable_lines_are_reported(fleet: Fleet) -> None:
    def damage(file: Path) -> None:
        lines = file.read_bytes().split(b"\n")
        lines[2] = b"\0" * 40
        file.write_bytes(b"\n".join(lines) + b'{"type":"mess')

    damaged(fleet, "cyd", damage)
    fleet.wait("cyd", "idle")

    told = fleet.texts("cyd", "notice")
    assert any("session.jsonl: line 3 of 5 cannot be read" in text for text in told), told
    assert any("13 bytes were cut" in text for text in told), told


def test_entries_with_lost_parents_are_reported(fleet: Fleet) -> None:
    def damage(file: Path) -> None:
        with file.open("a") as lines:
            entry = {"type": "message", "id": "z", "parentId": "lost", "message": {"role": "x"}}
            lines.write(json.dumps(entry) + "\n")

    damaged(fleet, "dot", damage)
    fleet.wait("dot", "idle")
    assert any(
        "follows an entry that is not there" in each for each in fleet.texts("dot", "notice")
    )


def test_unknown_session_value_is_refused(fleet: Fleet) -> None:
    fleet.create("eve")
    answer = fleet.api.post(f"{ROUTE}/eve/restart", {"session": "fresh"})
    assert answer.status_code == 400
    assert answer.json()["error"] == "session: must be one of kept, new"


# -- models, commands, tools -------------------------------------------------------------------


def test_unknown_model_is_refused_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    monkeypatch.setenv("STANDIN_MODE", "models:standin/echo+standin/other")
    fleet.create("ada", model="standin/echo")
    until(lambda: AgentModels.objects.exists())

    answer = patch(fleet, "ada", {"model": "no/such", "restart": True})
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "model: the agent has no 'no/such'; these are: standin/echo, standin/other"
    )
    assert fleet.row("ada").status == "idle"
    assert patch(fleet, "ada", {"model": "OTHER:high"}).status_code == 200

    # Reef's copy has changed since the agent began, so its earlier list is obsolete.
    settings.AGENT_CONFIG_DIR.mkdir(parents=True, exist_ok=True)
    file = settings.AGENT_CONFIG_DIR / "models.json"
    file.write_text("{}")
    try:
        assert patch(fleet, "ada", {"model": "no/such"}).status_code == 200
    finally:
        file.unlink()


@pytest.mark.parametrize("mode", ["", "disposition"])
def test_command_without_a_run_leaves_the_lieutenant_idle(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, settings: Any, mode: str
) -> None:
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    monkeypatch.setenv("STANDIN_MODE", mode)
    fleet.create("bob")
    fleet.ask("bob", "hello")

    fleet.send("bob", "/note")
    fleet.wait("bob", "idle", AT_ONCE)
    fleet.send("bob", "/boom")
    fleet.wait("bob", "idle", AT_ONCE)
    fleet.send("bob", "/run")
    fleet.wait("bob", "idle")

    said = fleet.api.get(f"{ROUTE}/bob/transcript").json()["entries"]
    kinds = [(each["kind"], each["text"]) for each in said if each["kind"] not in ("usage", "text")]
    assert kinds[:5] == [
        ("user", "hello"),
        ("user", "/note"),
        ("notice", "done-note"),
        ("user", "/boom"),
        ("error", "Extension command:boom: boom-error"),
    ]
    assert ("user", "from the command") in kinds
    # The agent reports /run as handled, too.
    assert fleet.row("bob").task_count == (1 if mode else 2)
    assert set(Message.objects.values_list("state", flat=True)) == {MessageState.ACCEPTED}
    assert not Message.objects.filter(taken_up_at__isnull=True).exists()


def test_command_during_a_run_is_handled_beside_it(fleet: Fleet) -> None:
    fleet.create("cyd")
    fleet.send("cyd", "SLOW 1 a b c")
    until(lambda: fleet.get("cyd")["lastOutput"])
    fleet.send("cyd", "/note")
    fleet.wait("cyd", "idle")

    entry = Entry.objects.get(kind="user", text="/note")
    assert entry.data == {"command": "handled"}
    assert fleet.row("cyd").task_count == 1


def test_endless_tool_is_aborted_at_its_limit(fleet: Fleet) -> None:
    fleet.create("dot", toolLimitSeconds=1, stallLimitSeconds=0)
    fleet.send("dot", "HANG 600 bash")
    until(lambda: fleet.get("dot").get("waitingFor") == "tool bash (sleep 600)")
    assert "waitingSince" in fleet.get("dot")

    fleet.wait("dot", "idle")
    assert any(
        "Tool bash (sleep 600) ran longer than its limit of 1 s: reef aborts this answer." in each
        for each in fleet.texts("dot", "notice")
    )
    assert Entry.objects.filter(final=False).count() == 0
    assert "waitingFor" not in fleet.get("dot")
    assert fleet.ask("dot", "still there?") == "echo: still there?"


def test_tool_past_its_limit_goes_on_where_that_is_only_noted(fleet: Fleet) -> None:
    fleet.create("dot", toolLimitSeconds=1, limitAction="note")
    fleet.send("dot", "HANG 600 bash")
    note = "Tool bash (sleep 600) ran longer than its limit of 1 s. Its settings only note that."
    until(lambda: note in fleet.texts("dot", "notice"))
    facts = fleet.get("dot")
    assert (facts["status"], facts["waitingKind"]) == ("working", "tool")
    assert patch(fleet, "dot", {"limitAction": "abort"}).status_code == 200
    fleet.wait("dot", "idle")
    assert fleet.texts("dot", "notice").count(note) == 1


def test_tool_limit_of_zero_disables_it_and_can_be_changed(fleet: Fleet) -> None:
    fleet.create("eve", toolLimitSeconds=0)
    fleet.send("eve", "HANG 600 bash")
    until(lambda: fleet.get("eve").get("waitingFor"))
    assert fleet.get("eve")["toolLimitSeconds"] == 0

    assert patch(fleet, "eve", {"toolLimitSeconds": -1}).status_code == 400
    answer = patch(fleet, "eve", {"toolLimitSeconds": 1})
    assert answer.json()["toolLimitSeconds"] == 1
    fleet.wait("eve", "idle")
    assert "limit of 1 s" in fleet.texts("eve", "notice")[0]
