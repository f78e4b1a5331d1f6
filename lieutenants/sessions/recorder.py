"""Turn effects into rows: the transcript's go into the pass's write batch, all others at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from django.utils import timezone

from lieutenants.agents.base import Dialect
from lieutenants.membership import vm_id_of
from lieutenants.models import Entry
from lieutenants.sessions import failure_series
from lieutenants.sessions.effects import Effect
from lieutenants.sessions.failure_series import FailureSeries
from lieutenants.sessions.floods import Floods
from lieutenants.sessions.writers import (
    lieutenant,
    messages,
    processes,
    questions,
    transcript,
)
from lieutenants.states import Outcome
from lieutenants.transcript.recorder import Transcript
from lieutenants.transcript.screening import State as HeldText
from versconfig.screening import sources

_WRITERS: dict[type, Callable[[Any, Any], None]] = {
    **transcript.WRITERS,
    **messages.WRITERS,
    **lieutenant.WRITERS,
    **processes.WRITERS,
    **questions.WRITERS,
}


@dataclass
class Bookmarks:
    """Part of `Process.state`: where another follower's recorder continues."""

    # Ids of the running answer, its message, and the entry of the running command.
    answer: int | None = None
    message: str | None = None
    command: int | None = None
    # Text held back by screening (see `TranscriptScreening.state`), and whether a notice said so.
    held: HeldText = field(default_factory=dict)
    covered: bool = False
    # Version ids of the stored secrets that the agent was started with.
    secret_versions: list[int] = field(default_factory=list)
    # Counts of omitted rows and floods in progress, see `Floods`.
    flood_buckets: dict[str, list[float | None]] = field(default_factory=dict)
    loud: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Bookmarks:
        """Build from `Process.state`; other keys are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})


@dataclass
class Recorder(Transcript):
    """The rows of one process: its transcript, its lieutenant, and its messages."""

    dialect: Dialect = field(kw_only=True)
    bookmarks: Bookmarks = field(kw_only=True)
    command: Entry | None = None
    series: FailureSeries = field(default_factory=FailureSeries)
    floods: Floods = field(init=False)

    def __post_init__(self) -> None:
        marks = self.bookmarks
        self.floods = Floods(marks.flood_buckets, marks.loud)
        self.message_id = marks.message

    def load(self, *, recheck_secrets: bool) -> None:
        """Read what another follower left open."""
        self.refresh_screening(recheck=recheck_secrets)
        self.screening.recover(self.process, self.bookmarks.held)
        self.load_open_entries(self.bookmarks.answer)
        if self.bookmarks.command:
            self.command = Entry.objects.filter(pk=self.bookmarks.command).first()

    def refresh_screening(self, *, recheck: bool = False) -> None:
        """Screen with the newest secrets; with `recheck` read all committed ones again."""
        node, versions = vm_id_of(self.lieutenant), self.bookmarks.secret_versions
        self.screening.use(sources.for_node(node, versions, is_agent=True, recheck=recheck))

    def perform(self, effect: Effect) -> None:
        """Make the changes of one effect."""
        _WRITERS[type(effect)](self, effect)

    def store(self) -> dict[str, Any]:
        """Save the failure series, and return the bookmarks. New rows must have their ids."""
        failure_series.save_series(self)
        marks = self.bookmarks
        marks.answer = self.answer.pk if self.answer else None
        marks.message = self.message_id
        marks.command = self.command.pk if self.command else None
        marks.held = self.screening.state()
        return {**vars(marks), "flood_buckets": dict(marks.flood_buckets), "loud": dict(marks.loud)}

    # -- what the transcript's own methods do not know ------------------------------------

    def notice(self, at: datetime, text: str, **columns: Any) -> None:
        """Add a notice entry."""
        self.add(Entry.Kind.NOTICE, at, text=text, **columns)

    def close_answer(self, at: datetime, outcome: Outcome, failure: str = "") -> None:
        """Close the running answer, and count it if it failed like the previous one."""
        answer = self.answer
        super().close_answer(at, outcome, failure)
        if answer:
            failure_series.count(self, outcome, failure, at, answer)

    def report_omitted(self, now: datetime, *, last: bool = False) -> None:
        """Report how many rows were omitted since the last report."""
        for text in self.floods.summaries(now, last=last):
            self.notice(now, text, is_error=True)

    def report_covered(self) -> None:
        """Tell readers, once per process, that secrets in the transcript are covered."""
        names = self.screening.take_names()
        if names and not self.bookmarks.covered:
            self.bookmarks.covered = True
            marks = ", ".join(f"[{name}]" for name in names)
            text = f"Secrets in the agent's output are covered, such as {marks}."
            self.notice(timezone.now(), text)
