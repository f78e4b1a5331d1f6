"""One live process as the follower knows it: journal records in, rows and commands out.

All that a session must remember across a restart of the worker stands in `Process.state` and in
rows that are not final, written in the same transaction as the journal's offset. So a follower
that is killed anywhere goes on from its last commit, and nothing is lost or doubled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from lieutenants import (
    commands,
    delivery,
    ending,
    failing,
    floods,
    model_choice,
    rewinding,
    rpc,
    session_files,
    tool_limits,
)
from lieutenants.failing import FailureSeries
from lieutenants.floods import Floods
from lieutenants.ledger import Ledger
from lieutenants.models import Entry, Lieutenant, Message, Process
from lieutenants.presence import vm_of
from lieutenants.rpc import Outgoing
from lieutenants.states import MessageState, Outcome, Status
from lieutenants.transcript import Event, Transcript, moment, said_of_cut, whole
from lieutenants.transcript_screening import State
from reef_site.common.errors import IllegalMove, LostRace
from versconfig.screening import sources

logger = logging.getLogger(__name__)

_STATUS = f"SELECT status FROM {Lieutenant._meta.db_table} WHERE id = %s"  # noqa: S608 - a name
BARRIER = "~state-"
BARRIER_SECONDS = 3.0
REST_LOOK_SECONDS = 0.2
AGAIN_SECONDS = 0.3  # between two such questions
# So often in a row it says that it rests with messages in its queue: it has forgotten them.
STRANDED_ANSWERS = 5
# An agent that says when it is done is asked only when it has not said so for this long.
SETTLE_SECONDS = 20.0
# One that has accepted a message begins its run at once; a command may begin none.
BEGIN_SECONDS = 1.0

NO_MODEL = (
    "The agent has no model to work with. Give it one: set ANTHROPIC_API_KEY (or another "
    "provider's key) where reef is started, or put a provider into models.json in the agent's "
    "folder; `up --demo` brings a small local one."
)


@dataclass
class Memory:
    """What is known of the agent at the journal's offset; kept as `Process.state`."""

    running: bool = False
    retrying: bool = False
    compacting: int = 0
    # The agent said that it has nothing left to do, and nothing has begun since.
    settled: bool = True
    # It said so when asked, and that its queue is empty.
    confirmed: bool = False
    # Its last run has ended, as far as it told.
    ran: bool = False
    stop_reason: str = ""
    failure: str = ""
    # The message that was delivered and has no verdict yet.
    inflight: str = ""
    answer: int | None = None
    message: str | None = None
    # The entry of the slash command that is running, and how long to wait for a run to begin.
    command: int | None = None
    patience: float = SETTLE_SECONDS
    # The command of `rewinding` that is on its way, and the entry to go back to.
    rewinding: str = ""
    rewind_to: int = 0
    # What is to be said of the session when the agent is ready.
    notes: list[str] = field(default_factory=list)
    barrier: int = 0
    # Text that is held back, see `TranscriptScreening.state`, and whether was said that some is.
    held: State = field(default_factory=dict)
    covered: bool = False
    # The stored secrets that the agent was started with, as ids of their versions.
    secret_versions: list[int] = field(default_factory=list)
    # What this version of the agent can do: see `agents.Agent`.
    clears_queue: bool = True
    settles: bool = False
    # Rows that were not made, and which floods go on: the fields of `Floods`.
    flood_buckets: dict[str, list[float | None]] = field(default_factory=dict)
    loud: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, state: dict[str, Any]) -> Memory:
        """From `Process.state`; keys of an older reef are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})

    @property
    def busy(self) -> bool:
        """Whether the agent is at work, or will go on by itself."""
        return self.running or self.retrying or self.compacting > 0

    def rest_reason(self) -> str:
        """Why a lieutenant rests, for its move."""
        if self.stop_reason == "error":
            return f"its answer failed: {self.failure}"
        if self.stop_reason == "aborted":
            return "its answer was aborted"
        return "the agent has nothing left to do"

    def outcome(self) -> Outcome:
        """How the run ended, by the agent's own stop reason."""
        by_reason = {"aborted": Outcome.ABORTED, "error": Outcome.ERROR}
        return by_reason.get(self.stop_reason, Outcome.COMPLETED)


@dataclass
class Session(Transcript):
    """A live process: its transcript, and what it is doing."""

    memory: Memory = field(default_factory=Memory)
    outgoing: list[Outgoing] = field(default_factory=list)
    ended: bool = False
    # Known to be idle, with nothing on its way: need not be looked at until something comes.
    resting: bool = False
    # Seconds of the follower's clock: when the last record came, and when was asked for a state.
    heard_at: float = 0.0
    # When it was taken up, and since when its keeper takes nothing that is sent.
    opened_at: float = 0.0
    # Its agent was ready before this follower took it up.
    was_ready: bool = False
    unsent_since: float | None = None
    asked_at: float | None = None
    looked_at: float = 0.0
    ask_again_at: float = 0.0
    doubtful: bool = False  # it said that it is done, and has accepted messages nonetheless
    stranded: int = 0
    rewind_at: float | None = None
    command: Entry | None = None
    series: FailureSeries = field(default_factory=FailureSeries)
    # What the rows of process and lieutenant hold, see `ledger.save_progress`.
    committed_offset: int = 0
    committed_rev: int = 0
    # Up to where the journal's room on the disk was given back.
    shortened: int = 0

    def __post_init__(self) -> None:
        self.committed_offset, self.committed_rev = self.process.offset, self.lieutenant.rev

    @property
    def floods(self) -> Floods:
        """What this process was too loud with; changes are kept in the memory."""
        return Floods(self.memory.flood_buckets, self.memory.loud)

    @classmethod
    def open(cls, process: Process) -> Session:
        """Take a process up where its rows stand."""
        session = cls(process, process.lieutenant, memory=Memory.load(process.state))
        session.use_newest_screen(recheck=True)
        session.screening.recover(process, session.memory.held)
        session.message_id = session.memory.message
        session.reopen(session.memory.answer)
        if session.memory.command:
            session.command = Entry.objects.filter(pk=session.memory.command).first()
        return session

    def use_newest_screen(self, *, recheck: bool = False) -> None:
        """Cover the secrets that there are now; with `recheck` all that are committed."""
        self.screening.use(
            sources.for_node(
                vm_of(self.lieutenant),
                self.memory.secret_versions,
                is_agent=True,
                recheck=recheck,
            )
        )

    # -- one pass -------------------------------------------------------------------------

    def apply(self, records: list[list[Any]], ledger: Ledger, clock: float) -> None:
        """Take in what the journal says next; runs inside the pass's transaction."""
        self.ledger = ledger
        self.resting = False
        if not all(map(_is_own_word, records)):
            self.heard_at = clock
            self.lieutenant.last_activity_at = timezone.now()
        for record in records:
            kind = record[0]
            if kind in rpc.DELTA_KINDS:
                self.delta(rpc.DELTA_KINDS[kind], int(record[1]), str(record[2]))
            else:
                self.flush_texts()
                self._take(record)
        self.flush_texts()
        self._say_covered()
        if self.memory.flood_buckets and records:
            self.say_left_out(timezone.now())

    def remember(self) -> None:
        """Bring the columns that the pass writes up to date; new rows have their ids by now."""
        self.memory.answer = self.answer.pk if self.answer else None
        self.memory.message = self.message_id
        self.memory.command = self.command.pk if self.command else None
        failing.remember(self)
        self.memory.held = self.screening.state()
        self.process.state = dict(vars(self.memory))
        self.lieutenant.waiting_for = self.waiting_for()
        self.lieutenant.waiting_since = tool_limits.since(self.results.values())
        if not self.ended:
            self.lieutenant.trouble = self.floods.trouble(self.lieutenant.trouble)

    def _take(self, record: list[Any]) -> None:
        kind, at = record[0], moment(record[1])
        cover = self.screening.cover
        if kind == "e" and isinstance(record[2], dict):
            name = str(record[2].get("type"))
            if handler := _HANDLERS.get(name):
                is_message = name == "message_end"
                covered = (self.screening.cover_message if is_message else cover)(record[2])
                handler(self, covered, at)
        elif kind == "s":
            self._delivered(str(record[2]), at)
        elif kind == "x":
            ending.end(self, cover(record[2]) if isinstance(record[2], dict) else {}, at)
        else:
            self._take_note(record, at)

    def _take_note(self, record: list[Any], at: datetime) -> None:
        """What the keeper says of lines that it did not record, or not whole."""
        kind, cover = record[0], self.screening.cover
        if kind == "g":
            text = f"The agent printed what is not its protocol: {cover(str(record[2]))}"
            self.limited("garbage", at, text, is_error=True)
        elif kind == "l":
            text = f"A line of {record[3]} bytes was left out."
            self.limited("line", at, text, is_error=True)
        elif kind == "m":
            text = self.floods.note(cover(str(record[2])), whole(record[3]), whole(record[4]))
            self.notice(at, text, is_error=True)
        elif kind == "gap":
            lost = floods.megabytes(whole(record[2]))
            self.notice(at, f"{lost} of what the agent said are gone.", is_error=True)
        elif kind == "q":
            self.floods.quiet(cover(str(record[2])))

    def limited(self, cause: str, at: datetime, text: str, **fields: Any) -> None:
        """Make a row of which an agent may cause any number: only so many in each minute."""
        if self.floods.admits(cause, at):
            self.add(**{"kind": Entry.Kind.NOTICE, "at": at, "text": floods.cut(text), **fields})

    def say_left_out(self, now: datetime, *, last: bool = False) -> None:
        """Tell how many rows were not made since this was told last."""
        for text in self.floods.summaries(now, last=last):
            self.notice(now, text, is_error=True)

    def _say_covered(self) -> None:
        """Tell readers, once a process, that the transcript does not show everything."""
        names = self.screening.take_names()
        if names and not self.memory.covered:
            self.memory.covered = True
            marks = ", ".join(f"[{name}]" for name in names)
            text = f"Secrets in what the agent prints are covered. First covered: {marks}."
            self.notice(timezone.now(), text)

    def notice(self, at: datetime, text: str, **fields: Any) -> None:
        """Something worth knowing that nobody said."""
        self.add(Entry.Kind.NOTICE, at, text=text, **fields)

    def close_answer(self, at: datetime, outcome: Outcome, failure: str = "") -> None:
        """Close the running answer, and count it if it failed like the one before."""
        answer = self.answer
        super().close_answer(at, outcome, failure)
        if answer:
            failing.count(self, outcome, failure, at, answer)

    # -- runs and messages of the agent ---------------------------------------------------

    def _agent_start(self, _event: Event, at: datetime) -> None:
        memory = self.memory
        goes_on = memory.retrying or memory.compacting or not memory.ran
        if self.answer and not goes_on:
            self.close_answer(at, memory.outcome(), memory.failure)
        if self.answer is None:
            self.open_answer(at)
        memory.running, memory.settled, memory.ran = True, False, False
        memory.retrying, memory.patience = False, SETTLE_SECONDS
        memory.stop_reason, memory.failure = "", ""
        self.shift(Status.WORKING, "the agent began to work", {Status.IDLE})

    def _agent_end(self, event: Event, at: datetime) -> None:
        memory = self.memory
        memory.running, memory.ran = False, True
        memory.stop_reason = str(event.get("stopReason") or memory.stop_reason)
        memory.failure = str(event.get("errorMessage") or memory.failure)
        memory.retrying = bool(event.get("willRetry"))
        self.close_blocks()
        self.close_calls()
        if memory.inflight and Message.objects.filter(
            pk=memory.inflight, taken_up_at__isnull=False
        ):
            evidence = {"note": "the agent worked through it without a response of its own"}
            self._decided(memory.inflight, True, evidence, at)

    def _turn_end(self, _event: Event, _at: datetime) -> None:
        self.close_calls()

    def _agent_settled(self, _event: Event, _at: datetime) -> None:
        self.close_calls()
        self.memory.settled, self.memory.confirmed = not self.memory.busy, False

    def _message_end(self, event: Event, at: datetime) -> None:
        message = event.get("message")
        if not isinstance(message, dict):
            return
        message |= {name: event[name] for name in ("cut", "images") if name in event}
        role = message.get("role")
        if role == "user":
            self._user_message(message, at)
        elif role == "assistant":
            self._assistant_message(message, at)
        elif role == "toolResult":
            self.tool_result(message, at)

    def _user_message(self, said: Event, at: datetime) -> None:
        text = rpc.text_of(said.get("content"))
        message = delivery.take_up(self.lieutenant, text, at, cover=self.screening.cover)
        if message:
            self.message_id = message.pk
            if self.answer and self.answer.message_id is None:
                self.answer.message_id = message.pk
                self.ledger.change(self.answer)
        images = whole(said.get("images")) or rpc.count_images(said.get("content"))
        if size := whole(said.get("cut")):
            text = said_of_cut("Message", size, images, text)
        data: dict[str, Any] = {"images": images} if images else {}
        data |= commands.took_up(self, message, text)
        entry = self.add(Entry.Kind.USER, at, text=text, message=message, data=data)
        self.first_user = self.first_user or entry

    def _assistant_message(self, said: Event, at: datetime) -> None:
        self.assistant_blocks(said, at)
        memory = self.memory
        memory.stop_reason, memory.failure = str(said.get("stopReason") or ""), ""
        if memory.stop_reason == "error" and rpc.is_abort(said.get("errorMessage")):
            memory.stop_reason = "aborted"
        if memory.stop_reason == "error":
            failure = str(said.get("errorMessage") or "The model failed without a word.")
            memory.failure = self.lieutenant.trouble = failure
            if not failing.is_known(self.lieutenant, failure):
                self.add(Entry.Kind.ERROR, at, text=failure, is_error=True)
        elif memory.stop_reason == "aborted":
            self.notice(at, "The answer was aborted.")
        else:
            self.lieutenant.trouble = ""

    # -- trouble with the model -----------------------------------------------------------

    def _retry_start(self, event: Event, at: datetime) -> None:
        self.memory.retrying = True
        self.drop_failed_texts()
        seconds = whole(event.get("delayMs")) / 1000
        self.lieutenant.trouble = (
            f"{event.get('errorMessage') or 'The model failed'} · try {event.get('attempt')} of "
            f"{event.get('maxAttempts')} in {seconds:g} s"
        )
        self.limited("retry", at, self.lieutenant.trouble, data={"retry": event})

    def _retry_end(self, event: Event, at: datetime) -> None:
        self.memory.retrying = False
        if event.get("success"):
            self.lieutenant.trouble = ""
            return
        failure = str(event.get("finalError") or "The model failed")
        self.lieutenant.trouble = self.memory.failure = failure
        text = f"No more tries: {failure}"
        self.limited("retry", at, text, data={"retry": event}, is_error=True)

    def _compaction_start(self, event: Event, at: datetime) -> None:
        self.memory.compacting += 1
        self.memory.settled = False
        reasons = {"overflow": "it is full", "threshold": "it is nearly full"}
        why = reasons.get(str(event.get("reason")), "it was asked to")
        text = f"The agent shortens its context: {why}."
        self.limited("compaction", at, text, data={"compaction": event})

    def _compaction_end(self, event: Event, at: datetime) -> None:
        self.memory.compacting = max(0, self.memory.compacting - 1)
        self.memory.retrying = bool(event.get("willRetry"))
        if self.memory.retrying:
            self.drop_failed_texts()
        result = event.get("result")
        if isinstance(result, dict):
            provider, _, model = self.lieutenant.model_in_use.partition("/")
            said = {"provider": provider, "model": model, "stopReason": "compaction"}
            self.count_usage({**said, "usage": result.get("usage")}, at)
            text = f"Context shortened from {whole(result.get('tokensBefore'))} tokens."
            self.lieutenant.trouble = ""
        else:
            text = str(event.get("errorMessage") or "The context was not shortened.")
            self.lieutenant.trouble = "" if event.get("aborted") else text
        failed = not isinstance(result, dict)
        self.limited("compaction", at, text, data={"compaction": event}, is_error=failed)

    # -- extensions -----------------------------------------------------------------------

    def _extension_error(self, event: Event, at: datetime) -> None:
        commands.show(self, at)
        text = f"Extension {event.get('extensionPath')}: {event.get('error')}"
        self.limited("extension_error", at, text, kind=Entry.Kind.ERROR, is_error=True)

    def _ui_request(self, event: Event, at: datetime) -> None:
        """Nobody sits at the agent's side, so each dialog is dismissed at once."""
        method, request = str(event.get("method")), event.get("id")
        if method in rpc.DIALOGS or method == "notify":
            commands.show(self, at)
        if method in rpc.DIALOGS and isinstance(request, str):
            self.outgoing.append(rpc.dismiss(request))
            asked = " ".join(str(event.get(key) or "") for key in ("title", "message")).strip()
            text = f"The agent asked “{asked}”. Nobody could answer, so it was dismissed."
            self.limited("dialog", at, text, data={"dialog": method})
        elif method == "notify":
            self.limited("notify", at, str(event.get("message") or ""))

    # -- responses ------------------------------------------------------------------------

    def _delivered(self, command: str, at: datetime) -> None:
        if not command.startswith("~") and delivery.delivered(command, at):
            self.memory.inflight, self.memory.settled = command, False
            self.next_rev()

    def _response(self, event: Event, at: datetime) -> None:
        command, kind = str(event.get("id") or ""), event.get("command")
        if command and command == self.memory.rewinding:
            rewinding.heard(self, event, at)
        elif kind == "get_state":
            self._state_answer(command, event, at)
        elif command == model_choice.ASK:
            model_choice.heard_list(self, event, at)
        elif kind == "clear_queue":
            self._queue_given_back(event, at)
        elif command and not command.startswith("~"):
            accepted = bool(event.get("success"))
            evidence = {key: value for key, value in event.items() if key != "data"}
            self._decided(command, accepted, evidence, at)
            data = event.get("data")
            if isinstance(data, dict) and data.get("disposition") == "handled":
                self.memory.patience = 0.0
                commands.handled(self, command, at)
            if not accepted:
                text = f"The agent refused a message: {event.get('error')}"
                self.limited("refusal", at, text, kind=Entry.Kind.ERROR, is_error=True)

    def _decided(self, message: str, accepted: bool, evidence: Event, at: datetime) -> None:
        delivery.decide(message, accepted=accepted, evidence=evidence, at=at)
        if self.memory.inflight == message:
            self.memory.inflight = ""
        self.memory.settled, self.memory.patience = False, BEGIN_SECONDS
        self.next_rev()

    def _queue_given_back(self, event: Event, at: datetime) -> None:
        if not event.get("success"):
            self.memory.clears_queue = False
        data = event.get("data")
        queues = data.values() if isinstance(data, dict) else []
        texts = [str(text) for queue in queues if isinstance(queue, list) for text in queue]
        cover = self.screening.cover
        if count := delivery.withdraw_accepted(self.lieutenant, texts, at, cover=cover):
            self.notice(at, f"The abort withdrew {count} queued message{'s' if count > 1 else ''}.")

    def _state_answer(self, command: str, event: Event, at: datetime) -> None:
        data = event.get("data")
        state = data if isinstance(data, dict) else {}
        if self.process.ready_at is None:
            self._ready(state, at)
        elif command == f"{BARRIER}{self.memory.barrier}":
            self.asked_at, self.ask_again_at = None, self.heard_at + AGAIN_SECONDS
            self.doubtful = False
            rests = not state.get("isStreaming") and not self.memory.busy
            queued = bool(state.get("pendingMessageCount"))
            self.memory.settled = self.memory.confirmed = rests and not queued
            self.stranded = self.stranded + 1 if rests and queued else 0
            if self.stranded == STRANDED_ANSWERS:
                self._free_stranded(at)

    def _free_stranded(self, at: datetime) -> None:
        """It rests on messages that it accepted; only a new process gets them out of its queue."""
        if self.process.stop_asked_at is not None:
            return
        if self.memory.stop_reason == "aborted":
            delivery.withdraw_stranded(self.lieutenant, at)
        reason = "its agent rests on messages that it accepted; started again"
        if self.shift(Status.STARTING, reason, {Status.IDLE, Status.WORKING}):
            self.process.stop_asked_at = at
            self.process.save(update_fields=["stop_asked_at"])

    def _ready(self, state: Event, at: datetime) -> None:
        self.process.ready_at = at
        self.process.save(update_fields=["ready_at"])
        model = state.get("model")
        if isinstance(model, dict):
            if "unknown" in (model.get("id"), model.get("provider")):
                ending.give_up(self, NO_MODEL, for_good=True)
                return
            model_choice.heard_model(self, model, at)
            self.outgoing.append(rpc.simple("get_available_models", model_choice.ASK))
        for note in self.memory.notes:
            self.notice(at, note, is_error=note != session_files.BEGAN_ANEW)
        self.memory.notes = []
        waiting = Message.objects.undecided().filter(lieutenant=self.lieutenant).exists()
        to = Status.WORKING if waiting else Status.IDLE
        self.shift(to, "the agent is ready", {Status.STARTING})

    # -- coming to rest -------------------------------------------------------------------

    def may_rest(self, clock: float) -> bool:
        """Whether it is time to look if the agent has come to rest."""
        if self.resting or clock - self.looked_at < REST_LOOK_SECONDS:
            return False
        return self._is_quiet()

    def _is_quiet(self) -> bool:
        gone = self.ended or self.process.ready_at is None
        return not (gone or self.memory.busy or self.memory.inflight)

    def rest_if_settled(self, clock: float) -> None:
        """Become idle once the agent has nothing left and nothing is on its way to it."""
        memory = self.memory
        self.looked_at = clock
        if not self._is_quiet():
            return
        if not memory.settled:
            self._ask_whether_settled(clock)
            return
        pending = Message.objects.pending().filter(lieutenant=self.lieutenant)
        states = set(pending.order_by().values_list("state", flat=True).distinct())
        if states - {MessageState.ACCEPTED}:
            return
        if states and not memory.confirmed:
            # What it accepted and has not begun may wait in its queue.
            memory.settled, self.doubtful = False, True
            return
        now = timezone.now()
        if self.answer:
            self.close_answer(now, memory.outcome(), memory.failure)
        if states:
            commands.finish(self, now)
            delivery.all_done(self.lieutenant, now)
        self.shift(Status.IDLE, memory.rest_reason(), {Status.WORKING})
        self.resting = True

    def _ask_whether_settled(self, clock: float) -> None:
        """The answer comes after all that the agent has to say before it."""
        memory = self.memory
        will_tell = memory.settles and memory.ran and not self.doubtful
        if will_tell and clock - self.heard_at < memory.patience:
            return
        if self.asked_at is None:
            if clock < self.ask_again_at:
                return
            self.asked_at = clock
            self.memory.barrier += 1
            self.outgoing.append(rpc.simple("get_state", f"{BARRIER}{self.memory.barrier}"))
        elif clock - self.asked_at > BARRIER_SECONDS:
            # An agent that does not know the question has said all it has to say.
            self.asked_at = None
            self.memory.settled = self.memory.confirmed = True

    def shift(self, to: Status, reason: str, when: set[Status], **fields: Any) -> bool:
        """Move the lieutenant if its row is in one of `when`; somebody else may be quicker."""
        # Each run asks twice, mostly in vain; a QuerySet takes many times as long as its query.
        with connection.cursor() as cursor:
            cursor.execute(_STATUS, [self.lieutenant.pk])
            found = cursor.fetchone()
        if found is None or found[0] not in when:
            return False
        row = Lieutenant.objects.only("name", "status").get(pk=self.lieutenant.pk)
        if row.status not in when:
            return False
        try:
            row.move(to, reason=reason, **fields)
        except (LostRace, IllegalMove) as error:
            logger.info("%s", error)
            return False
        return True

    def waiting_for(self) -> str:
        """What the lieutenant is waiting for, in words for people."""
        memory = self.memory
        if self.ended:
            return ""
        if self.process.ready_at is None:
            return "the agent's start"
        if self.results:
            return "tool " + tool_limits.named(self.results.values())
        if memory.compacting:
            return "the context to be shortened"
        if memory.retrying:
            return "the next try"
        if memory.inflight:
            return "the agent's verdict on a message"
        if memory.rewinding:
            return "the agent to go back to before a message"
        return "the model" if memory.running else ""


def _is_own_word(record: list[Any]) -> bool:
    """Whether this only says that a command of the follower's own went out: no sign of life."""
    return record[0] == "s" and str(record[2]).startswith("~")


_HANDLERS: dict[str, Callable[[Session, Event, datetime], None]] = {
    "agent_start": Session._agent_start,
    "agent_end": Session._agent_end,
    "agent_settled": Session._agent_settled,
    "turn_end": Session._turn_end,
    "message_end": Session._message_end,
    "tool_execution_start": Session.tool_start,
    "tool_execution_update": Session.tool_update,
    "tool_execution_end": Session.tool_end,
    "auto_retry_start": Session._retry_start,
    "auto_retry_end": Session._retry_end,
    "compaction_start": Session._compaction_start,
    "compaction_end": Session._compaction_end,
    "extension_error": Session._extension_error,
    "extension_ui_request": Session._ui_request,
    "response": Session._response,
}
