"""Follow one process: its journal's records to rows, and commands for its agent.

The shell around `reducer.reduce`: it screens and decodes records, reads the facts that come with an
input, lets the recorder make the rows, and keeps the commands until they are sent.

Everything a session must remember across a restart of the worker is kept in `Process.state` and in
rows that are not final, written in the same transaction as the journal's offset. A follower that is
killed at any point continues from its last commit, and nothing is lost or applied twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import transaction
from django.utils import timezone

from lieutenants.agents import dialect_of
from lieutenants.agents.base import DIALOG_REPLY, Dialect, Outgoing
from lieutenants.agents.events import Event
from lieutenants.messages import delivery
from lieutenants.models import Lieutenant, Process, Question
from lieutenants.sessions import failure_series, inputs, keeper_notes, tool_limits
from lieutenants.sessions.effects import Send, Verb
from lieutenants.sessions.facts import read_facts
from lieutenants.sessions.inputs import Request
from lieutenants.sessions.recorder import Bookmarks, Recorder
from lieutenants.sessions.reducer import reduce
from lieutenants.sessions.rules import settling
from lieutenants.sessions.state import State
from lieutenants.sessions.write_batch import WriteBatch, check_still_ours, save_progress
from lieutenants.sessions.writers.transcript import EVENT_WRITERS
from lieutenants.states import A_MODEL, A_WRITING_MODEL
from lieutenants.supervision import journal
from lieutenants.transcript.recorder import parse_time

STATE_QUERY = settling.STATE_QUERY


@dataclass
class Session:
    """A live process, the state of its agent, and the commands that wait to be sent."""

    recorder: Recorder
    state: State
    # When it was opened, on the follower's clock, and whether the agent was ready by then.
    opened_at: float = 0.0
    was_ready: bool = False
    outgoing: list[Outgoing] = field(default_factory=list)
    # Since when its keeper has accepted no commands.
    unsent_since: float | None = None
    # The generation of a newer follower which its keeper has seen.
    overtaken_by: int | None = None
    # Values that the rows of process and lieutenant hold, see `write_batch.save_progress`.
    committed_offset: int = 0
    committed_rev: int = 0
    # Offset up to which the journal's disk space was released.
    released: int = 0

    def __post_init__(self) -> None:
        self.process: Process = self.recorder.process
        self.lieutenant: Lieutenant = self.recorder.lieutenant
        self.dialect: Dialect = self.recorder.dialect
        self.committed_offset, self.committed_rev = self.process.offset, self.lieutenant.rev

    @classmethod
    def open(cls, process: Process, clock: float = 0.0, *, recheck_secrets: bool = True) -> Self:
        """Continue a process from its rows, at this time of the follower's clock.

        By default it screens with all secrets that are committed now.
        """
        dialect = dialect_of(process.lieutenant)
        recorder = Recorder(
            process,
            process.lieutenant,
            dialect=dialect,
            bookmarks=Bookmarks.load(process.state),
        )
        recorder.load(recheck_secrets=recheck_secrets)
        is_ready = process.ready_at is not None
        state = State.load(
            process.state, features=dialect.features, is_ready=is_ready, last_record_at=clock
        )
        session = cls(recorder, state, opened_at=clock, was_ready=is_ready)
        # In the form in which it is compared after each pass.
        process.state = session.stored()
        return session

    # -- inputs ---------------------------------------------------------------------------

    def handle(self, given: Event | Request, at: datetime | None = None) -> None:
        """Apply an input: go to the next state, change rows, and collect commands."""
        at = at or timezone.now()
        if write := EVENT_WRITERS.get(type(given)):
            write(self.recorder, given, at)
            return
        facts = read_facts(self, given, at)
        self.state, effects = reduce(self.state, given, facts)
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect)
            else:
                self.recorder.perform(effect)

    def commit(self, *given: Request) -> None:
        """Apply inputs outside of a pass, in a transaction of their own."""
        batch = WriteBatch()
        self.use(batch)
        with transaction.atomic():
            check_still_ours([self.process])
            for each in given:
                self.handle(each)
            batch.write()
            self.store_state()
            save_progress([self])

    def _send(self, effect: Send) -> None:
        arguments = [effect.id, effect.entry] if effect.verb is Verb.FORK else [effect.id]
        command: Outgoing | None = getattr(self.dialect, effect.verb)(*arguments)
        if command is not None:
            self.outgoing.append(command)

    def reply_to_dialog(self, question: Question) -> None:
        """Send the decision of a question to the dialog from which it comes."""
        request, answer = question.request_id, question.answer
        if answer is None:
            self.outgoing.append(self.dialect.dismiss_dialog(request))
        else:
            self.outgoing.append(self.dialect.answer_dialog(request, question.kind, answer))

    def take_commands(self) -> list[Outgoing]:
        """Return the commands that wait to be sent, and forget them."""
        commands, self.outgoing = self.outgoing, []
        return commands

    def note_sent(self, is_taken: bool, began: float) -> None:
        """Note whether the keeper took commands; `began` is when sending them began.

        Called by the outbox's threads, one at a time for each session.
        """
        if is_taken:
            self.unsent_since = None
        elif self.unsent_since is None:
            self.unsent_since = began

    def note_overtaken(self, generation: int) -> None:
        """Note that the keeper has seen a follower of this generation, which is a newer one.

        Called by the outbox's threads.
        """
        self.overtaken_by = generation

    # -- rows that others change ----------------------------------------------------------

    def refresh_process(self, row: Process) -> None:
        """Take over from the row whether the process must end, and its newest generation."""
        self.process.stop_asked_at = row.stop_asked_at
        self.process.generation = row.generation

    def shift_times(self, jump: timedelta) -> None:
        """Shift the times of the lieutenant in memory after a change of the wall clock."""
        lieutenant = self.lieutenant
        lieutenant.last_activity_at += jump
        if lieutenant.failing_since is not None:
            lieutenant.failing_since += jump
        lieutenant.failures = failure_series.shifted(lieutenant.failures, jump)

    # -- one pass -------------------------------------------------------------------------

    def use(self, batch: WriteBatch) -> None:
        """Collect rows in this batch from now on."""
        self.recorder.batch = batch

    def apply(self, records: list[list[Any]], batch: WriteBatch, clock: float) -> None:
        """Apply new journal records. Runs inside the pass's transaction."""
        self.use(batch)
        now = timezone.now()
        is_alive = not all(map(keeper_notes.is_own_command, records))
        self.handle(inputs.RecordsRead(clock, is_alive), now)
        if not all(map(keeper_notes.is_no_activity, records)):
            self.lieutenant.last_activity_at = now
        recorder, kinds = self.recorder, journal.DELTA_KINDS
        for record in records:
            kind = record[0]
            if kind in kinds:
                # No state depends on streamed text, so it goes straight to the recorder.
                recorder.delta(kinds[kind], int(record[1]), str(record[2]))
            else:
                recorder.flush_texts()
                self._apply_record(record)
        recorder.flush_texts()
        recorder.report_covered()
        if recorder.bookmarks.flood_buckets and records:
            recorder.report_omitted(timezone.now())

    def _apply_record(self, record: list[Any]) -> None:
        kind, at = record[0], parse_time(record[1])
        screening = self.recorder.screening
        if kind == "e":
            event = None
            if isinstance(record[2], dict):
                event = self.dialect.decode(record[2], screening)
            if event is not None:
                self.handle(event, at)
        elif kind == "s":
            self._delivered(str(record[2]), at)
        elif (note := keeper_notes.decode(record, screening.cover)) is not None:
            self.handle(note, at)

    def _delivered(self, command: str, at: datetime) -> None:
        if command.startswith(DIALOG_REPLY):
            self.handle(inputs.DialogReplied(command.removeprefix(DIALOG_REPLY)), at)
        elif not command.startswith("~") and delivery.mark_delivered(command, at):
            self.handle(inputs.Delivered(command), at)
            self.recorder.next_rev()

    def store_state(self) -> None:
        """Copy the state to the columns that the pass saves. New rows must have their ids."""
        self.process.state = self.stored()
        calls = self.recorder.results.values()
        self.lieutenant.waiting_for = self.waiting_for()
        self.lieutenant.waiting_since = tool_limits.oldest_start(calls)
        self.lieutenant.waiting_until = self.state.waiting_until
        if not self.state.is_ended:
            floods = self.recorder.floods
            self.lieutenant.trouble = floods.trouble(self.lieutenant.trouble)

    def stored(self) -> dict[str, Any]:
        """Return the value of `Process.state`."""
        return {**self.state.stored(), **self.recorder.store()}

    # -- coming to rest -------------------------------------------------------------------

    def may_settle(self, clock: float) -> bool:
        """Return whether it is time to check if the agent has settled."""
        return settling.is_check_due(self.state, clock)

    def idle_if_settled(self, clock: float) -> None:
        """Become idle once the agent has nothing left to do and nothing is pending."""
        if self.state.is_quiet:
            self.handle(inputs.SettleCheck(clock))

    # -- the journal's space --------------------------------------------------------------

    def releasable_until(self, kept: int, step: int) -> int:
        """Return up to which offset the journal's space can be released; 0 if there is too little.

        The last `kept` bytes behind the committed offset stay, and text that is held back.
        """
        end = self.recorder.screening.needed_from(self.process.offset) - kept
        return 0 if self.state.is_ended or end - self.released < step else end

    def mark_released(self, end: int) -> None:
        """Remember up to which offset the journal's space was released."""
        self.released = end

    # -- for people -----------------------------------------------------------------------

    def waiting_for(self) -> str:
        """Return what the lieutenant is waiting for, as text for people."""
        calls = self.recorder.results
        tools = tool_limits.describe_calls(calls.values()) if calls else ""
        what = self.state.waiting_for(tools)
        return A_WRITING_MODEL if what == A_MODEL and self.recorder.blocks else what
