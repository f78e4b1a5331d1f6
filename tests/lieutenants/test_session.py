"""Journal records to rows, without a process."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from lieutenants import agents
from lieutenants.models import Answer, Chunk, Entry, Lieutenant, Message, Process, Usage
from lieutenants.sessions.effects import MoveStatus
from lieutenants.sessions.session import STATE_QUERY, Session
from lieutenants.sessions.write_batch import WriteBatch, open_text, save_progress
from lieutenants.states import MessageState, Mode, Outcome, Status

pytestmark = pytest.mark.django_db

AT = 1_790_000_000_000
Records = list[list[Any]]
USAGE = {"input": 10, "output": 3, "cacheRead": 2, "cacheWrite": 1, "cost": {"total": 0.00016}}


def event(kind: str, **fields: Any) -> list[Any]:
    return ["e", AT, {"type": kind, **fields}]


def said(role: str, *blocks: Any, **fields: Any) -> list[Any]:
    content = [{"type": "text", "text": each} if isinstance(each, str) else each for each in blocks]
    return event("message_end", message={"role": role, "content": content, **fields})


def assistant(*blocks: Any, reason: str = "stop", **fields: Any) -> list[Any]:
    named = {"provider": "p", "model": "m", "usage": USAGE}
    return said("assistant", *blocks, stopReason=reason, **{**named, **fields})


def response(command: str, kind: str = "prompt", **fields: Any) -> list[Any]:
    return event("response", id=command, command=kind, **{"success": True, **fields})


READY = response("~ready", "get_state", data={"model": {"provider": "p", "id": "m"}})


class Played:
    """A lieutenant whose journal the test writes."""

    def __init__(self, *, ready: bool = True, agent: str = agents.DEFAULT) -> None:
        row = Lieutenant(name="ada", role="r", host=settings.HOST, agent=agent)
        row.save(force_insert=True)
        self.lieutenant = row
        process = Process.objects.create(
            lieutenant=row, host=settings.HOST, transport="local", directory="/nowhere"
        )
        self.process_id = process.pk
        self.session = self.reopened()
        self.clock = 0.0
        # Requests for the usage of the context, which most tests are not about.
        self.stats_requests: list[str] = []
        if ready:
            self.play(READY)
            # It asks for the list of models, which these tests are not about.
            self.session.outgoing.clear()

    def reopened(self) -> Session:
        """Return the session that a new worker opens."""
        return Session.open(Process.objects.select_related("lieutenant").get(pk=self.process_id))

    def play(self, *records: list[Any]) -> None:
        """Run one pass of the follower over these records."""
        batch = WriteBatch()
        with transaction.atomic():
            self.session.apply(copy.deepcopy(list(records)), batch, self.clock)
            self.session.process.offset += len(records)
            self.session.idle_if_settled(self.clock)
            batch.write()
            self.session.store_state()
            save_progress([self.session])
        asked = self.session.outgoing
        self.session.outgoing = [each for each in asked if not each.id.startswith("~stats-")]
        self.stats_requests += [each.id for each in asked if each not in self.session.outgoing]

    def message(self, text: str, mode: Mode = Mode.PROMPT) -> str:
        row = Message.objects.create(
            lieutenant=self.lieutenant, text=text, mode=mode, mode_asked=mode
        )
        return row.pk

    def row(self) -> Lieutenant:
        return Lieutenant.objects.get(pk=self.lieutenant.pk)

    def kinds(self) -> list[tuple[str, str]]:
        return list(Entry.objects.order_by("id").values_list("kind", "text"))


@pytest.fixture
def played() -> Played:
    return Played()


def full_run(message: str) -> Records:
    """Return the records of a message and an answer with thinking, two tools and a second turn."""
    call_1 = {"type": "toolCall", "id": "c1", "name": "bash", "arguments": {"command": "ls"}}
    call_2 = {"type": "toolCall", "id": "c2", "name": "read", "arguments": {"path": "x"}}
    result = [{"type": "text", "text": "a\nb\n"}]
    return [
        ["s", AT, message],
        response(message),
        event("agent_start"),
        said("user", "look around"),
        ["k", 0, "let me "],
        ["k", 0, "see"],
        ["t", 1, "I lo"],
        ["t", 1, "ok"],
        event("toolcall_start", contentIndex=2, id="c1", toolName="bash"),
        ["c", 2, '{"command"'],
        ["c", 2, ':"ls"}'],
        ["c", 3, '{"path":"x"}'],
        assistant({"type": "thinking", "thinking": "let me see"}, "I look", call_1, call_2),
        event("tool_execution_start", toolCallId="c1", toolName="bash", args={}),
        event("tool_execution_start", toolCallId="c2", toolName="read", args={}),
        event("tool_execution_update", toolCallId="c1", partialResult={"content": result[:1]}),
        event("tool_execution_end", toolCallId="c2", toolName="read", result={}, isError=True),
        event("tool_execution_end", toolCallId="c1", toolName="bash", result={"content": result}),
        said("toolResult", "a\nb\n", toolCallId="c1", toolName="bash", isError=False),
        said("toolResult", toolCallId="c2", toolName="read", isError=True),
        ["t", 0, "Two "],
        ["t", 0, "files."],
        assistant("Two files."),
        event("agent_end"),
        event("agent_settled"),
    ]


FULL = [
    ("user", "look around"),
    ("thinking", "let me see"),
    ("text", "I look"),
    ("tool_call", ""),
    ("tool_call", ""),
    ("usage", ""),
    ("tool_result", "a\nb\n"),
    ("tool_result", ""),
    ("text", "Two files."),
    ("usage", ""),
]


def check_full(played: Played, message: str) -> None:
    """Check the rows of `full_run`, however often the follower was replaced."""
    assert played.kinds() == FULL
    assert not Entry.objects.filter(final=False).exists()
    assert not Chunk.objects.exists()
    answer = Answer.objects.get()
    assert (answer.text, answer.outcome) == ("I look\n\nTwo files.", Outcome.COMPLETED)
    assert answer.message_id == message
    calls = Entry.objects.filter(kind="tool_call").values_list("tool", "call_id", "data")
    assert list(calls) == [
        ("bash", "c1", {"arguments": {"command": "ls"}}),
        ("read", "c2", {"arguments": {"path": "x"}}),
    ]
    results = Entry.objects.filter(kind="tool_result").values_list("call_id", "is_error")
    assert list(results) == [("c1", False), ("c2", True)]
    assert Usage.objects.filter(message_id=message, answer=answer).count() == 2
    assert played.row().status == Status.IDLE
    revs = list(Entry.objects.values_list("rev", flat=True))
    assert len(set(revs)) == len(revs)
    assert played.row().rev >= max(revs)


def test_complete_run_in_one_pass_is_recorded(played: Played) -> None:
    message = played.message("look around")
    played.play(*full_run(message))
    check_full(played, message)


def test_replacing_the_follower_after_each_record_gives_the_same_rows(played: Played) -> None:
    message = played.message("look around")
    for record in full_run(message):
        played.play(record)
        played.session = played.reopened()
    played.play()
    check_full(played, message)


@pytest.mark.parametrize("seed", range(12))
def test_replacing_the_follower_anywhere_gives_the_same_rows(played: Played, seed: int) -> None:
    chance = random.Random(seed)
    message = played.message("look around")
    left = full_run(message)
    while left:
        size = chance.randint(1, 6)
        head, left = left[:size], left[size:]
        if chance.random() < 0.5:
            lost = played.reopened()  # applied, but killed before its commit
            with transaction.atomic():
                mark = transaction.savepoint()
                lost.apply(copy.deepcopy(head), WriteBatch(), 0.0)
                transaction.savepoint_rollback(mark)
            played.session = played.reopened()
        played.play(*head)
    played.play()
    check_full(played, message)


def test_text_is_readable_while_it_streams(played: Played) -> None:
    played.play(event("agent_start"), ["t", 0, "one "])
    played.play(["t", 0, "two "], ["t", 0, "three"])
    entry = Entry.objects.get()
    assert not entry.final
    assert list(entry.chunks.order_by("id").values_list("text", flat=True)) == ["one ", "two three"]
    assert open_text(Answer.objects.get()) == "one two three"
    assert played.row().waiting_for == "the model to finish its answer"
    played.play(assistant("one two three"))
    assert played.row().waiting_for == "the model"


def test_each_delivery_step_stores_evidence(played: Played) -> None:
    pk = played.message("hello")
    played.play(["s", AT, pk])
    row = Message.objects.get()
    assert (row.state, row.evidence) == (MessageState.DELIVERED, None)
    assert row.delivered_at is not None
    played.play(response(pk), event("agent_start"), said("user", "hello"))
    row.refresh_from_db()
    assert row.state == MessageState.ACCEPTED
    assert row.evidence == {"type": "response", "id": pk, "command": "prompt", "success": True}
    assert row.taken_up_at is not None
    assert row.decided_at is not None


def test_refused_message_has_a_reason(played: Played) -> None:
    pk = played.message("hello")
    played.play(["s", AT, pk], response(pk, success=False, error="No API key found"))
    row = Message.objects.get()
    assert row.state == MessageState.REJECTED
    assert row.evidence
    assert row.evidence["error"] == "No API key found"
    assert played.kinds() == [("error", "The agent refused a message: No API key found")]


def test_repeated_verdict_is_applied_once(played: Played) -> None:
    pk = played.message("hello")
    played.play(["s", AT, pk], response(pk), ["s", AT, pk], response(pk, success=False))
    assert Message.objects.get().state == MessageState.ACCEPTED


def test_lieutenant_stays_working_until_the_agent_reports_settled(played: Played) -> None:
    pk = played.message("hello")
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "hello"))
    played.play(assistant("a"), event("agent_end"))
    assert played.row().status == Status.WORKING
    played.play(event("agent_settled"))
    assert played.row().status == Status.IDLE


def test_agent_without_settled_event_is_queried(played: Played) -> None:
    played.play(event("agent_start"), assistant("a"), event("agent_end"))
    (question,) = played.session.outgoing
    assert question.line["type"] == "get_state"
    assert question.id.startswith(STATE_QUERY)
    idle = {"isStreaming": False, "pendingMessageCount": 0}
    played.play(response(question.id, "get_state", data={**idle, "isStreaming": True}))
    assert played.row().status == Status.WORKING
    assert len(played.session.outgoing) == 1  # it is not asked without a pause
    played.clock = 1.0
    played.play()
    (_, again) = played.session.outgoing
    played.play(response(question.id, "get_state", data=idle))  # an old answer says nothing
    assert played.row().status == Status.WORKING
    played.play(response(again.id, "get_state", data=idle))
    assert played.row().status == Status.IDLE


def test_retries_and_their_end_are_recorded(played: Played) -> None:
    retry = {"attempt": 1, "maxAttempts": 3, "delayMs": 2000, "errorMessage": "429 slow down"}
    failed = assistant(reason="error", errorMessage="429 slow down")
    played.play(event("agent_start"), failed, event("agent_end", willRetry=True))
    played.play(event("auto_retry_start", **retry))
    row = played.row()
    assert row.status == Status.WORKING
    assert row.trouble == "429 slow down · try 1 of 3 in 2 s"
    assert row.waiting_for == "the quota or rate limit of its model"
    played.play(event("agent_start"), assistant("fine"), event("auto_retry_end", success=True))
    played.play(event("agent_end"), event("agent_settled"))
    assert (played.row().trouble, played.row().status) == ("", Status.IDLE)
    answer = Answer.objects.get()
    assert (answer.text, answer.outcome) == ("fine", Outcome.COMPLETED)


def test_compaction_is_recorded(played: Played) -> None:
    played.play(event("agent_start"), event("compaction_start", reason="overflow"))
    assert played.row().waiting_for == "the context to be shortened"
    result = {"summary": "s", "tokensBefore": 1085}
    played.play(event("compaction_end", reason="overflow", result=result, willRetry=True))
    notices = [text for kind, text in played.kinds() if kind == "notice"]
    assert notices == [
        "The agent shortens its context: it is full.",
        "Context shortened from 1085 tokens.",
    ]


def test_dialog_is_dismissed_at_once_if_it_may_not_wait(played: Played) -> None:
    Lieutenant.objects.update(dialog_limit_seconds=0)
    ask = {"method": "confirm", "title": "Sure?", "message": "rm"}
    played.play(event("extension_ui_request", id="d1", **ask))
    assert [each.line for each in played.session.outgoing] == [
        {"type": "extension_ui_response", "id": "d1", "cancelled": True}
    ]
    played.play(event("extension_ui_request", id="w1", method="setWidget"))
    assert len(played.session.outgoing) == 1


def test_abort_withdraws_queued_messages(played: Played) -> None:
    first, second = played.message("first"), played.message("second", Mode.FOLLOW_UP)
    played.play(["s", AT, first], response(first), event("agent_start"), said("user", "first"))
    played.play(["s", AT, second], response(second))
    queues = {"steering": [], "followUp": ["second"]}
    played.play(response("~clear-1", "clear_queue", data=queues))
    played.play(assistant("ha", reason="aborted"), event("agent_end"), event("agent_settled"))
    assert Message.objects.get(pk=second).state == MessageState.REJECTED
    assert Answer.objects.get().outcome == Outcome.ABORTED
    assert played.row().status == Status.IDLE


def test_exit_during_an_answer_keeps_the_partial_text(played: Played) -> None:
    pk = played.message("hello")
    played.play(["s", AT, pk], response(pk), event("agent_start"), said("user", "hello"))
    played.play(["t", 0, "half "])
    played.session = played.reopened()
    facts = {"code": None, "signal": 9, "stderr": ["Error: no memory"], "stopped": False}
    played.play(["t", 0, "of it"], ["x", AT, facts])
    answer = Answer.objects.get()
    assert (answer.text, answer.outcome) == ("half of it", Outcome.INTERRUPTED)
    row = played.row()
    assert row.status == Status.ERROR
    assert row.error == "The agent was killed by SIGKILL.\nError: no memory"
    assert not Chunk.objects.exists()
    assert Process.objects.get().exit_signal == 9


def test_messages_of_a_destroyed_lieutenant_are_rejected(played: Played) -> None:
    pk = played.message("hello")
    played.play(["s", AT, pk])
    played.row().move(Status.DESTROYED, reason="test")
    played.play(["x", AT, {"code": 0, "stopped": True}])
    row = Message.objects.get()
    assert row.state == MessageState.REJECTED
    assert row.evidence is not None


def test_two_lieutenants_in_one_pass_keep_separate_answers(played: Played) -> None:
    """Text before a start of work belongs to no answer, not even to another lieutenant's."""
    other = Lieutenant.objects.create(name="bea", role="r", host=settings.HOST)
    process = Process.objects.create(
        lieutenant=other, host=settings.HOST, transport="local", directory="/nowhere"
    )
    stray = Session.open(Process.objects.select_related("lieutenant").get(pk=process.pk))
    for records in ([["t", 0, "stray"]], [assistant("stray")]):
        batch = WriteBatch()
        with transaction.atomic():
            stray.apply(records, batch, 0.0)
            if records[0][0] == "e":
                run: Records = [event("agent_start"), assistant("mine"), event("agent_end")]
                played.session.apply([*run, event("agent_start")], batch, 0.0)
            batch.write()
    assert list(Answer.objects.exclude(outcome="open").values_list("text", flat=True)) == ["mine"]


WEIRD: list[Any] = [
    *(None, True, -1, 0, 10**12, 10**40, 1.5, "", "x" * 300, [], {}, [[]], [None, 1, "x"]),
    *({"type": "text"}, {"content": "x"}, {"a": {"b": [1]}}, [{"type": "text", "text": 5}]),
]


def spoiled(value: Any, chance: random.Random) -> Any:
    """Return the JSON value with a random part replaced by an invalid one."""
    if chance.random() < 0.12:
        return chance.choice(WEIRD)
    if isinstance(value, dict):
        return {key: spoiled(each, chance) for key, each in value.items() if chance.random() > 0.05}
    if isinstance(value, list):
        return [spoiled(each, chance) for each in value]
    return value


def spoil_all(records: Iterable[list[Any]], chance: random.Random) -> Records:
    """Spoil only the agent's own output, since the frame is the keeper's."""
    return [
        [each[0], each[1], spoiled(each[2], chance)]
        if each[0] == "e"
        else ([each[0], chance.choice([0, -1, 10**12]), each[2]] if each[0] in "tkc" else each)
        for each in records
    ]


EXTRAS: Records = [
    event("auto_retry_start", attempt=1, maxAttempts=3, delayMs=2000, errorMessage="x"),
    event("auto_retry_end", success=False, attempt=3, finalError="x"),
    event("compaction_start", reason="overflow"),
    event("compaction_end", result={"tokensBefore": 1}, aborted=False, willRetry=False),
    event("extension_error", extensionPath="p", error="e"),
    event("extension_ui_request", id="u", method="confirm", title="t", message="m"),
    event("extension_ui_request", id="n", method="notify", message="m"),
    response("~clear-1", "clear_queue", data={"steering": ["a"], "followUp": []}),
    response("~state-1", "get_state", data={"isStreaming": False}),
    ["g", AT, "garbage", 7],
    ["l", AT, "head", 9_000_000],
]


@pytest.mark.parametrize("seed", range(30))
def test_arbitrary_agent_output_does_not_break_the_follower(played: Played, seed: int) -> None:
    chance = random.Random(seed)
    message = played.message("look around")
    records = [*EXTRAS, *full_run(message)]
    for _ in range(3):
        played.play(*spoil_all(records, chance))
        played.session = played.reopened()
    end = ["x", AT, {"code": 1, "signal": None, "stderr": ["e"], "stopped": False}]
    played.play(end)
    assert Process.objects.get().ended_at is not None
    assert not Entry.objects.filter(final=False).exists()
    assert not Answer.objects.filter(outcome=Outcome.OPEN).exists()


@pytest.mark.parametrize("status", [Status.STARTING, Status.WORKING])
def test_message_that_is_sent_while_the_agent_comes_to_rest_keeps_it_working(
    played: Played, status: Status
) -> None:
    rows = Lieutenant.objects.filter(pk=played.lieutenant.pk)
    rows.update(status=status)
    # After the facts for the effect were read.
    Message.objects.create(
        lieutenant=played.lieutenant, text="late", mode=Mode.PROMPT, mode_asked=Mode.PROMPT
    )
    played.session.recorder.perform(MoveStatus(Status.IDLE, "at rest", frozenset({status})))
    assert rows.get().status == Status.WORKING
    Message.objects.update(state=MessageState.REJECTED)
    rows.update(status=status)
    played.session.recorder.perform(MoveStatus(Status.IDLE, "at rest", frozenset({status})))
    assert rows.get().status == Status.IDLE
