"""Journal records about failures, retries, commands, compaction and models to rows."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from lieutenants.actions import ACTIONS
from lieutenants.messages import rewinding
from lieutenants.models import AgentModels, Answer, Entry, Lieutenant, Message, Process, Usage
from lieutenants.serializers import lieutenants_json
from lieutenants.sessions import failure_series
from lieutenants.sessions.write_batch import open_text
from lieutenants.states import MessageState, Outcome, Status
from lieutenants.supervision import reachability, watchdog
from lieutenants.transcript.serializers import read_json
from tests.conftest import Api
from tests.lieutenants.test_session import (
    AT,
    READY,
    USAGE,
    Played,
    Records,
    assistant,
    event,
    response,
    said,
)
from versconfig.screening.screen import Screen, Secret

pytestmark = pytest.mark.django_db

POISON = '400: {{"message":"messages.{}: image cannot be decoded","request_id":"r{}"}}'


@pytest.fixture
def played() -> Played:
    return Played()


def run(played: Played, text: str, *answer: list[Any]) -> str:
    """Play a message with its answer; return the message's id."""
    pk = played.message(text)
    records: Records = [["s", AT, pk], response(pk), event("agent_start"), said("user", text)]
    played.play(*records, *answer, event("agent_end"), event("agent_settled"))
    played.play()
    return pk


def failed(text: str) -> list[Any]:
    return assistant(reason="error", errorMessage=text)


def errors() -> list[str]:
    return list(Entry.objects.filter(kind="error").order_by("id").values_list("text", flat=True))


def facts(played: Played) -> dict[str, Any]:
    return lieutenants_json([played.row()], caller="tests")[0]


# -- each request fails ------------------------------------------------------------------------


def test_equal_failures_are_reported_once_and_counted(played: Played) -> None:
    run(played, "hello", assistant("hi"))
    first = run(played, "say POISON-7", failed(POISON.format(3, 3)))
    assert played.row().failing_since is None
    for number in range(5, 9):
        run(played, f"harmless {number}", failed(POISON.format(number, number)))

    raw, series = errors()
    assert raw == POISON.format(3, 3)
    assert series.startswith("Each request fails since message “say POISON-7”: 5 times so far.")
    row, known = played.row(), facts(played)["failing"]
    assert row.trouble.startswith("Each request fails since message “say POISON-7”: The model")
    assert "image cannot be decoded" in row.trouble
    assert (known["count"], known["messageId"], known["canRewind"]) == (5, first, True)
    assert known["entryId"] == Entry.objects.get(kind="user", text="say POISON-7").pk


@pytest.mark.parametrize("in_one_pass", [True, False])
def test_series_survives_replaced_followers(played: Played, in_one_pass: bool) -> None:
    records: Records = []
    for number in range(3):
        pk = played.message(f"m{number}")
        records += [["s", AT, pk], response(pk), event("agent_start"), said("user", f"m{number}")]
        records += [failed(POISON.format(number, number)), event("agent_end")]
        records += [event("agent_settled")]
    if in_one_pass:
        played.play(*records)
    for record in [] if in_one_pass else records:
        played.play(record)
        played.session = played.reopened()
    played.play()

    assert len(errors()) == 2
    assert facts(played)["failing"]["count"] == 3
    assert facts(played)["failing"]["entryId"] == Entry.objects.get(kind="user", text="m0").pk


def test_successful_answer_ends_the_series(played: Played) -> None:
    for text in ("a", "b"):
        run(played, text, failed("400: too odd"))
    assert played.row().failing_since is not None
    run(played, "c", assistant("well again"))

    row = played.row()
    assert (row.failing_since, row.failures, row.trouble) == (None, {}, "")
    assert "failing" not in facts(played)


def test_different_failure_begins_a_new_series(played: Played) -> None:
    run(played, "a", failed("400: too odd"))
    run(played, "b", failed("413: too large"))

    assert errors() == ["400: too odd", "413: too large"]
    assert played.row().failing_since is None


def test_lieutenant_is_still_failing_after_its_process_ended(played: Played) -> None:
    for text in ("a", "b"):
        run(played, text, failed("413 the request is too large"))
    played.play(["x", AT, {"code": 0, "stopped": True}])

    row = played.row()
    assert row.trouble.startswith("Each request fails since message “a”")
    assert row.failing_since is not None


def test_new_session_ends_the_series(played: Played, operator: Client, api: Api) -> None:
    for text in ("a", "b"):
        run(played, text, failed("413 the request is too large"))
    assert played.row().failing_since is not None
    pk = played.message("c")
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "c"))

    answer = api.post("/lieutenant/lieutenants/ada/restart", {"session": "new"})
    assert answer.status_code == 200, answer.content
    played.play(failed("413 the request is too large"), event("agent_end"))
    played.play(["x", AT, {"code": 0, "stopped": True}])

    row = played.row()
    assert (row.failures, row.failing_since, row.trouble) == ({}, None, "")


def test_series_is_counted_after_a_rewind(played: Played) -> None:
    run(played, "hello", assistant("hi"))
    Lieutenant.objects.update(rewind_to=Entry.objects.get(kind="user").pk)
    rewinding.advance(played.session, played.row(), 0.0)
    rewinding.advance(played.session, played.row(), 11.0)
    question = played.session.outgoing[-1]
    played.play(response(question.id, "get_state", data={"sessionFile": "/s/forked.jsonl"}))
    assert played.row().session_name == "forked.jsonl"

    for text in ("a", "b"):
        run(played, text, failed("413 the request is too large"))

    assert played.row().failures["count"] == 2


class Supervisor:
    """A transport whose keeper lives, and responds or not."""

    silence = ""
    is_remote = False

    def alive(self, *_: object) -> bool:
        return True

    def unreachable(self, *_: object) -> str:
        return self.silence

    def silent_seconds(self) -> None:
        return None


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("failures", [1, 2])
def test_trouble_is_restored_when_the_keeper_responds_again(
    played: Played, monkeypatch: pytest.MonkeyPatch, failures: int, is_replaced: bool
) -> None:
    supervisor = Supervisor()
    for module in (watchdog, reachability):
        monkeypatch.setattr(module, "transport_of", lambda _: supervisor)
    for _ in range(failures):
        run(played, "a", failed("413 the request is too large"))
    before = played.row().trouble
    assert "too large" in before

    def look(follower: watchdog.Watchdog, clock: float) -> str:
        row = Process.objects.select_related("lieutenant").get(pk=played.process_id)
        follower._check_session(played.session, row, clock)
        follower._save_reachability()
        return played.row().trouble

    follower = watchdog.Watchdog({})
    supervisor.silence = "its socket is gone"
    look(follower, 10.0)
    assert "its socket is gone" in look(follower, 20.0)
    if is_replaced:
        played.session, follower = played.reopened(), watchdog.Watchdog({})
    supervisor.silence = ""
    assert look(follower, 30.0) == before


@pytest.mark.parametrize("message_id", ["a\x00b", "\ud800"])
def test_unstorable_message_id_is_refused(played: Played, api: Api, message_id: str) -> None:
    answer = api.post("/lieutenant/lieutenants/ada/rewind", {"messageId": message_id})

    assert answer.status_code == 400
    assert answer.json()["error"] == "messageId: has characters that are no text"


@pytest.mark.parametrize(
    ("text", "helps"),
    [
        ("400 {}", True),
        ("413: too large", True),
        ('{"error":{"message":"bad image","code":400}}', True),
        ("tool_use ids were found without tool_result blocks", True),
        ("401 wrong key", False),
        ("429 slow down", False),
        ("500 stub error", False),
        ("Connection error.", False),
        ("No more tries: 529 overloaded", False),
    ],
)
def test_rewind_is_offered_where_it_may_help(played: Played, text: str, helps: bool) -> None:
    for word in ("a", "b"):
        run(played, word, failed(text))

    assert failure_series.can_rewind(played.row()) is helps


def test_agent_that_cannot_go_back_is_offered_a_new_session(played: Played) -> None:
    run(played, "a", failed(POISON.format(1, 1)))
    Lieutenant.objects.update(agent="acp")
    recorder = played.session.recorder
    recorder.lieutenant.agent = "acp"
    failure_series.count(
        recorder, Outcome.ERROR, POISON.format(2, 2), timezone.now(), Answer.objects.get()
    )
    row = recorder.lieutenant
    row.status = Status.IDLE
    notice = recorder.series.notice
    assert notice is not None
    assert notice.text.endswith(
        "The agent 'acp' cannot go back to before this message: begin a new session to go on "
        "without it."
    )
    assert not failure_series.can_rewind(row)
    assert ACTIONS["new-session"].is_available(row)
    assert not ACTIONS["rewind"].is_available(row)


# -- attempts and texts ------------------------------------------------------------------------


def cut_off(text: str) -> Records:
    again = {"attempt": 1, "maxAttempts": 3, "delayMs": 50, "errorMessage": "terminated"}
    return [
        assistant(text, reason="error", errorMessage="terminated"),
        event("agent_end", willRetry=True),
        event("auto_retry_start", **again),
        event("agent_start"),
    ]


def test_text_of_a_retried_attempt_is_not_in_the_answer(played: Played) -> None:
    run(played, "go", *cut_off("half"), *cut_off("half"), assistant("whole"))

    assert Answer.objects.get().text == "whole"
    texts = Entry.objects.filter(kind="text").order_by("id").values_list("text", "data")
    assert list(texts) == [
        ("half", {"retried": True}),
        ("half", {"retried": True}),
        ("whole", {}),
    ]


def test_finally_failed_run_keeps_its_last_attempt(played: Played) -> None:
    last = assistant("half 3", reason="error", errorMessage="terminated")
    run(played, "go", *cut_off("half 1"), *cut_off("half 2"), last)

    answer = Answer.objects.get()
    assert (answer.text, answer.outcome) == ("half 3", Outcome.ERROR)


def test_retried_attempt_is_dropped_across_followers_and_while_running(played: Played) -> None:
    records = [event("agent_start"), said("user", "go"), *cut_off("half"), ["t", 0, "wh"]]
    for record in records:
        played.play(record)
        played.session = played.reopened()

    assert open_text(Answer.objects.get()) == "wh"


def test_separate_texts_of_one_run_have_a_blank_line_between_them(played: Played) -> None:
    played.play(event("agent_start"), assistant("one"), assistant("two"), ["t", 0, "thr"])
    assert open_text(Answer.objects.get()) == "one\n\ntwo\n\nthr"
    played.play(assistant("three"), event("agent_end"), event("agent_settled"))

    assert Answer.objects.get().text == "one\n\ntwo\n\nthree"


def test_history_of_an_idle_lieutenant_has_the_newest_answer_once(played: Played) -> None:
    run(played, "a", assistant("first"))
    run(played, "b", assistant("second"))

    shown = read_json(played.row(), tail=0, history=5, after=0, limit=0)["output"]
    assert shown.count("second") == 1
    assert shown.endswith("=== Current (idle) ===\n(no output yet)")
    assert read_json(played.row(), tail=0, history=0, after=0, limit=0)["output"] == "second"


# -- compaction, abort ------------------------------------------------------------------------


def test_compaction_usage_is_counted(played: Played) -> None:
    used = {**USAGE, "input": 40_358, "cost": {"total": 0.04}}
    result = {"summary": "…", "tokensBefore": 127_500, "usage": used}
    played.play(event("compaction_start", reason="threshold"))
    played.play(event("compaction_end", reason="threshold", result=result))

    row = Usage.objects.get()
    assert (row.input, row.stop_reason, row.provider, row.model) == (40_358, "compaction", "p", "m")
    assert float(row.cost) == 0.04
    assert Usage.objects.all().sums()["calls"] == 1


def test_compaction_without_usage_is_not_counted(played: Played) -> None:
    played.play(event("compaction_end", result={"summary": "…", "tokensBefore": 9}))

    assert not Usage.objects.exists()


def test_abort_during_a_tool_call_is_recorded_as_abort(played: Played) -> None:
    run(played, "go", failed("This operation was aborted"))

    assert errors() == []
    assert ("notice", "The answer was aborted.") in played.kinds()
    assert Answer.objects.get().outcome == Outcome.ABORTED
    assert played.row().trouble == ""


# -- commands ----------------------------------------------------------------------------------


def sent(played: Played, text: str) -> str:
    pk = played.message(text)
    Lieutenant.objects.update(status=Status.WORKING, task_count=1)
    return pk


@pytest.mark.parametrize("disposition", [None, "handled"])
def test_command_precedes_its_output_in_the_transcript(
    played: Played, disposition: str | None
) -> None:
    run(played, "hello", assistant("hi"))
    pk = sent(played, "/note")
    told: dict[str, Any] = {"data": {"disposition": disposition}} if disposition else {}
    notify = event("extension_ui_request", id="n", method="notify", message="done-note")
    played.play(["s", AT, pk], notify, response(pk, **told))
    # An agent that tells what it did with the command need not be asked.
    assert (played.row().status == Status.IDLE) == bool(disposition)
    if disposition is None:
        played.clock = 1.1
        played.play()
        question = played.session.outgoing[-1]
        played.play(response(question.id, "get_state", data={"isStreaming": False}))
        played.play()
    assert played.session.outgoing == [] or not disposition

    assert played.kinds()[-2:] == [("user", "/note"), ("notice", "done-note")]
    entry = Entry.objects.get(kind="user", text="/note")
    assert (entry.data, entry.message_id) == ({"command": "handled"}, pk)
    row, message = played.row(), Message.objects.get(pk=pk)
    assert (row.status, row.task_count) == (Status.IDLE, 0)
    assert message.state == MessageState.ACCEPTED
    assert message.taken_up_at is not None
    assert "handled" in (message.evidence or {})["note"]


def test_silent_command_is_in_the_transcript(played: Played) -> None:
    pk = sent(played, "/quiet")
    played.play(["s", AT, pk], response(pk))
    played.clock = 1.1
    played.play()
    question = played.session.outgoing[-1]
    played.play(response(question.id, "get_state", data={}))
    played.play()

    assert played.kinds() == [("user", "/quiet")]
    assert played.row().status == Status.IDLE


def test_command_that_begins_a_run_is_marked(played: Played) -> None:
    pk = sent(played, "/run")
    notify = event("extension_ui_request", id="n", method="notify", message="off it goes")
    played.play(["s", AT, pk], notify, response(pk), event("agent_start"))
    played.play(said("user", "from the command"), assistant("done"), event("agent_end"))
    played.play(event("agent_settled"))
    played.play()

    users = Entry.objects.filter(kind="user").order_by("id").values_list("text", "data")
    assert list(users) == [("/run", {"command": "began a run"}), ("from the command", {})]
    assert (played.row().task_count, played.row().status) == (1, Status.IDLE)


def test_expanded_template_shows_the_original_message(played: Played) -> None:
    pk = sent(played, "/review x")
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "Review x."))

    entry = Entry.objects.get(kind="user")
    assert (entry.text, entry.data) == ("Review x.", {"sentAs": "/review x"})


LATE = "s3cr3t-Zq81Lm0pXv77"


def store_secret(played: Played) -> None:
    """Store a secret after the message with it was sent."""
    played.session.recorder.screening.use(Screen(own=[Secret("KEY", LATE)]))


@pytest.mark.parametrize("is_shown", [False, True])
def test_later_stored_secret_is_covered_in_a_command(played: Played, is_shown: bool) -> None:
    pk = sent(played, f"/login {LATE}")
    store_secret(played)
    notify = event("extension_ui_request", id="n", method="notify", message="done")
    handled = response(pk, data={"disposition": "handled"})
    played.play(["s", AT, pk], *([notify] if is_shown else []), handled)
    if not is_shown:
        played.clock = 1.1
        played.play()

    entry = Entry.objects.get(kind="user")
    assert (entry.text, entry.data) == ("/login [KEY]", {"command": "handled"})


def test_later_stored_secret_is_covered_in_an_expanded_template(played: Played) -> None:
    pk = sent(played, f"/review {LATE}")
    store_secret(played)
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "Review it."))

    assert Entry.objects.get(kind="user").data == {"sentAs": "/review [KEY]"}


def test_later_stored_secret_is_covered_in_a_series(played: Played) -> None:
    pk = played.message(LATE)
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", LATE))
    played.session = played.reopened()
    store_secret(played)
    played.play(failed("413"), event("agent_end"), event("agent_settled"))
    played.play()

    assert played.row().failures["words"] == "[KEY]"


def test_plain_text_with_a_slash_is_a_task(played: Played) -> None:
    pk = sent(played, "/unknown")
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "/unknown"))

    assert Entry.objects.get(kind="user").data == {}
    assert played.row().task_count == 1


# -- models ------------------------------------------------------------------------------------


def started(wanted: str, used: str, listed: list[str], *, before: str = "") -> Played:
    fresh = Played(ready=False)
    Lieutenant.objects.update(model_wanted=wanted, model_in_use=before)
    provider, _, model = used.partition("/")
    ready = response("~ready", "get_state", data={"model": {"provider": provider, "id": model}})
    models = [dict(zip(("provider", "id"), each.split("/"), strict=True)) for each in listed]
    fresh.play(ready)
    assert [each.id for each in fresh.session.outgoing] == ["~models"]
    fresh.play(response("~models", "get_available_models", data={"models": models}))
    return fresh


def test_listed_model_causes_no_notice() -> None:
    fresh = started("demo/a:high", "demo/a", ["demo/a", "demo/b"])

    assert fresh.kinds() == []
    assert facts(fresh)["modelInUse"] == "demo/a"
    assert "modelWanted" not in facts(fresh)
    assert AgentModels.objects.get().names == ["demo/a", "demo/b"]


def test_unlisted_model_causes_a_notice() -> None:
    fresh = started("demo/a", "demo/a", ["demo/b"])

    ((kind, text),) = fresh.kinds()
    assert kind == "notice"
    assert "demo/a is not among the agent's models" in text
    assert "demo/b" in text
    assert facts(fresh)["modelWanted"] == "demo/a"
    assert facts(fresh)["modelProblem"] == text


def test_different_model_than_requested_causes_a_notice() -> None:
    fresh = started("demo/a", "demo/b", ["demo/b"])

    assert fresh.kinds() == [
        ("notice", "Its model demo/a is not there; the agent goes on with demo/b.")
    ]
    known = facts(fresh)
    assert (known["modelWanted"], known["modelInUse"]) == ("demo/a", "demo/b")


def test_changed_model_of_a_session_causes_a_notice() -> None:
    fresh = started("", "demo/b", ["demo/b"], before="demo/a")

    assert fresh.kinds() == [("notice", "The agent's model was demo/a; it goes on with demo/b.")]


def test_waiting_for_a_tool_shows_its_command_and_start(played: Played) -> None:
    start = {"toolCallId": "c1", "toolName": "bash", "args": {"command": "sleep  9999\n# long"}}
    played.play(event("agent_start"), event("tool_execution_start", **start))

    row = played.row()
    assert row.waiting_for == "tool bash (sleep 9999 # long)"
    assert row.waiting_since is not None
    assert int(row.waiting_since.timestamp() * 1000) == AT
    assert settings.TOOL_SECONDS == 3600


# -- going back --------------------------------------------------------------------------------


def test_long_message_is_found_by_position(played: Played) -> None:
    for text in ("hello", "x" * 5000):
        run(played, text, assistant("hi"))
    entry = Entry.objects.filter(kind="user").latest("id")
    # What the transcript has of it is cut.
    Entry.objects.filter(pk=entry.pk).update(text="x" * 1000 + " …")
    Lieutenant.objects.update(rewind_to=entry.pk)
    rewinding.advance(played.session, played.row(), 0.0)
    (question,) = played.session.outgoing
    listed = [{"entryId": "a", "text": "hello"}, {"entryId": "b", "text": "x" * 5000}]
    played.play(response(question.id, "get_fork_messages", data={"messages": listed}))

    assert played.session.outgoing[-1].line["type"] == "fork"
    assert played.session.outgoing[-1].line["entryId"] == "b"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"success": False, "error": "Unknown command"}, "the agent refused: Unknown command"),
        ({"data": {"messages": []}}, "does not have this message in its session any more"),
        ({"data": {}}, "does not have this message in its session any more"),
        ({"data": {"messages": ["odd", 7]}}, "does not have this message in its session any more"),
    ],
)
def test_rewind_failure_is_reported_with_its_reason(
    played: Played, answer: dict[str, Any], words: str
) -> None:
    run(played, "hello", assistant("hi"))
    Lieutenant.objects.update(rewind_to=Entry.objects.get(kind="user").pk)
    rewinding.advance(played.session, played.row(), 0.0)
    (question,) = played.session.outgoing
    played.play(response(question.id, "get_fork_messages", **answer))

    assert words in played.kinds()[-1][1]
    assert played.row().rewind_to is None
    assert played.session.state.rewinding == ""


def test_lost_reply_is_replaced_by_a_session_query(played: Played) -> None:
    run(played, "hello", assistant("hi"))
    Lieutenant.objects.update(rewind_to=Entry.objects.get(kind="user").pk)
    rewinding.advance(played.session, played.row(), 0.0)
    rewinding.advance(played.session, played.row(), 11.0)
    question = played.session.outgoing[-1]
    assert question.line["type"] == "get_state"
    assert played.session.waiting_for() == "the agent to go back to before a message"
    played.play(response(question.id, "get_state", data={"sessionFile": "/s/session.jsonl"}))

    assert played.kinds()[-1][1].endswith("the agent still continues the same session.")
    assert played.row().rewind_to is None


@pytest.mark.parametrize("name", ["../../etc/x.jsonl", "a b.jsonl", "", ".jsonl", "x.txt"])
def test_only_a_plain_file_name_is_accepted_as_session(played: Played, name: str) -> None:
    run(played, "hello", assistant("hi"))
    Lieutenant.objects.update(rewind_to=Entry.objects.get(kind="user").pk)
    rewinding.advance(played.session, played.row(), 0.0)
    rewinding.advance(played.session, played.row(), 11.0)
    question = played.session.outgoing[-1]
    played.play(response(question.id, "get_state", data={"sessionFile": name}))

    assert played.row().session_name in ("session.jsonl", "x.jsonl")
    assert "/" not in played.row().session_name


def test_the_page_marks_commands_retries_and_what_left_the_session(
    played: Played, operator: Client
) -> None:
    run(played, "go", *cut_off("half"), assistant("whole"))
    pk = sent(played, "/note")
    played.play(["s", AT, pk], response(pk, data={"disposition": "handled"}))
    Entry.objects.filter(kind="user", text="go").update(data={"rewound": True})

    page = operator.get("/lieutenants/ada/").content.decode()
    assert "command, handled" in page
    assert "no longer in the session" in page
    assert "From an attempt that failed and was tried again" in page


# -- from version 1 of the agent on ------------------------------------------------------------


@pytest.mark.parametrize("disposition", ["started", "queued", "handled"])
def test_disposition_is_part_of_the_evidence(played: Played, disposition: str) -> None:
    pk = sent(played, "hello")
    played.play(["s", AT, pk], response(pk, data={"disposition": disposition, "more": 1}))

    evidence = Message.objects.get(pk=pk).evidence or {}
    assert evidence["disposition"] == disposition
    assert "data" not in evidence


def test_command_handled_during_a_run_does_not_end_it(played: Played) -> None:
    first = sent(played, "hello")
    played.play(["s", AT, first], response(first), event("agent_start"), said("user", "hello"))
    pk = sent(played, "/note")
    handled = response(pk, data={"disposition": "handled"})
    played.play(["s", AT, pk], handled)
    assert played.row().status == Status.WORKING
    played.play(assistant("hi"), event("agent_end"), event("agent_settled", aborted=False))
    played.play()

    assert played.row().status == Status.IDLE
    assert Answer.objects.get().outcome == Outcome.COMPLETED


def test_aborted_run_is_told_by_the_agent(played: Played) -> None:
    pk = sent(played, "hello")
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "hello"))
    failure = assistant("half", reason="error", errorMessage="socket hang up")
    played.play(failure, event("agent_end"), event("agent_settled", aborted=True))
    played.play()

    answer = Answer.objects.get()
    assert (answer.outcome, answer.error) == (Outcome.ABORTED, "")


def test_time_of_a_tool_call_is_kept_and_shown(played: Played, operator: Client) -> None:
    ended = event(
        "tool_execution_end",
        toolCallId="c1",
        toolName="bash",
        result={"content": [{"type": "text", "text": "hi"}]},
        durationMs=1234,
    )
    started = event("tool_execution_start", toolCallId="c1", toolName="bash", args={})
    played.play(event("agent_start"), started, ended)

    assert Entry.objects.get(kind="tool_result").data == {"durationMs": 1234}
    page = operator.get("/lieutenants/ada/").content.decode()
    assert ">1.2 s<" in page


def test_warning_about_the_sessions_model_is_a_notice(played: Played) -> None:
    Lieutenant.objects.update(model_in_use="p/gone")
    played.play(["w", AT, "Warning: Could not restore model p/gone. Using p/m"])

    assert played.kinds() == [("notice", "Warning: Could not restore model p/gone. Using p/m")]


def test_change_of_model_is_told_once() -> None:
    started = Played(ready=False)
    Lieutenant.objects.update(model_in_use="p/gone")
    started.play(["w", AT, "Warning: Could not restore model p/gone. Using p/m"])
    assert started.kinds() == []
    started.play(READY)

    assert started.kinds() == [("notice", "Warning: Could not restore model p/gone. Using p/m")]
    assert started.row().model_in_use == "p/m"


# -- usage of the context ----------------------------------------------------------------------


def stats_request(played: Played) -> list[str]:
    asked, played.stats_requests = played.stats_requests, []
    return asked


def usage_reply(command: str, usage: Any) -> list[Any]:
    return response(command, "get_session_stats", data={"contextUsage": usage})


def test_usage_of_the_context_is_asked_once_after_a_run(played: Played, operator: Client) -> None:
    assert "contextUsage" not in facts(played)
    run(played, "hello", assistant("hi"))
    (command,) = stats_request(played)
    played.play()
    played.play(usage_reply(command, {"tokens": 748, "contextWindow": 128000, "percent": 0.58}))
    played.play()

    assert stats_request(played) == []
    known = {"tokens": 748, "window": 128000, "percent": 0.6}
    assert facts(played)["contextUsage"] == known
    page = operator.get("/lieutenants/ada/").content.decode()
    assert 'high="80" value="0.6"' in " ".join(page.split())
    assert "1 % of 128" in " ".join(page.split())

    run(played, "again", assistant("hi"))
    (second,) = stats_request(played)
    assert second != command


def test_request_for_the_usage_survives_a_replaced_follower(played: Played) -> None:
    run(played, "hello", assistant("hi"))
    (lost,) = stats_request(played)
    played.session = played.reopened()
    played.play()
    (command,) = stats_request(played)
    assert command != lost

    played.play(usage_reply(command, {"tokens": 5, "contextWindow": 50}))
    played.session = played.reopened()
    played.play()
    assert stats_request(played) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"contextUsage": None},
        {"contextUsage": {"tokens": None, "contextWindow": 128000, "percent": None}},
        {"contextUsage": {"tokens": 5, "contextWindow": 0}},
        {"contextUsage": {"tokens": True, "contextWindow": 128000}},
        {"contextUsage": {"tokens": -1, "contextWindow": 128000}},
    ],
)
def test_unknown_usage_of_the_context_is_absent(played: Played, data: dict[str, Any]) -> None:
    Lieutenant.objects.update(context_usage={"tokens": 1, "window": 2, "percent": 50.0})
    run(played, "hello", assistant("hi"))
    (command,) = stats_request(played)
    played.play(response(command, "get_session_stats", data=data))

    assert "contextUsage" not in facts(played)


def test_usage_of_a_stopping_process_is_not_stored(played: Played) -> None:
    run(played, "hello", assistant("hi"))
    (command,) = stats_request(played)
    # As `session: new` does: its successor starts with an empty context.
    played.session.process.stop_asked_at = timezone.now()
    played.play(usage_reply(command, {"tokens": 5, "contextWindow": 50}))

    assert "contextUsage" not in facts(played)
