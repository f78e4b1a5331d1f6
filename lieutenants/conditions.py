"""Conditions that an agent can wait for: idle lieutenants, live VMs, outcomes of what it began."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

from bootloader.models import Provisioning
from bootloader.states import State
from lieutenants import awaited_events
from lieutenants.awaited_events import EventWait
from lieutenants.messages import outcomes
from lieutenants.models import Lieutenant, Message, Question
from lieutenants.states import Status
from reef_site.common import clock
from reef_site.common.models import CallState, OutsideCall
from registry.liveness import Liveness
from registry.models import VM, Watch
from registry.models import Status as VMStatus

Json = dict[str, Any]
IN_MOTION = frozenset({Status.STARTING, Status.WORKING})
UNFINISHED = frozenset({State.QUEUED, State.RUNNING, State.CANCELLING})


class Finding(NamedTuple):
    """The present state of one subject of a wait; `is_met` if nothing is waited for any more."""

    kind: str
    name: str
    state: str
    is_met: bool
    error: str = ""
    # The event of the log that ended the wait.
    event: Json | None = None

    def __str__(self) -> str:
        return f"{self.name} is {self.state}" + (f" ({self.error})" if self.error else "")

    def as_json(self) -> Json:
        facts = {"kind": self.kind, "name": self.name, "state": self.state, "met": self.is_met}
        more = {"error": self.error, "event": self.event}
        return {**facts, **{name: value for name, value in more.items() if value}}


@dataclass(frozen=True)
class Conditions:
    """A wait until any or all of some subjects are at rest. The subjects are ids."""

    seconds: float
    any: bool = False
    lieutenants: Sequence[str] = ()
    vms: Sequence[str] = ()
    provisionings: Sequence[str] = ()
    messages: Sequence[str] = ()
    calls: Sequence[str] = ()
    questions: Sequence[str] = ()
    event: EventWait | None = None

    # Notifications end a wait for lieutenants at once. There may be many waits, each for an hour.
    poll_seconds: ClassVar[float] = 2.0

    # A wait of a response is for one of these instead; see `lieutenants.messages.waits`.
    @property
    def lieutenant(self) -> str:
        return ""

    @property
    def message(self) -> str:
        return ""

    @property
    def question(self) -> str:
        return ""

    @property
    def arguments(self) -> Json:
        """Return the arguments by which `reef_wait` tells the state without waiting."""
        facts = self._facts()
        until = "any" if facts.pop("any") else "all"
        return {**facts, **self.again, "seconds": 0, "until": until}

    @property
    def again(self) -> Json:
        """Return the arguments that change if the same wait goes on later."""
        return {"event": self.event.arguments()} if self.event else {}

    @property
    def subjects(self) -> Sequence[str]:
        """Return the ids of lieutenants and questions whose notifications may end the wait."""
        ids = Message.objects.filter(pk__in=self.messages).values_list("lieutenant_id", flat=True)
        return [*self.lieutenants, *(ids if self.messages else ()), *self.questions]

    def header(self) -> str:
        """Return the value of the header that makes the edge wait."""
        event = {"event": self.event.as_json()} if self.event else {}
        return json.dumps({**self._facts(), **event}, separators=(",", ":"))

    @classmethod
    def parse(cls, header: str) -> Self:
        facts = json.loads(header)
        event = facts.pop("event", None)
        return cls(**facts, event=awaited_events.of_json(event) if event else None)

    def _facts(self) -> Json:
        """Return all fields but the event."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "event"
        }

    def is_over(self) -> bool:
        """Return whether the wait is over. Needs a few queries for each kind of subject."""
        return self.are_met(list(self.findings()))

    def are_met(self, findings: Sequence[Finding]) -> bool:
        """Return whether these findings end the wait."""
        met = [each.is_met for each in findings]
        return any(met) if self.any else all(met)

    def state(self) -> Json:
        """Return text and details of the tool's result."""
        findings = list(self.findings())
        is_done = self.are_met(findings)
        text = f"{'Done' if is_done else 'Not yet'}: {'; '.join(map(str, findings))}."
        if not is_done:
            text += f" Call reef_wait {self._how_to_go_on()} to go on waiting."
        found = [each.as_json() for each in findings]
        again = {"again": self.again} if self.again and not is_done else {}
        return {"text": text, "details": {"done": is_done, "waits": found, **again}}

    def _how_to_go_on(self) -> str:
        given: Json = {**({"questions": self.questions} if self.questions else {}), **self.again}
        words = [f"{name} {json.dumps(value)}" for name, value in given.items()]
        return f"with {' and '.join(words)}" if words else "again"

    def findings(self) -> Iterator[Finding]:
        """Yield the present state of each subject."""
        yield from self._lieutenants()
        yield from self._vms()
        yield from self._provisionings()
        yield from self._messages()
        yield from self._calls()
        yield from self._questions()
        yield from self._event()

    def _lieutenants(self) -> Iterator[Finding]:
        rows = Lieutenant.objects.only("name", "status", "error", "restart_at")
        found = rows.in_bulk(list(self.lieutenants))
        for pk in self.lieutenants:
            row = found.get(pk)
            if row is None:
                yield Finding("lieutenant", pk, "gone", is_met=True)
                continue
            restarts = row.status == Status.ERROR and row.restart_at is not None
            at_rest = row.status not in IN_MOTION and not restarts
            # The text of an error may quote output, which not every caller may read.
            yield Finding("lieutenant", row.name, row.status, is_met=at_rest)

    def _vms(self) -> Iterator[Finding]:
        now = clock.now()
        found = VM.objects.in_bulk(list(self.vms))
        grace = Watch.grace(now) if found else False
        for vm_id in self.vms:
            row = found.get(vm_id)
            state = "not registered"
            if row is not None:
                is_running = row.status == VMStatus.RUNNING
                state = row.liveness(now, grace=grace).value if is_running else row.status
            yield Finding("vm", vm_id, state, is_met=state == Liveness.LIVE)

    def _provisionings(self) -> Iterator[Finding]:
        found = Provisioning.objects.without_texts().in_bulk(list(self.provisionings))
        for pk in self.provisionings:
            row = found.get(pk)
            state = row.state if row else "gone"
            name = f"{row.name} (provisioning {pk})" if row else pk
            yield Finding("provisioning", name, state, is_met=state not in UNFINISHED)

    def _messages(self) -> Iterator[Finding]:
        for each in outcomes.progress_of(self.messages) if self.messages else ():
            outcome = each.result.outcome.value
            yield Finding("message", f"message {each.message.pk}", outcome, is_met=each.is_over)

    def _questions(self) -> Iterator[Finding]:
        for row in Question.objects.filter(pk__in=self.questions) if self.questions else ():
            yield Finding("question", f"question {row.pk}", row.decision, not row.is_open)

    def _calls(self) -> Iterator[Finding]:
        found = OutsideCall.objects.in_bulk(list(self.calls))
        for pk in self.calls:
            row = found.get(pk)
            state = row.state if row else CallState.FAILED
            error = row.error if row else "there is no such call"
            is_met = row is None or row.is_over
            yield Finding("call", f"call {pk}", state, is_met, error)

    def _event(self) -> Iterator[Finding]:
        if self.event is None:
            return
        found = self.event.find()
        if found is None:
            yield Finding("event", str(self.event), "awaited", is_met=False)
            return
        name = f"event {found.facts['id']}"
        yield Finding("event", name, found.about, is_met=True, event=found.facts)
