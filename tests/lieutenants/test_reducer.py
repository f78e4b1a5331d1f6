"""The session as a pure function: state, input and facts to state and effects, without rows."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from lieutenants.agents import events
from lieutenants.agents.base import Features
from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import (
    AddEntry,
    AddLimitedEntry,
    CloseAnswer,
    CloseBlocks,
    CloseCalls,
    Effect,
    MoveStatus,
    OpenAnswer,
    Send,
    SetTrouble,
    Verb,
)
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.reducer import RULES, reduce
from lieutenants.sessions.state import Phase, State
from lieutenants.sessions.writers.transcript import EVENT_WRITERS
from lieutenants.states import RUNNING, MessageState, Outcome, RestartPolicy, Status

AT = datetime(2026, 10, 1, tzinfo=UTC)
NOW = AT + timedelta(seconds=5)
FACTS = Facts(AT, now=NOW)
PI = Features(steering=True, queue=True, rewind=True, session=True, models=True, context=True)
MODEL = events.Model("p/m", "M")

STARTING = State(features=PI)
IDLE = dataclasses.replace(STARTING, is_ready=True, is_at_rest=True)
WORKING = dataclasses.replace(IDLE, running=True, settled=False, is_at_rest=False)
RETRYING = dataclasses.replace(WORKING, running=False, ran=True, retrying=True)
COMPACTING = dataclasses.replace(WORKING, running=False, ran=True, compacting=1)
SETTLING = dataclasses.replace(WORKING, running=False, ran=True, settles=True)
SETTLED = dataclasses.replace(SETTLING, settled=True)
ASKING = dataclasses.replace(WORKING, dialogs=(("d", "Sure?"),), clears_queue=False)
ENDED = dataclasses.replace(IDLE, is_ended=True)

BEGAN = MoveStatus(Status.WORKING, "the agent began to work", frozenset({Status.IDLE}))
READY = frozenset({Status.STARTING})
ACCEPTED = frozenset({MessageState.ACCEPTED})


def but(state: State, **changes: Any) -> State:
    return dataclasses.replace(state, **changes)


@pytest.mark.parametrize(
    ("state", "tools", "waiting"),
    [
        (ASKING, "", "a person to answer “Sure?”"),
        (ASKING, "bash (rm)", "a person to answer “Sure?”"),
        (but(STARTING, dialogs=(("d", ""),)), "", "a person to answer “a dialog”"),
        (but(WORKING, question="Now?"), "", "the model"),
        (but(WORKING, question="Now?"), "bash (ls)", "tool bash (ls)"),
        (but(WORKING, question="Now?"), "reef_ask (Now?)", "a person to answer “Now?”"),
        (but(IDLE, question="Now?"), "", "a person to answer “Now?”"),
        (but(ENDED, question="Now?"), "", ""),
    ],
)
def test_state_names_the_question_that_holds_it_up(state: State, tools: str, waiting: str) -> None:
    assert state.waiting_for(tools) == waiting


@pytest.mark.parametrize(
    ("state", "phase", "waiting", "accepts"),
    [
        (STARTING, Phase.STARTING, "the agent's start", False),
        (but(STARTING, running=True), Phase.STARTING, "the agent's start", False),
        (WORKING, Phase.WORKING, "the model", False),
        (but(WORKING, features=Features()), Phase.WORKING, "the model", False),
        (but(WORKING, inflight="m"), Phase.WORKING, "the agent to accept a message", False),
        (RETRYING, Phase.RETRYING, "the next try", False),
        (
            but(RETRYING, limited=True),
            Phase.RETRYING,
            "the quota or rate limit of its model",
            False,
        ),
        (COMPACTING, Phase.COMPACTING, "the context to be shortened", False),
        (but(COMPACTING, running=True), Phase.COMPACTING, "the context to be shortened", False),
        (SETTLING, Phase.SETTLING, "", False),
        (but(SETTLING, settled=True), Phase.SETTLING, "", True),
        (but(SETTLING, features=Features()), Phase.SETTLING, "", True),
        (IDLE, Phase.IDLE, "", True),
        (
            but(IDLE, rewinding="~rewind-1"),
            Phase.IDLE,
            "the agent to go back to before a message",
            False,
        ),
        (but(WORKING, is_ended=True), Phase.ENDED, "", False),
    ],
)
def test_phase_follows_from_the_state(
    state: State, phase: Phase, waiting: str, accepts: bool
) -> None:
    assert (state.phase, state.waiting_for(), state.accepts_message) == (phase, waiting, accepts)
    has_tools = phase not in (Phase.STARTING, Phase.ENDED)
    assert state.waiting_for("bash (ls)") == ("tool bash (ls)" if has_tools else waiting)


@pytest.mark.parametrize(
    ("state", "accepts"),
    [
        (STARTING, False),
        (WORKING, True),
        (SETTLING, True),
        (IDLE, False),
        (RETRYING, False),
        (COMPACTING, False),
        (but(WORKING, inflight="m"), False),
        (but(WORKING, rewinding="~rewind-1"), False),
        (but(WORKING, features=Features(queue=True)), False),
    ],
)
def test_only_a_running_answer_is_steered(state: State, *, accepts: bool) -> None:
    assert state.accepts_steering is accepts


@pytest.mark.parametrize("given", [*get_args(events.Event), *get_args(inputs.Request)])
def test_each_input_has_one_rule_or_is_only_recorded(given: type) -> None:
    assert (given in RULES) != (given in EVENT_WRITERS)


def test_stored_state_is_the_same_after_a_restart() -> None:
    state = but(WORKING, notes=("a", "b"), inflight="m", rewinding="~fork-1", barrier=4)
    stored = json.loads(json.dumps(state.stored()))

    loaded = State.load(stored, features=PI, is_ready=True)

    assert loaded == state


def test_state_stored_by_an_older_version_is_loaded() -> None:
    stored = {"running": True, "inflight": "m", "answer": 7, "cut": "unknown", "notes": ["a"]}

    loaded = State.load(stored, is_ready=True)

    assert loaded.phase is Phase.WORKING
    assert (loaded.inflight, loaded.notes, loaded.settled) == ("m", ("a",), True)


# -- rules -------------------------------------------------------------------------------------

Case = tuple[State, Any, Facts, dict[str, Any], list[Effect]]
PREVIOUS = but(SETTLED, stop_reason="error", failure="no")
ENDS: list[Effect] = [
    CloseBlocks(),
    effects.ReportOmitted(AT, is_last=True),
    CloseCalls(is_failure=True),
]
AFTER_END: list[Effect] = [
    effects.RequeueMessages(),
    effects.DropEarlierSeries(),
    effects.RestoreTrouble(),
]
GONE = {"running": False, "retrying": False, "compacting": 0, "inflight": "", "is_ended": True}

CASES: dict[str, Case] = {
    # -- starting
    "agent becomes ready with a model": (
        but(STARTING, notes=("a note", "an info")),
        events.Reply("~ready", True, content=events.AgentState(model=MODEL)),
        FACTS._replace(infos=frozenset({"an info"}), wanted_model="p/m"),
        {"is_ready": True, "notes": ()},
        [
            effects.MarkReady(AT),
            effects.StoreModelInUse("p/m", ""),
            Send(Verb.LIST_MODELS, "~models"),
            AddEntry(AT, "a note", is_error=True),
            AddEntry(AT, "an info"),
            MoveStatus(Status.IDLE, "the agent is ready", READY),
        ],
    ),
    "agent becomes ready while a message waits": (
        STARTING,
        events.Reply("~ready", True, content=events.AgentState()),
        FACTS._replace(pending=frozenset({MessageState.QUEUED})),
        {"is_ready": True},
        [effects.MarkReady(AT), MoveStatus(Status.WORKING, "the agent is ready", READY)],
    ),
    "agent is ready, and its first reply was lost while it works": (
        STARTING,
        events.Reply("~ready-1", True, content=events.AgentState(is_working=True)),
        FACTS,
        {"is_ready": True},
        [effects.MarkReady(AT), MoveStatus(Status.WORKING, "the agent is ready", READY)],
    ),
    "agent's first reply may be lost": (
        STARTING,
        inputs.OutputLost(4096),
        FACTS,
        {},
        [
            AddEntry(AT, "0.0 MB of the agent's output are lost.", is_error=True),
            Send(Verb.QUERY_STATE, "~ready-4096"),
        ],
    ),
    "agent is ready with another model than the wanted one": (
        STARTING,
        events.Reply("~ready", True, content=events.AgentState(model=MODEL)),
        FACTS._replace(wanted_model="x/y", has_wanted_model=False),
        {"is_ready": True},
        [
            effects.MarkReady(AT),
            AddEntry(AT, "Its model x/y is not there; the agent goes on with p/m.", is_error=True),
            effects.StoreModelInUse(
                "p/m", "Its model x/y is not there; the agent goes on with p/m."
            ),
            Send(Verb.LIST_MODELS, "~models"),
            MoveStatus(Status.IDLE, "the agent is ready", READY),
        ],
    ),
    "model of the session has changed": (
        STARTING,
        events.Reply("~ready", True, content=events.AgentState(model=MODEL)),
        FACTS._replace(previous_model="p/old"),
        {"is_ready": True},
        [
            effects.MarkReady(AT),
            AddEntry(AT, "The agent's model was p/old; it goes on with p/m."),
            effects.StoreModelInUse("p/m", ""),
            Send(Verb.LIST_MODELS, "~models"),
            MoveStatus(Status.IDLE, "the agent is ready", READY),
        ],
    ),
    "warning before the start is kept": (
        STARTING,
        inputs.Warned("no model"),
        FACTS,
        {"notes": ("no model",)},
        [],
    ),
    # -- idle, working
    "message is delivered": (
        IDLE,
        inputs.Delivered("m"),
        FACTS,
        {"inflight": "m", "was_settled": True, "settled": False},
        [],
    ),
    "message is accepted": (
        but(SETTLING, inflight="m"),
        events.Reply("m", True, content=events.MessageReceipt(), evidence={"id": "m"}),
        FACTS,
        {"inflight": "", "patience": 1.0},
        [effects.DecideMessage("m", True, {"id": "m"}, AT)],
    ),
    "message is handled as a command": (
        but(SETTLING, inflight="m", was_settled=True),
        events.Reply("m", True, content=events.MessageReceipt("handled")),
        FACTS,
        {"inflight": "", "patience": 0.0, "settled": True},
        [
            effects.DecideMessage("m", True, {"disposition": "handled"}, AT),
            effects.MarkHandled("m", AT),
        ],
    ),
    "message is refused": (
        but(SETTLING, inflight="m"),
        events.Reply("m", False, error="no", content=events.MessageReceipt()),
        FACTS,
        {"inflight": "", "patience": 1.0},
        [
            effects.DecideMessage("m", False, {}, AT),
            AddLimitedEntry(
                "refusal", AT, "The agent refused a message: no", kind="error", is_error=True
            ),
        ],
    ),
    "run begins after a failed one": (
        PREVIOUS,
        events.RunStarted(),
        FACTS,
        {
            "running": True,
            "settled": False,
            "ran": False,
            "context_changed": True,
            "stop_reason": "",
            "failure": "",
        },
        [CloseAnswer(AT, Outcome.ERROR, "no"), OpenAnswer(AT), BEGAN],
    ),
    "run goes on after a retry": (
        RETRYING,
        events.RunStarted(),
        FACTS,
        {"running": True, "ran": False, "retrying": False, "context_changed": True},
        [OpenAnswer(AT), BEGAN],
    ),
    "run ends": (
        WORKING,
        events.RunEnded("stop"),
        FACTS,
        {"running": False, "ran": True, "stop_reason": "stop"},
        [CloseBlocks(), CloseCalls()],
    ),
    "run with an unanswered message ends": (
        but(WORKING, inflight="m"),
        events.RunEnded(),
        FACTS._replace(is_taken_up=True),
        {"running": False, "ran": True, "inflight": "", "patience": 1.0},
        [
            CloseBlocks(),
            CloseCalls(),
            effects.DecideMessage(
                "m",
                True,
                {"note": "the agent worked through it without a response of its own"},
                AT,
            ),
        ],
    ),
    "abort during a tool call is no failure": (
        WORKING,
        abort := events.AssistantMessage(stop_reason="error", failure="aborted", is_abort=True),
        FACTS,
        {"stop_reason": "aborted"},
        [effects.RecordMessage(abort, AT), AddEntry(AT, "The answer was aborted.")],
    ),
    "model fails": (
        WORKING,
        failed := events.AssistantMessage(stop_reason="error", failure="413"),
        FACTS,
        {"stop_reason": "error", "failure": "413"},
        [
            effects.RecordMessage(failed, AT),
            SetTrouble("413"),
            effects.AddFailure(AT, "413"),
        ],
    ),
    # -- retrying, compacting
    "retry begins": (
        SETTLING,
        events.RetryStarted("429", "1", "3", 1500),
        FACTS,
        {"retrying": True, "retry_at": AT.timestamp() + 1.5, "limited": True},
        [
            effects.DropFailedTexts(),
            SetTrouble("429 · try 1 of 3 in 1.5 s"),
            AddLimitedEntry("retry", AT, "429 · try 1 of 3 in 1.5 s", data={"retry": {}}),
        ],
    ),
    "retry after an unbelievable time begins": (
        SETTLING,
        events.RetryStarted("terminated", "1", "3", 10**20),
        FACTS,
        {"retrying": True, "retry_at": AT.timestamp() + 7 * 86_400},
        [
            effects.DropFailedTexts(),
            SetTrouble("terminated · try 1 of 3 in 1e+17 s"),
            AddLimitedEntry("retry", AT, "terminated · try 1 of 3 in 1e+17 s", data={"retry": {}}),
        ],
    ),
    "retries are given up": (
        RETRYING,
        events.RetryEnded(False, "429"),
        FACTS,
        {"retrying": False, "failure": "429"},
        [
            SetTrouble("429"),
            AddLimitedEntry("retry", AT, "No more tries: 429", data={"retry": {}}, is_error=True),
        ],
    ),
    "compaction begins": (
        SETTLED,
        events.CompactionStarted("full"),
        FACTS,
        {"compacting": 1, "settled": False},
        [
            AddLimitedEntry(
                "compaction",
                AT,
                "The agent shortens its context: it is full.",
                data={"compaction": {}},
            )
        ],
    ),
    "compaction ends before a retry": (
        COMPACTING,
        events.CompactionEnded(True, tokens_before=900, will_retry=True),
        FACTS,
        {"compacting": 0, "context_changed": True, "retrying": True},
        [
            effects.DropFailedTexts(),
            effects.CountUsage(AT, None, "compaction"),
            SetTrouble(""),
            AddLimitedEntry(
                "compaction",
                AT,
                "Context shortened from 900 tokens.",
                data={"compaction": {}},
            ),
        ],
    ),
    # -- settling
    "settled agent with nothing pending is idle": (
        but(SETTLED, context_changed=True),
        inputs.SettleCheck(9.0),
        FACTS,
        {"settle_checked_at": 9.0, "is_at_rest": True, "asked_stats": True, "stats_asked": 1},
        [
            CloseAnswer(AT, Outcome.COMPLETED, ""),
            MoveStatus(
                Status.IDLE, "the agent has nothing left to do", frozenset({Status.WORKING})
            ),
            Send(Verb.QUERY_CONTEXT, "~stats-1"),
        ],
    ),
    "settled agent with a queued message is not idle": (
        SETTLED,
        inputs.SettleCheck(9.0),
        FACTS._replace(pending=frozenset({MessageState.QUEUED})),
        {"settle_checked_at": 9.0},
        [],
    ),
    "settled agent may have accepted messages in its queue": (
        SETTLED,
        inputs.SettleCheck(9.0),
        FACTS._replace(pending=ACCEPTED),
        {"settle_checked_at": 9.0, "settled": False, "unconfirmed": True},
        [],
    ),
    "confirmed agent has handled accepted messages": (
        but(SETTLED, confirmed=True),
        inputs.SettleCheck(9.0),
        FACTS._replace(pending=ACCEPTED),
        {"settle_checked_at": 9.0, "is_at_rest": True},
        [
            CloseAnswer(AT, Outcome.COMPLETED, ""),
            effects.FinishCommands(AT),
            effects.MarkAllBegun(AT),
            MoveStatus(
                Status.IDLE, "the agent has nothing left to do", frozenset({Status.WORKING})
            ),
        ],
    ),
    "agent that reports when it has settled is given time": (
        SETTLING,
        inputs.SettleCheck(19.0),
        FACTS,
        {"settle_checked_at": 19.0},
        [],
    ),
    "agent that did not report is asked": (
        SETTLING,
        inputs.SettleCheck(20.0),
        FACTS,
        {"settle_checked_at": 20.0, "state_queried_at": 20.0, "barrier": 1},
        [Send(Verb.QUERY_STATE, "~state-1")],
    ),
    "agent that does not know the query counts as settled": (
        but(SETTLING, state_queried_at=20.0),
        inputs.SettleCheck(23.5),
        FACTS,
        {"settle_checked_at": 23.5, "state_queried_at": None, "settled": True, "confirmed": True},
        [],
    ),
    "state query confirms that it has settled": (
        but(SETTLING, barrier=2, last_record_at=4.0, state_queried_at=3.0),
        events.Reply("~state-2", True, content=events.AgentState()),
        FACTS,
        {"state_queried_at": None, "next_query_at": 4.3, "settled": True, "confirmed": True},
        [],
    ),
    "reply to an older state query is ignored": (
        but(SETTLING, barrier=2, state_queried_at=3.0),
        events.Reply("~state-1", True, content=events.AgentState()),
        FACTS,
        {},
        [],
    ),
    "agent that forgot its queue is started again": (
        but(SETTLING, stuck_replies=4, stop_reason="aborted"),
        events.Reply("~state-0", True, content=events.AgentState(has_queue=True)),
        FACTS,
        {"stuck_replies": 5, "next_query_at": 0.3},
        [
            effects.WithdrawUnstarted(AT),
            MoveStatus(
                Status.STARTING,
                "its agent did not begin messages that it accepted; started again",
                frozenset({Status.IDLE, Status.WORKING}),
                then=(effects.RequestStop(AT),),
            ),
        ],
    ),
    "agent that must stop is not started again": (
        but(SETTLING, stuck_replies=4),
        events.Reply("~state-0", True, content=events.AgentState(has_queue=True)),
        FACTS._replace(stop_asked=True),
        {"stuck_replies": 5, "next_query_at": 0.3},
        [],
    ),
    "working agent is not asked": (
        WORKING,
        inputs.SettleCheck(99.0),
        FACTS,
        {"settle_checked_at": 99.0},
        [],
    ),
    # -- requests
    "queued message wakes an idle session": (
        IDLE,
        inputs.WorkSeen(),
        FACTS,
        {"is_at_rest": False},
        [],
    ),
    "abort says how many messages it withdrew": (
        but(WORKING, clears_queue=False),
        inputs.AbortAsked("7", 2),
        FACTS,
        {},
        [
            Send(Verb.ABORT, "~abort-7"),
            AddEntry(AT, "The abort withdrew 2 queued messages."),
        ],
    ),
    "abort withdraws the queue first": (
        WORKING,
        inputs.AbortAsked("7"),
        FACTS,
        {},
        [Send(Verb.CLEAR_QUEUE, "~clear-7"), Send(Verb.ABORT, "~abort-7")],
    ),
    "abort without a queue": (
        but(WORKING, clears_queue=False),
        inputs.AbortAsked("7"),
        FACTS,
        {},
        [Send(Verb.ABORT, "~abort-7")],
    ),
    "limit that has passed is only noted": (
        WORKING,
        inputs.LimitPassed("Tool x ran longer than its limit of 1 s."),
        FACTS,
        {},
        [AddEntry(AT, "Tool x ran longer than its limit of 1 s.", is_error=True)],
    ),
    "stalled answer is aborted": (
        WORKING,
        inputs.Stalled("9", "Silent: reef aborts this answer."),
        FACTS,
        {},
        [
            AddEntry(AT, "Silent: reef aborts this answer.", is_error=True),
            SetTrouble("Silent: reef aborts this answer."),
            Send(Verb.ABORT, "~abort-stall-9"),
        ],
    ),
    "dialog below a running command is dismissed": (
        but(SETTLING, inflight="m"),
        events.Dialog("d", "confirm", "Sure?"),
        FACTS,
        {},
        [
            effects.ShowCommand("m", AT),
            Send(Verb.DISMISS_DIALOG, "d"),
            AddLimitedEntry(
                "dialog",
                AT,
                "The dialog “Sure?” was dismissed, since nobody can answer it.",
                data={"dialog": "confirm"},
            ),
        ],
    ),
    "dialog that may wait is asked": (
        WORKING,
        events.Dialog("d", "confirm", "Sure?", "rm"),
        FACTS._replace(dialog_limit_seconds=60),
        {"dialogs": (("d", "Sure? rm"),)},
        [
            effects.OpenQuestion(events.Dialog("d", "confirm", "Sure?", "rm"), AT, 60),
            AddLimitedEntry(
                "dialog", AT, "A person is asked: “Sure? rm”", data={"dialog": "confirm"}
            ),
        ],
    ),
    "dialog has its reply": (
        ASKING,
        inputs.DialogReplied("d"),
        FACTS,
        {"dialogs": ()},
        [effects.CloseQuestion("d", AT)],
    ),
    "dialog that was dismissed at once has its reply": (
        ASKING,
        inputs.DialogReplied("e"),
        FACTS,
        {},
        [],
    ),
    "abort withdraws open dialogs": (
        ASKING,
        inputs.AbortAsked("7"),
        FACTS,
        {},
        [effects.WithdrawQuestions("the answer was aborted"), Send(Verb.ABORT, "~abort-7")],
    ),
    "question of a tool is seen": (
        WORKING,
        inputs.QuestionSeen("Now?"),
        FACTS,
        {"question": "Now?"},
        [],
    ),
    # -- rewinding
    "rewind begins": (
        IDLE,
        inputs.RewindCheck(3.0, "7", 42),
        FACTS,
        {"rewinding": "~rewind-7", "rewind_at": 3.0, "rewind_to": 42, "is_at_rest": False},
        [Send(Verb.LIST_MESSAGES, "~rewind-7")],
    ),
    "working agent does not go back": (
        WORKING,
        inputs.RewindCheck(3.0, "7", 42),
        FACTS,
        {},
        [],
    ),
    "message is found, and the session forked": (
        but(IDLE, rewinding="~rewind-7", rewind_to=42, rewind_at=3.0),
        events.Reply("~rewind-7", True, content=events.SessionMessages((("e", "hi"),))),
        FACTS._replace(rewind_target="e"),
        {"rewinding": "~fork-7", "rewind_at": None},
        [Send(Verb.FORK, "~fork-7", "e")],
    ),
    **{
        f"message {name} is not found": (
            but(IDLE, rewinding="~rewind-7", rewind_to=42, rewind_at=3.0),
            events.Reply("~rewind-7", True, content=events.SessionMessages((("", "hi"),))),
            FACTS._replace(rewind_target=target),
            {"rewinding": "", "rewind_to": 0, "rewind_at": None},
            [
                effects.ClearRewind(),
                AddEntry(
                    AT,
                    "Could not go back to before a message: "
                    "the agent does not have this message in its session any more.",
                    is_error=True,
                ),
            ],
        )
        for name, target in {"that the agent lacks": None, "without an id": ""}.items()
    },
    "rewind stops when a message was sent meanwhile": (
        but(IDLE, rewinding="~rewind-7", rewind_to=42),
        events.Reply("~rewind-7", True, content=events.SessionMessages()),
        FACTS._replace(rewind_target="e", was_sent_since=True),
        {"rewinding": "", "rewind_to": 0},
        [
            effects.ClearRewind(),
            AddEntry(
                AT,
                "Could not go back to before a message: a message was sent meanwhile.",
                is_error=True,
            ),
        ],
    ),
    "fork is followed by a query for the file": (
        but(IDLE, rewinding="~fork-7", rewind_to=42),
        events.Reply("~fork-7", True, content=events.SessionForked()),
        FACTS,
        {"rewinding": "~forked-7"},
        [Send(Verb.QUERY_STATE, "~forked-7")],
    ),
    "agent goes on with another file": (
        but(IDLE, rewinding="~forked-7", rewind_to=42),
        events.Reply("~forked-7", True, content=events.AgentState(session_file="/s/b.jsonl")),
        FACTS._replace(session_name="a.jsonl"),
        {"rewinding": "", "rewind_to": 0},
        [effects.GoBack(42, "a.jsonl", "b.jsonl", AT)],
    ),
    "lost reply to a fork": (
        but(IDLE, rewinding="~fork-7", rewind_at=3.0),
        inputs.RewindCheck(14.0, "8"),
        FACTS,
        {"rewinding": "~forked-7", "rewind_at": 14.0},
        [Send(Verb.QUERY_STATE, "~forked-7")],
    ),
    "lost reply to the query for the file": (
        but(IDLE, rewinding="~forked-7", rewind_at=3.0),
        inputs.RewindCheck(14.0, "8"),
        FACTS,
        {"rewinding": "~forked-8", "rewind_at": 14.0},
        [Send(Verb.QUERY_STATE, "~forked-8")],
    ),
    # -- ended
    "agent is stopped as requested": (
        but(IDLE, inflight="m"),
        inputs.ProcessEnded(code=143, stopped=True),
        FACTS,
        GONE,
        [
            *ENDS,
            CloseAnswer(AT, Outcome.INTERRUPTED, "Stopped as requested."),
            effects.EndProcess(AT, "Stopped as requested.", code=143),
            *AFTER_END,
            MoveStatus(
                Status.STARTING,
                "its agent was stopped; started again",
                frozenset({Status.IDLE, Status.WORKING}),
            ),
        ],
    ),
    "crashed agent is started again after a pause": (
        WORKING,
        inputs.ProcessEnded(signal=9, stderr="oh"),
        FACTS._replace(restart_policy=RestartPolicy.ON_FAILURE, restarts=2),
        GONE,
        [
            *ENDS,
            CloseAnswer(AT, Outcome.INTERRUPTED, "The agent was killed by SIGKILL."),
            AddEntry(AT, "The agent was killed by SIGKILL.\noh", kind="error", is_error=True),
            effects.EndProcess(AT, "The agent was killed by SIGKILL.", signal=9, stderr="oh"),
            *AFTER_END,
            MoveStatus(
                Status.ERROR,
                reason := "The agent was killed by SIGKILL.\noh\nIt is started again: try 3 of 5.",
                RUNNING,
                {"restart_at": NOW + timedelta(seconds=4), "restarts": 3, "error": reason},
            ),
        ],
    ),
    "destroyed lieutenant's agent ends during a rewind": (
        but(IDLE, rewinding="~fork-7", rewind_to=42),
        inputs.ProcessEnded(code=0),
        FACTS._replace(stop_asked=True, is_destroyed=True),
        {**GONE, "rewinding": "", "rewind_to": 0},
        [
            *ENDS,
            CloseAnswer(AT, Outcome.INTERRUPTED, "Stopped as requested."),
            effects.EndProcess(AT, "Stopped as requested.", code=0),
            effects.ClearRewind(),
            AddEntry(
                AT,
                "Could not go back to before a message: its agent ended first.",
                is_error=True,
            ),
            effects.RequeueMessages(),
            effects.WithdrawQueued(AT),
            effects.DropEarlierSeries(),
            effects.RestoreTrouble(),
            MoveStatus(
                Status.STARTING,
                "its agent was stopped; started again",
                frozenset({Status.IDLE, Status.WORKING}),
            ),
        ],
    ),
    "useless process is asked to stop": (
        WORKING,
        inputs.ProcessUseless("It is silent."),
        FACTS,
        {},
        [
            effects.RequestStop(NOW),
            MoveStatus(
                Status.ERROR,
                "It is silent.",
                RUNNING,
                {"restart_at": None, "restarts": 0, "error": "It is silent."},
            ),
        ],
    ),
    "usage of the context is not stored after the end was requested": (
        but(IDLE, asked_stats=True, context_changed=True),
        events.Reply("~stats-1", True, content=events.ContextUsage({"tokens": 1})),
        FACTS._replace(stop_asked=True),
        {"asked_stats": False, "context_changed": False},
        [],
    ),
    "keeper responds again after another follower hid the trouble": (
        but(ENDED, stop_reason="error", failure="413"),
        inputs.TroubleOver(),
        FACTS,
        {},
        [effects.RestoreTrouble("413")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_gives_state_and_effects(name: str) -> None:
    state, given, facts, changes, expected = CASES[name]

    after, found = reduce(state, given, facts)

    assert after == but(state, **changes)
    assert list(found) == expected
