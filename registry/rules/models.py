"""Lifecycle rules, and one firing for each time a rule applied."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Self

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q

from reef_site.common import clock, webhook_secret
from reef_site.common.leases import LeaseQuerySet
from reef_site.common.webhooks import url_problem
from registry.models import Role
from versconfig.screening import sources
from vmtree.models import Category, CompactEncoder

LEASE = timedelta(seconds=120)
MIN_GRACE_MINUTES = 5
MAX_WILDCARDS = 5


class Event(models.TextChoices):
    """Events that a rule can react to."""

    VM_LATE = "vm-late", "VM is late"
    VM_SILENT = "vm-silent", "VM is silent"
    VM_REGISTERED = "vm-registered", "VM was registered"
    LIEUTENANT_ERROR = "lieutenant-error", "lieutenant is in error"
    LIEUTENANT_FAILING = "lieutenant-failing", "each request of a lieutenant fails"
    LIEUTENANT_IDLE = "lieutenant-idle", "lieutenant is idle"
    LIEUTENANT_FINISHED = "lieutenant-finished", "lieutenant finished its work"
    # Findings of the bootloader's reconcile loop.
    FINDING_UNKNOWN = "finding-unknown", "a provider has a VM that the tree does not have"
    FINDING_VANISHED = "finding-vanished", "a VM vanished at its provider"
    FINDING_USELESS = "finding-useless", "a VM costs and serves nothing"


class Action(models.TextChoices):
    """Actions of rules."""

    NOTE = "note", "write it down"
    WEBHOOK = "webhook", "call a webhook"
    SNAPSHOT = "snapshot", "take a snapshot of the tree"
    MARK_STOPPED = "mark-stopped", "mark the VM stopped"
    PAUSE = "pause", "pause it"
    RESUME = "resume", "resume it"
    RESTART = "restart", "restart the lieutenant"
    DESTROY = "destroy", "destroy it"
    DO_PROPOSED = "do-proposed", "do what the finding proposes"


LIEUTENANT_EVENTS = (
    *(Event.LIEUTENANT_ERROR, Event.LIEUTENANT_FAILING),
    *(Event.LIEUTENANT_IDLE, Event.LIEUTENANT_FINISHED),
)
FINDING_EVENTS = (Event.FINDING_UNKNOWN, Event.FINDING_VANISHED, Event.FINDING_USELESS)
FINDING_ACTIONS = (Action.NOTE, Action.WEBHOOK, Action.SNAPSHOT, Action.DO_PROPOSED)
# Only these events can mean that the subject is dead.
TERMINAL_EVENTS = (Event.VM_SILENT, Event.LIEUTENANT_ERROR)


class RuleQuerySet(models.QuerySet["Rule"]):
    def enabled(self) -> Self:
        """Filter enabled rules."""
        return self.filter(enabled=True)


class Rule(models.Model):
    """Rule: if `event` holds for `minutes` on a matching subject, run `action`."""

    name = models.CharField(max_length=100, unique=True)
    about = models.TextField(blank=True, help_text="What it is for.")
    enabled = models.BooleanField(default=False)
    event = models.CharField("when", max_length=30, choices=Event.choices)
    minutes = models.PositiveIntegerField(default=0, help_text="For so long.")
    role = models.CharField("only role", max_length=20, blank=True, choices=Role.choices)
    category = models.CharField(
        "only category", max_length=20, blank=True, choices=Category.choices
    )
    name_pattern = models.CharField(
        "only names like", max_length=100, blank=True, help_text="* is any text, ? one character."
    )
    action = models.CharField("then", max_length=20, choices=Action.choices)
    grace_minutes = models.PositiveIntegerField(
        default=0, help_text="Wait so long, and look again, before anything is done."
    )
    most_an_hour = models.PositiveIntegerField(
        default=100, help_text="More cases than these wait for the next hour."
    )
    text = models.TextField(blank=True, help_text="What a note or a webhook says.")
    webhook_url = models.CharField(max_length=500, blank=True)
    sealed_secret = models.TextField(blank=True, editable=False)
    # Earlier events do not count for this rule.
    watched_from = models.DateTimeField(default=clock.now, editable=False)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    updated_at = models.DateTimeField(default=clock.now, editable=False)

    objects = RuleQuerySet.as_manager()

    class Meta:
        db_table = "lieutenants_rule"
        ordering = ["name"]
        verbose_name = "lifecycle rule"
        constraints = [
            models.CheckConstraint(condition=Q(event__in=Event.values), name="rule_event_is_known"),
            models.CheckConstraint(
                condition=Q(action__in=Action.values), name="rule_action_is_known"
            ),
            models.CheckConstraint(
                condition=~Q(action="destroy")
                | Q(
                    grace_minutes__gte=MIN_GRACE_MINUTES,
                    event__in=["vm-silent", "lieutenant-error"],
                ),
                name="rule_destroys_the_dead_after_grace",
            ),
            models.CheckConstraint(
                condition=~Q(action="do-proposed")
                | Q(grace_minutes__gte=MIN_GRACE_MINUTES, event__startswith="finding-"),
                name="rule_does_what_is_proposed_after_grace",
            ),
            models.CheckConstraint(
                condition=~Q(action="webhook") | ~Q(webhook_url=""), name="rule_webhook_has_url"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save with secrets in the texts covered, because webhooks and pages show them."""
        cover = sources.current(recheck=True).cover
        self.text, self.about = cover(self.text), cover(self.about)
        super().save(*args, **kwargs)

    @property
    def actor(self) -> str:
        """Return the name of the rule as the actor in histories."""
        return f"rule {self.name}"

    @property
    def duration(self) -> timedelta:
        """Return how long the event must have held."""
        return timedelta(minutes=self.minutes)

    @property
    def sentence(self) -> str:
        """Return the rule as one sentence."""
        duration = f" for {self.minutes} min" if self.minutes else ""
        only = [part for part in (self.role, self.category, self.name_pattern) if part]
        filters = f" ({', '.join(only)})" if only else ""
        after = f" after {self.grace_minutes} min of grace" if self.grace_minutes else ""
        when, then = Event(self.event).label, Action(self.action).label
        return f"When {when}{duration}{filters}, {then}{after}."

    @property
    def name_regex(self) -> str:
        """Return the name pattern as a regular expression that every database supports."""
        parts = (
            {"*": ".*", "?": "."}.get(char) or re.escape(char)
            for char in re.sub(r"\*+", "*", self.name_pattern)
        )
        return f"^{''.join(parts)}$"

    def set_secret(self, text: str) -> None:
        """Set the encrypted webhook secret; does not save."""
        self.sealed_secret = webhook_secret.encrypt(text) if text else ""

    def clean(self) -> None:
        """Check that the fields fit together. Raises ValidationError by field."""
        errors: dict[str, str] = {}
        if self.event in LIEUTENANT_EVENTS:
            errors |= self._lieutenant_errors()
        if self.action == Action.DESTROY:
            errors |= self._destroy_errors()
        if self.event in FINDING_EVENTS or self.action == Action.DO_PROPOSED:
            errors |= self._finding_errors()
        if len(re.findall(r"\*+", self.name_pattern)) > MAX_WILDCARDS:
            errors["name_pattern"] = f"at most {MAX_WILDCARDS} stars"
        if self.action == Action.WEBHOOK and not self.webhook_url:
            errors["webhook_url"] = "is required for a webhook"
        elif self.webhook_url and (problem := url_problem(self.webhook_url)):
            errors["webhook_url"] = problem
        if errors:
            raise ValidationError(errors)

    def _destroy_errors(self) -> dict[str, str]:
        errors = {}
        if self.event not in TERMINAL_EVENTS:
            events = ", ".join(TERMINAL_EVENTS)
            errors["event"] = f"a rule destroys only the dead; its event is one of {events}"
        return errors | self._grace_errors()

    def _lieutenant_errors(self) -> dict[str, str]:
        errors = {}
        if self.role not in ("", Role.LIEUTENANT):
            errors["role"] = "a rule about lieutenants finds no other role"
        if self.category not in ("", Category.LIEUTENANT):
            errors["category"] = "a rule about lieutenants finds no other category"
        if self.action == Action.MARK_STOPPED:
            errors["action"] = "only a rule about VMs marks them stopped"
        return errors

    def _finding_errors(self) -> dict[str, str]:
        if self.event not in FINDING_EVENTS:
            return {"action": "only a rule about findings does what one proposes"}
        errors = {}
        if self.action not in FINDING_ACTIONS:
            errors["action"] = f"for a finding must be one of {', '.join(FINDING_ACTIONS)}"
        if self.role:
            errors["role"] = "a rule about findings knows no roles"
        if self.category:
            errors["category"] = "a rule about findings knows no categories"
        return errors | (self._grace_errors() if self.action == Action.DO_PROPOSED else {})

    def _grace_errors(self) -> dict[str, str]:
        if self.grace_minutes >= MIN_GRACE_MINUTES:
            return {}
        text = f"a rule that may destroy waits {MIN_GRACE_MINUTES} minutes or more"
        return {"grace_minutes": text}


class FiringState(models.TextChoices):
    """State of a firing."""

    WAITING = "waiting", "waiting"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    # The cause was over before the action ran.
    DROPPED = "dropped", "dropped"


class FiringQuerySet(LeaseQuerySet["Firing"]):
    def due(self, at: datetime) -> Self:
        """Filter firings that are due and not leased."""
        return self.free(at, LEASE).filter(state=FiringState.WAITING, due_at__lte=at)

    def claim(self, pk: int, lease: timedelta = LEASE) -> Firing | None:
        """Lease a due firing to the caller and return it; None if a worker holds it."""
        if not self.due(clock.now()).acquire(pk, lease, attempts=F("attempts") + 1):
            return None
        return self.select_related("rule").get(pk=pk)


class Firing(models.Model):
    """Execution of a rule for one subject and one cause."""

    rule = models.ForeignKey(Rule, models.SET_NULL, null=True, related_name="firings")
    rule_name = models.CharField(max_length=100)
    event = models.CharField(max_length=30, choices=Event.choices)
    action = models.CharField(max_length=20, choices=Action.choices)
    subject = models.CharField(max_length=255, help_text="The VM's id, or its machine's.")
    subject_name = models.CharField(max_length=255, blank=True)
    cause_at = models.DateTimeField(help_text="Since when what caused it holds.")
    evidence = models.JSONField(default=dict, encoder=CompactEncoder)
    state = models.CharField(
        max_length=10, choices=FiringState.choices, default=FiringState.WAITING
    )
    outcome = models.TextField(blank=True)
    at = models.DateTimeField(default=clock.now)
    due_at = models.DateTimeField(default=clock.now)
    attempts = models.PositiveSmallIntegerField(default=0)
    ended_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)

    objects = FiringQuerySet.as_manager()

    class Meta:
        db_table = "lieutenants_firing"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "subject", "cause_at"], name="one_firing_a_cause"
            ),
            models.CheckConstraint(
                condition=Q(state__in=FiringState.values), name="firing_state_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(state="waiting"), name="firing_due"),
            models.Index(fields=["ended_at"], name="firing_by_end"),
            models.Index(fields=["rule", "at"], name="firing_of_rule"),
            models.Index(fields=["subject", "at"], name="firing_of_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.rule_name}: {self.subject_name or self.subject}"

    def end(self, state: FiringState, outcome: str, **evidence: Any) -> bool:
        """Move the firing to an end state; return False if it has ended already."""
        return self._set(state=state, outcome=outcome, ended_at=clock.now(), **self._with(evidence))

    def postpone(self, pause: timedelta, outcome: str, *, counts: bool = True) -> bool:
        """Postpone the firing; with `counts=False` the attempt is not counted."""
        attempts = self.attempts if counts else self.attempts - 1
        return self._set(due_at=clock.now() + pause, outcome=outcome, attempts=attempts)

    def _with(self, evidence: dict[str, Any]) -> dict[str, Any]:
        return {"evidence": {**self.evidence, **evidence}} if evidence else {}

    def _set(self, *, outcome: str, **fields: Any) -> bool:
        mine = Firing.objects.filter(pk=self.pk, state=FiringState.WAITING)
        return bool(mine.update(outcome=outcome[:2000], leased_until=None, **fields))
