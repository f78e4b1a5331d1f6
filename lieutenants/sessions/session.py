"""Apply one process's journal records to rows, and produce commands for its agent.

Everything a session must remember across a restart of the worker is kept in `Process.state` and in
rows that are not final, written in the same transaction as the journal's offset. A follower that is
killed at any point continues from its last commit, and nothing is lost or applied twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from lieutenants.agents import dialect_of, events
from lieutenants.agents.base import Outgoing
from lieutenants.agents.payloads import parse_count
from lieutenants.agents.pi import (
    context_usage,
    model_choice,
    session_files,
    slash_commands,
)
from lieutenants.membership import vm_id_of
from lieutenants.messages import delivery, rewinding
from lieutenants.models import Entry, Lieutenant, Message, Process
from lieutenants.sessions import failure_series, floods, tool_limits
from lieutenants.sessions.failure_series import FailureSeries
from lieutenants.sessions.floods import Floods
from lieutenants.sessions.write_batch import WriteBatch
from lieutenants.states import MessageState, Outcome, Status
from lieutenants.supervision import exits, journal
from lieutenants.transcript.recorder import Transcript, parse_time, truncation_note
from lieutenants.transcript.screening import State
from reef_site.common.errors import IllegalMove, LostRace
from versconfig.screening import sources

logger = logging.getLogger(__name__)

_STATUS = f"SELECT status FROM {Lieutenant._meta.db_table} WHERE id = %s"  # noqa: S608 - a name
STATE_QUERY = "~state-"
STATE_QUERY_SECONDS = 3.0
SETTLE_CHECK_SECONDS = 0.2
STATE_QUERY_INTERVAL = 0.3  # between two state queries
# An idle agent that reports queued messages this often in a row has forgotten them.
MAX_STUCK_REPLIES = 5
# An agent that reports when it has settled is queried only after this long without a report.
SETTLED_TIMEOUT = 20.0
# An agent that accepted a message begins its run at once; a command may begin none.
RUN_START_TIMEOUT = 1.0

NO_MODEL_TEXT = (
    "The agent has no model to work with. Give it one: set ANTHROPIC_API_KEY (or another "
    "provider's key) where reef is started, or put a provider into models.json in the agent's "
    "folder; `up --demo` brings a small local one."
)


@dataclass
class Memory:
    """State of the agent at the journal's offset, stored as `Process.state`."""

    running: bool = False
    retrying: bool = False
    compacting: int = 0
    # The agent reported that it has nothing left to do, and nothing has begun since.
    settled: bool = True
    # A state query confirmed it, with an empty queue.
    confirmed: bool = False
    # The last run has ended, as far as the agent reported.
    ran: bool = False
    stop_reason: str = ""
    failure: str = ""
    # Id of the message that was delivered and not yet accepted or rejected.
    inflight: str = ""
    # The agent had nothing to do when that message was delivered.
    was_settled: bool = False
    answer: int | None = None
    message: str | None = None
    # The entry of the running slash command, and how long to wait for a run to begin.
    command: int | None = None
    patience: float = SETTLED_TIMEOUT
    # The pending command of `rewinding`, and the entry to go back to.
    rewinding: str = ""
    rewind_to: int = 0
    # Notices to show in the transcript when the agent is ready.
    notes: list[str] = field(default_factory=list)
    barrier: int = 0
    # Text held back by screening (see `TranscriptScreening.state`), and whether a notice said so.
    held: State = field(default_factory=dict)
    covered: bool = False
    # Version ids of the stored secrets that the agent was started with.
    secret_versions: list[int] = field(default_factory=list)
    # Features of this version of the agent, see `agents.pi.program.Agent`.
    clears_queue: bool = True
    settles: bool = False
    # The context has changed since its usage was stored; how often that was asked.
    context_changed: bool = False
    stats_asked: int = 0
    # Counts of omitted rows and floods in progress, see `Floods`.
    flood_buckets: dict[str, list[float | None]] = field(default_factory=dict)
    loud: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, state: dict[str, Any]) -> Memory:
        """Build from `Process.state`; keys of older versions are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})

    @property
    def busy(self) -> bool:
        """Return whether the agent is working or will continue by itself."""
        return self.running or self.retrying or self.compacting > 0

    def idle_reason(self) -> str:
        """Return the reason for a transition to idle."""
        if self.stop_reason == events.ERROR:
            return f"its answer failed: {self.failure}"
        if self.stop_reason == events.ABORTED:
            return "its answer was aborted"
        return "the agent has nothing left to do"

    def outcome(self) -> Outcome:
        """Return how the run ended, from the agent's stop reason."""
        by_reason = {events.ABORTED: Outcome.ABORTED, events.ERROR: Outcome.ERROR}
        return by_reason.get(self.stop_reason, Outcome.COMPLETED)


@dataclass
class Session(Transcript):
    """The transcript of a live process, and the state of its agent."""

    memory: Memory = field(default_factory=Memory)
    outgoing: list[Outgoing] = field(default_factory=list)
    ended: bool = False
    # Known to be idle with nothing pending: skipped until something arrives.
    quiescent: bool = False
    # Times on the follower's clock: when the last record came, when the state was queried.
    last_record_at: float = 0.0
    # When the session was opened, and since when its keeper has accepted no commands.
    opened_at: float = 0.0
    # The agent was ready before this follower opened the session.
    was_ready: bool = False
    unsent_since: float | None = None
    state_queried_at: float | None = None
    settle_checked_at: float = 0.0
    next_query_at: float = 0.0
    unconfirmed: bool = False  # it reported being done, with accepted messages not begun
    stuck_replies: int = 0
    rewind_at: float | None = None
    command: Entry | None = None
    asked_stats: bool = False  # the reply about the context's usage has not come yet
    series: FailureSeries = field(default_factory=FailureSeries)
    # Values that the rows of process and lieutenant hold, see `write_batch.save_progress`.
    committed_offset: int = 0
    committed_rev: int = 0
    # Offset up to which the journal's disk space was released.
    shortened: int = 0

    def __post_init__(self) -> None:
        self.dialect = dialect_of(self.lieutenant)
        self.committed_offset, self.committed_rev = self.process.offset, self.lieutenant.rev

    @property
    def floods(self) -> Floods:
        """Return the flood counters of this process; changes are kept in the memory."""
        return Floods(self.memory.flood_buckets, self.memory.loud)

    @classmethod
    def open(cls, process: Process, *, recheck_secrets: bool = True) -> Session:
        """Continue a process from its rows; by default with all secrets that are committed now."""
        session = cls(process, process.lieutenant, memory=Memory.load(process.state))
        session.refresh_screening(recheck=recheck_secrets)
        session.screening.recover(process, session.memory.held)
        session.message_id = session.memory.message
        session.load_open_entries(session.memory.answer)
        if session.memory.command:
            session.command = Entry.objects.filter(pk=session.memory.command).first()
        return session

    def refresh_screening(self, *, recheck: bool = False) -> None:
        """Screen with the newest secrets; with `recheck` read all committed ones again."""
        self.screening.use(
            sources.for_node(
                vm_id_of(self.lieutenant),
                self.memory.secret_versions,
                is_agent=True,
                recheck=recheck,
            )
        )

    # -- one pass -------------------------------------------------------------------------

    def apply(self, records: list[list[Any]], batch: WriteBatch, clock: float) -> None:
        """Apply new journal records. Runs inside the pass's transaction."""
        self.batch = batch
        self.quiescent = False
        if not all(map(_is_own_command, records)):
            self.last_record_at = clock
        if not all(_is_own_command(each) or _is_own_reply(each) for each in records):
            self.lieutenant.last_activity_at = timezone.now()
        for record in records:
            kind = record[0]
            if kind in journal.DELTA_KINDS:
                self.delta(journal.DELTA_KINDS[kind], int(record[1]), str(record[2]))
            else:
                self.flush_texts()
                self._apply_record(record)
        self.flush_texts()
        self._report_covered()
        if self.memory.flood_buckets and records:
            self.report_omitted(timezone.now())

    def store_state(self) -> None:
        """Copy the state to the columns that the pass saves. New rows must have their ids."""
        self.memory.answer = self.answer.pk if self.answer else None
        self.memory.message = self.message_id
        self.memory.command = self.command.pk if self.command else None
        failure_series.save_series(self)
        self.memory.held = self.screening.state()
        self.process.state = dict(vars(self.memory))
        self.lieutenant.waiting_for = self.waiting_for()
        self.lieutenant.waiting_since = tool_limits.oldest_start(self.results.values())
        if not self.ended:
            self.lieutenant.trouble = self.floods.trouble(self.lieutenant.trouble)

    def _apply_record(self, record: list[Any]) -> None:
        kind, at = record[0], parse_time(record[1])
        cover = self.screening.cover
        if kind == "e" and isinstance(record[2], dict):
            event = self.dialect.decode(record[2], self.screening)
            if event is not None:
                _HANDLERS[type(event)](self, event, at)
        elif kind == "s":
            self._delivered(str(record[2]), at)
        elif kind == "x":
            exits.end(self, cover(record[2]) if isinstance(record[2], dict) else {}, at)
        else:
            self._apply_note(record, at)

    def _apply_note(self, record: list[Any], at: datetime) -> None:
        """Handle the keeper's notes about lines that it did not record, or not completely."""
        kind, cover = record[0], self.screening.cover
        if kind == "g":
            text = f"The agent printed an invalid line: {cover(str(record[2]))}"
            self.add_limited("garbage", at, text, is_error=True)
        elif kind == "l":
            text = f"A line of {record[3]} bytes was left out."
            self.add_limited("line", at, text, is_error=True)
        elif kind == "m":
            text = self.floods.count_omitted(
                cover(str(record[2])), parse_count(record[3]), parse_count(record[4])
            )
            self.notice(at, text, is_error=True)
        elif kind == "gap":
            lost = floods.megabytes(parse_count(record[2]))
            self.notice(at, f"{lost} of the agent's output are lost.", is_error=True)
        elif kind == "q":
            self.floods.mark_over(cover(str(record[2])))
        elif kind == "w":
            model_choice.note_warning(self, cover(str(record[2])), at)

    def add_limited(self, cause: str, at: datetime, text: str, **fields: Any) -> None:
        """Add a row of a kind that an agent may cause any number of, up to a limit per minute."""
        if self.floods.admits(cause, at):
            fields = {"kind": Entry.Kind.NOTICE, **fields}
            self.add(at=at, text=floods.truncate(text), **fields)

    def report_omitted(self, now: datetime, *, last: bool = False) -> None:
        """Report how many rows were omitted since the last report."""
        for text in self.floods.summaries(now, last=last):
            self.notice(now, text, is_error=True)

    def _report_covered(self) -> None:
        """Tell readers, once per process, that secrets in the transcript are covered."""
        names = self.screening.take_names()
        if names and not self.memory.covered:
            self.memory.covered = True
            marks = ", ".join(f"[{name}]" for name in names)
            text = f"Secrets in the agent's output are covered, such as {marks}."
            self.notice(timezone.now(), text)

    def notice(self, at: datetime, text: str, **fields: Any) -> None:
        """Add a notice entry to the transcript."""
        self.add(Entry.Kind.NOTICE, at, text=text, **fields)

    def close_answer(self, at: datetime, outcome: Outcome, failure: str = "") -> None:
        """Close the running answer, and count it if it failed like the previous one."""
        answer = self.answer
        super().close_answer(at, outcome, failure)
        if answer:
            failure_series.count(self, outcome, failure, at, answer)

    # -- runs and messages of the agent ---------------------------------------------------

    def _run_started(self, _event: events.RunStarted, at: datetime) -> None:
        memory = self.memory
        goes_on = memory.retrying or memory.compacting or not memory.ran
        if self.answer and not goes_on:
            self.close_answer(at, memory.outcome(), memory.failure)
        if self.answer is None:
            self.open_answer(at)
        memory.running, memory.settled, memory.ran = True, False, False
        memory.context_changed = True
        memory.retrying, memory.patience = False, SETTLED_TIMEOUT
        memory.stop_reason, memory.failure = "", ""
        self.move_if(Status.WORKING, "the agent began to work", {Status.IDLE})

    def _run_ended(self, event: events.RunEnded, at: datetime) -> None:
        memory = self.memory
        memory.running, memory.ran = False, True
        memory.stop_reason = event.stop_reason or memory.stop_reason
        memory.failure = event.failure or memory.failure
        memory.retrying = event.will_retry
        self.close_blocks()
        self.close_calls()
        if memory.inflight and Message.objects.filter(
            pk=memory.inflight, taken_up_at__isnull=False
        ):
            evidence = {"note": "the agent worked through it without a response of its own"}
            self._store_decision(memory.inflight, True, evidence, at)

    def _turn_ended(self, _event: events.TurnEnded, _at: datetime) -> None:
        self.close_calls()

    def _settled(self, event: events.Settled, _at: datetime) -> None:
        self.close_calls()
        if event.aborted:
            self.memory.stop_reason, self.memory.failure = events.ABORTED, ""
        self.memory.settled, self.memory.confirmed = not self.memory.busy, False

    def _text_delta(self, event: events.TextDelta, _at: datetime) -> None:
        self.delta(event.kind, event.block, event.text)

    def _user_message(self, event: events.UserMessage, at: datetime) -> None:
        text, images = event.text, event.images
        message = delivery.mark_begun(self.lieutenant, text, at, cover=self.screening.cover)
        if message:
            self.message_id = message.pk
            if self.answer and self.answer.message_id is None:
                self.answer.message_id = message.pk
                self.batch.change(self.answer)
        if event.bytes_left_out:
            text = truncation_note("Message", event.bytes_left_out, images, text)
        data: dict[str, Any] = {"images": images} if images else {}
        data |= slash_commands.entry_data(self, message, text)
        entry = self.add(Entry.Kind.USER, at, text=text, message=message, data=data)
        self.first_user = self.first_user or entry

    def _assistant_message(self, event: events.AssistantMessage, at: datetime) -> None:
        self.record_assistant_message(event, at)
        memory = self.memory
        memory.stop_reason, memory.failure = event.stop_reason, ""
        if memory.stop_reason == events.ERROR and event.is_abort:
            memory.stop_reason = events.ABORTED
        if memory.stop_reason == events.ERROR:
            failure = event.failure or "The model failed without an error message."
            memory.failure = self.lieutenant.trouble = failure
            if not failure_series.is_known(self.lieutenant, failure):
                self.add(Entry.Kind.ERROR, at, text=failure, is_error=True)
        elif memory.stop_reason == events.ABORTED:
            self.notice(at, "The answer was aborted.")
        else:
            self.lieutenant.trouble = ""

    # -- trouble with the model -----------------------------------------------------------

    def _retry_started(self, event: events.RetryStarted, at: datetime) -> None:
        self.memory.retrying = True
        self.drop_failed_texts()
        self.lieutenant.trouble = (
            f"{event.failure or 'The model failed'} · try {event.attempt} of "
            f"{event.max_attempts} in {event.delay_ms / 1000:g} s"
        )
        self.add_limited("retry", at, self.lieutenant.trouble, data={"retry": event.details})

    def _retry_ended(self, event: events.RetryEnded, at: datetime) -> None:
        self.memory.retrying = False
        if event.success:
            self.lieutenant.trouble = ""
            return
        failure = event.failure or "The model failed"
        self.lieutenant.trouble = self.memory.failure = failure
        text = f"No more tries: {failure}"
        self.add_limited("retry", at, text, data={"retry": event.details}, is_error=True)

    def _compaction_started(self, event: events.CompactionStarted, at: datetime) -> None:
        self.memory.compacting += 1
        self.memory.settled = False
        reasons = {"requested": "it was asked to"}
        why = reasons.get(event.reason, f"it is {event.reason}")
        text = f"The agent shortens its context: {why}."
        self.add_limited("compaction", at, text, data={"compaction": event.details})

    def _compaction_ended(self, event: events.CompactionEnded, at: datetime) -> None:
        self.memory.compacting = max(0, self.memory.compacting - 1)
        self.memory.context_changed = True
        self.memory.retrying = event.will_retry
        if self.memory.retrying:
            self.drop_failed_texts()
        if event.success:
            provider, _, model = self.lieutenant.model_in_use.partition("/")
            self.count_usage(
                event.usage, at, provider=provider, model=model, stop_reason="compaction"
            )
            text = f"Context shortened from {event.tokens_before} tokens."
            self.lieutenant.trouble = ""
        else:
            text = event.failure or "The context was not shortened."
            self.lieutenant.trouble = "" if event.aborted else text
        data = {"compaction": event.details}
        self.add_limited("compaction", at, text, data=data, is_error=not event.success)

    # -- extensions -----------------------------------------------------------------------

    def _extension_error(self, event: events.ExtensionError, at: datetime) -> None:
        slash_commands.add_entry(self, at)
        text = f"Extension {event.extension}: {event.text}"
        self.add_limited("extension_error", at, text, kind=Entry.Kind.ERROR, is_error=True)

    def _dialog(self, event: events.Dialog, at: datetime) -> None:
        """Dismiss each dialog at once, since nobody can answer it."""
        slash_commands.add_entry(self, at)
        if event.request_id is not None:
            self.outgoing.append(self.dialect.dismiss_dialog(event.request_id))
            text = f"The dialog “{event.title}” was dismissed, since nobody can answer it."
            self.add_limited("dialog", at, text, data={"dialog": event.kind})

    def _agent_notice(self, event: events.Notice, at: datetime) -> None:
        slash_commands.add_entry(self, at)
        self.add_limited("notify", at, event.text)

    # -- replies --------------------------------------------------------------------------

    def _delivered(self, command: str, at: datetime) -> None:
        if not command.startswith("~") and delivery.mark_delivered(command, at):
            self.memory.was_settled = self.memory.settled
            self.memory.inflight, self.memory.settled = command, False
            self.next_rev()

    def _reply(self, reply: events.Reply, at: datetime) -> None:
        command, content = reply.request_id, reply.content
        if command and command == self.memory.rewinding:
            rewinding.on_reply(self, reply, at)
        elif isinstance(content, events.AgentState):
            self._state_reply(command, content, at)
        elif command == model_choice.LIST_REQUEST_ID:
            model_choice.store_model_list(self, reply, at)
        elif command.startswith(context_usage.REQUEST):
            context_usage.store(self, reply)
        elif isinstance(content, events.QueueReturned):
            self._queue_returned(content, at, success=reply.success)
        elif command and not command.startswith("~"):
            self._receipt(reply, at)

    def _receipt(self, reply: events.Reply, at: datetime) -> None:
        message, content = reply.request_id, reply.content
        disposition = content.disposition if isinstance(content, events.MessageReceipt) else ""
        told = {"disposition": disposition} if disposition else {}
        self._store_decision(message, reply.success, {**reply.evidence, **told}, at)
        if disposition == events.HANDLED:
            self.memory.patience = 0.0
            self.memory.settled = self.memory.was_settled and not self.memory.busy
            slash_commands.mark_handled(self, message, at)
        if not reply.success:
            text = f"The agent refused a message: {reply.error}"
            self.add_limited("refusal", at, text, kind=Entry.Kind.ERROR, is_error=True)

    def _store_decision(
        self, message: str, accepted: bool, evidence: Mapping[str, Any], at: datetime
    ) -> None:
        delivery.decide(message, accepted=accepted, evidence=evidence, at=at)
        if self.memory.inflight == message:
            self.memory.inflight = ""
        self.memory.settled, self.memory.patience = False, RUN_START_TIMEOUT
        self.next_rev()

    def _queue_returned(self, queue: events.QueueReturned, at: datetime, *, success: bool) -> None:
        if not success:
            self.memory.clears_queue = False
        cover = self.screening.cover
        if count := delivery.withdraw_accepted(self.lieutenant, queue.texts, at, cover=cover):
            self.notice(at, f"The abort withdrew {count} queued message{'s' if count > 1 else ''}.")

    def _state_reply(self, command: str, state: events.AgentState, at: datetime) -> None:
        if self.process.ready_at is None:
            self._ready(state, at)
        elif command == f"{STATE_QUERY}{self.memory.barrier}":
            self.state_queried_at = None
            self.next_query_at = self.last_record_at + STATE_QUERY_INTERVAL
            self.unconfirmed = False
            rests = not state.is_working and not self.memory.busy
            self.memory.settled = self.memory.confirmed = rests and not state.has_queue
            self.stuck_replies = self.stuck_replies + 1 if rests and state.has_queue else 0
            if self.stuck_replies == MAX_STUCK_REPLIES:
                self._restart_stuck(at)

    def _restart_stuck(self, at: datetime) -> None:
        """Restart an idle agent that does not begin accepted messages: that empties its queue."""
        if self.process.stop_asked_at is not None:
            return
        if self.memory.stop_reason == events.ABORTED:
            delivery.withdraw_unstarted(self.lieutenant, at)
        reason = "its agent did not begin messages that it accepted; started again"
        if self.move_if(Status.STARTING, reason, {Status.IDLE, Status.WORKING}):
            self.process.stop_asked_at = at
            self.process.save(update_fields=["stop_asked_at"])

    def _ready(self, state: events.AgentState, at: datetime) -> None:
        self.process.ready_at = at
        self.process.save(update_fields=["ready_at"])
        model = state.model
        if model is not None:
            if not model.is_known:
                exits.fail_and_stop(self, NO_MODEL_TEXT, permanently=True)
                return
            model_choice.store_model_in_use(self, model, at)
            if query := self.dialect.list_models(model_choice.LIST_REQUEST_ID):
                self.outgoing.append(query)
        for note in self.memory.notes:
            self.notice(at, note, is_error=note != session_files.NEW_SESSION_NOTE)
        self.memory.notes = []
        waiting = Message.objects.undecided().filter(lieutenant=self.lieutenant).exists()
        to = Status.WORKING if waiting else Status.IDLE
        self.move_if(to, "the agent is ready", {Status.STARTING})

    # -- coming to rest -------------------------------------------------------------------

    def may_settle(self, clock: float) -> bool:
        """Return whether it is time to check if the agent has settled."""
        if self.quiescent or clock - self.settle_checked_at < SETTLE_CHECK_SECONDS:
            return False
        return self._is_quiet()

    def _is_quiet(self) -> bool:
        gone = self.ended or self.process.ready_at is None
        return not (gone or self.memory.busy or self.memory.inflight)

    def idle_if_settled(self, clock: float) -> None:
        """Become idle once the agent has nothing left to do and nothing is pending."""
        memory = self.memory
        self.settle_checked_at = clock
        if not self._is_quiet():
            return
        if not memory.settled:
            self._query_state(clock)
            return
        pending = Message.objects.pending().filter(lieutenant=self.lieutenant)
        states = set(pending.order_by().values_list("state", flat=True).distinct())
        if states - {MessageState.ACCEPTED}:
            return
        if states and not memory.confirmed:
            # Accepted messages that have not begun may still be in the agent's queue.
            memory.settled, self.unconfirmed = False, True
            return
        now = timezone.now()
        if self.answer:
            self.close_answer(now, memory.outcome(), memory.failure)
        if states:
            slash_commands.finish_pending(self, now)
            delivery.mark_all_begun(self.lieutenant, now)
        self.move_if(Status.IDLE, memory.idle_reason(), {Status.WORKING})
        context_usage.ask(self)
        self.quiescent = True

    def _query_state(self, clock: float) -> None:
        """Query the agent's state; its reply comes after all its earlier output."""
        memory = self.memory
        will_tell = memory.settles and memory.ran and not self.unconfirmed
        if will_tell and clock - self.last_record_at < memory.patience:
            return
        if self.state_queried_at is None:
            if clock < self.next_query_at:
                return
            self.state_queried_at = clock
            self.memory.barrier += 1
            self.outgoing.append(self.dialect.query_state(f"{STATE_QUERY}{self.memory.barrier}"))
        elif clock - self.state_queried_at > STATE_QUERY_SECONDS:
            # An agent that does not know the query has sent all its output by now.
            self.state_queried_at = None
            self.memory.settled = self.memory.confirmed = True

    def move_if(self, to: Status, reason: str, when: set[Status], **fields: Any) -> bool:
        """Move the lieutenant if its status is one of `when`; return whether it was moved."""
        # Each run checks twice, mostly in vain, and a QuerySet takes many times as long as its
        # query.
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
        """Return what the lieutenant is waiting for, as text for people."""
        memory = self.memory
        if self.ended:
            return ""
        if self.process.ready_at is None:
            return "the agent's start"
        if self.results:
            return "tool " + tool_limits.describe_calls(self.results.values())
        if memory.compacting:
            return "the context to be shortened"
        if memory.retrying:
            return "the next try"
        if memory.inflight:
            return "the agent to accept a message"
        if memory.rewinding:
            return "the agent to go back to before a message"
        return "the model" if memory.running else ""


def _is_own_command(record: list[Any]) -> bool:
    """Return whether the record only confirms a command of the follower: no agent activity."""
    return record[0] == "s" and str(record[2]).startswith("~")


def _is_own_reply(record: list[Any]) -> bool:
    """Return whether the record is the reply to a query of the follower: no agent activity."""
    payload = record[2] if record[0] == "e" else None
    return isinstance(payload, dict) and str(payload.get("id") or "").startswith("~")


_HANDLERS: dict[type, Callable[[Session, Any, datetime], None]] = {
    events.RunStarted: Session._run_started,
    events.RunEnded: Session._run_ended,
    events.Settled: Session._settled,
    events.TurnEnded: Session._turn_ended,
    events.TextDelta: Session._text_delta,
    events.UserMessage: Session._user_message,
    events.AssistantMessage: Session._assistant_message,
    events.ToolStarted: Session.tool_start,
    events.ToolUpdated: Session.tool_update,
    events.ToolEnded: Session.tool_end,
    events.RetryStarted: Session._retry_started,
    events.RetryEnded: Session._retry_ended,
    events.CompactionStarted: Session._compaction_started,
    events.CompactionEnded: Session._compaction_ended,
    events.ExtensionError: Session._extension_error,
    events.Dialog: Session._dialog,
    events.Notice: Session._agent_notice,
    events.Reply: Session._reply,
}
