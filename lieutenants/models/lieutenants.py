"""Lieutenants and their status transitions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from lieutenants import membership
from lieutenants.hosts.models import this_folder
from lieutenants.machine_state import MachineState
from lieutenants.models.lieutenant_queries import LieutenantQuerySet
from lieutenants.models.moves import Move
from lieutenants.models.processes import Process
from lieutenants.next_sign import MAX_REASON, NextSign
from lieutenants.states import MOVES, RUNNING, LimitAction, RestartPolicy, Status, WaitKind
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_ulid

if TYPE_CHECKING:
    from lieutenants.models.transcript import Answer

# A tool is near its limit in this last part of it; shorter limits than this are not noticed.
LIMIT_NOTICE = 0.2
MIN_NOTICED_LIMIT = 60
# Columns that decide what a lieutenant waits for, and whether it is late.
WAIT_COLUMNS = (
    *("status", "status_since", "waiting_for", "waiting_since", "waiting_until"),
    *("stall_limit_seconds", "tool_limit_seconds", "last_activity_at", "limit_action"),
    *("sign_period_seconds", "sign_grace_seconds", "next_sign_at", "next_sign_late_at"),
    *("next_sign_reason", "next_sign_by"),
)


class Lieutenant(models.Model):
    """A named agent session that keeps its context from task to task."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    name = models.CharField(max_length=64)
    role = models.TextField(help_text="What this lieutenant is for.")
    agent = models.CharField(max_length=20, default="pi", help_text="Its kind of agent.")
    command = models.JSONField(
        default=list, blank=True, help_text="Program and arguments, for agents without their own."
    )
    agent_options = models.JSONField(
        default=dict, blank=True, help_text="What its agent may do, where its kind has settings."
    )
    directive = models.TextField(blank=True, help_text="More for its system prompt.")
    model = models.CharField(max_length=200, blank=True, help_text="provider/model, or a pattern.")
    model_in_use = models.CharField(
        max_length=200, blank=True, help_text="What the agent says it works with."
    )
    model_wanted = models.CharField(
        max_length=200, blank=True, help_text="What its newest process was started with."
    )
    model_problem = models.TextField(
        blank=True, help_text="How the model in use differs from the one that was wanted."
    )
    system_prompt = models.TextField(blank=True)
    folder = models.CharField(max_length=1024, help_text="The agent's working folder.")
    start_commit = models.CharField(
        max_length=64, blank=True, editable=False, help_text="Checked out there at its first start."
    )
    start_noted_at = models.DateTimeField(null=True, blank=True, editable=False)
    isolation = models.CharField(
        max_length=20, blank=True, help_text="What kept its newest process away from reef."
    )
    # Identity of the data folder it belongs to; `host` is only that host's name.
    data_folder = models.CharField(max_length=26, default=this_folder, db_index=True)
    host = models.CharField(max_length=255, db_index=True)
    transport = models.CharField(max_length=20, default="local")
    # With the transport `ssh`, the machine that its agent runs on: a registered SSH host, or the
    # VM of a provider, by its VM id. Both are empty when a destroyed one has left nothing there.
    ssh_host = models.ForeignKey(
        "bootloader.SshHost",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="lieutenants",
        verbose_name="SSH host",
    )
    on_vm = models.CharField("VM", max_length=255, blank=True, help_text="VM id of its machine.")
    has_remote_files = models.BooleanField(
        default=False, help_text="Its machine may have files of it."
    )
    is_taken_over = models.BooleanField(
        default=False, help_text="An older server has started its agent on its machine."
    )
    parent_agent = models.CharField(max_length=200, blank=True)
    restart_policy = models.CharField(
        max_length=20, choices=RestartPolicy.choices, default=RestartPolicy.NEVER
    )
    idle_limit_minutes = models.PositiveIntegerField(null=True, blank=True)
    stall_limit_seconds = models.PositiveIntegerField(default=600, help_text="0 is no limit.")
    tool_limit_seconds = models.PositiveIntegerField(
        default=3600, help_text="How long one tool call may run. 0 is no limit."
    )
    dialog_limit_seconds = models.PositiveIntegerField(
        default=3600, help_text="How long a dialog waits for a person. 0 dismisses it at once."
    )
    limit_action = models.CharField(
        max_length=20,
        choices=LimitAction.choices,
        default=LimitAction.ABORT,
        help_text="What happens when a model or a tool reaches its limit.",
    )
    sign_period_seconds = models.PositiveIntegerField(
        default=0, help_text="A sign of it is expected this often. 0 is never."
    )
    sign_grace_seconds = models.PositiveIntegerField(
        default=60, help_text="How much later a sign may come."
    )
    # What was declared for once, see `NextSign`: when the next sign is due, from when on it is
    # late, why, and by whom.
    next_sign_at = models.DateTimeField(null=True, blank=True, editable=False)
    next_sign_late_at = models.DateTimeField(null=True, blank=True, editable=False)
    next_sign_reason = models.CharField(max_length=MAX_REASON, blank=True, editable=False)
    next_sign_by = models.CharField(max_length=200, blank=True, editable=False)

    status = models.CharField(max_length=20, choices=Status.choices, default=Status.STARTING)
    status_since = models.DateTimeField(default=timezone.now)
    error = models.TextField(blank=True, help_text="Why it is in `error`.")
    trouble = models.TextField(blank=True, help_text="What the model is having trouble with now.")
    waiting_for = models.CharField(max_length=200, blank=True)
    waiting_since = models.DateTimeField(
        null=True, blank=True, help_text="When the tool call that is waited for began."
    )
    waiting_until = models.DateTimeField(
        null=True, blank=True, help_text="When the wait ends, as far as that is known."
    )
    # Time of the first failure, set from the second equal one on. See `failing`.
    failing_since = models.DateTimeField(null=True, blank=True)
    failures = models.JSONField(default=dict, blank=True)
    # The transcript entry to go back to, until the agent has done so. See `rewinding`.
    rewind_to = models.BigIntegerField(null=True, blank=True)
    rewind_asked_at = models.DateTimeField(null=True, blank=True)
    # The session file that the agent continues, and since when it does.
    session_name = models.CharField(max_length=255, default="session.jsonl")
    session_since = models.DateTimeField(null=True, blank=True)
    session_problem = models.TextField(blank=True, help_text="Why its session cannot go on.")
    # tokens, window and percent, as the agent reported them after its newest run.
    context_usage = models.JSONField(null=True, blank=True)
    task_count = models.PositiveIntegerField(default=0)
    # Revision of the transcript's newest change. Written by the follower only.
    rev = models.BigIntegerField(default=0)
    restarts = models.PositiveSmallIntegerField(default=0)
    restart_at = models.DateTimeField(null=True, blank=True)
    abort_asked_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    leased_by = models.CharField(max_length=26, blank=True, editable=False)
    # For a creation with an Idempotency-Key: digests of the caller with its key, and of the
    # request.
    creation_key = models.CharField(max_length=64, null=True, blank=True, unique=True)
    creation_digest = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_activity_at = models.DateTimeField(default=timezone.now)
    # Whether its machine, or its supervisor on a host of reef, answers its follower, and since
    # when; None while nobody follows. Written by `supervision.contacts`, as is `heard_at`.
    in_reach = models.BooleanField(null=True, editable=False)
    reach_since = models.DateTimeField(null=True, blank=True, editable=False)
    heard_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When its machine was last heard."
    )

    objects = LieutenantQuerySet.as_manager()

    # The newest turn that has ended, and whether the person who looks has not read it; set by
    # lists.
    last_turn: Answer | None = None
    is_unread = False

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                condition=~Q(status="destroyed"),
                name="one_living_lieutenant_a_name",
            ),
            models.CheckConstraint(
                condition=Q(status__in=Status.values), name="lieutenant_status_is_known"
            ),
            models.CheckConstraint(
                condition=Q(transport="ssh") | Q(ssh_host__isnull=True, on_vm=""),
                name="only_remote_lieutenant_on_machine",
            ),
            models.CheckConstraint(
                condition=Q(ssh_host__isnull=True) | Q(on_vm=""), name="one_machine_a_lieutenant"
            ),
        ]
        indexes = [
            models.Index(fields=["status", "restart_at"], name="lieutenant_restart"),
            models.Index(fields=["created_at", "id"], name="lieutenant_by_time"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_out_of_reach(self) -> bool:
        """Return whether its machine or its supervisor does not answer now."""
        return self.in_reach is False

    @property
    def machine(self) -> MachineState | None:
        """Return the state of its agent's machine; None if that is a host of reef."""
        return None if self.is_local else MachineState.of(self)

    @property
    def is_local(self) -> bool:
        """Return whether its agent runs on a host of reef, not on a VM reached by SSH."""
        return self.transport == "local"

    @property
    def should_run(self) -> bool:
        """Return whether the status requires a running agent."""
        return self.status in RUNNING

    @property
    def wait_kind(self) -> WaitKind | None:
        """Return what kind of thing it waits for; None if it waits for nothing."""
        return WaitKind.of(self.waiting_for)

    @property
    def next_sign(self) -> NextSign | None:
        """Return the sign that is expected of it, if any."""
        return NextSign.of(self)

    @property
    def is_overdue(self) -> bool:
        """Return whether a sign that was expected of it has not come."""
        sign = self.next_sign
        return sign is not None and sign.is_overdue(timezone.now())

    @property
    def silent_since(self) -> datetime:
        """Return when its silence began: not before its work, or before a known wait is over."""
        heard = max(self.last_activity_at, self.status_since)
        return max(heard, self.waiting_until or heard)

    @property
    def limit_at(self) -> datetime | None:
        """Return when what it waits for reaches its limit; None if it has none."""
        kind, seconds, since = self.wait_kind, 0, None
        if kind == WaitKind.TOOL:
            seconds, since = self.tool_limit_seconds, self.waiting_since
        elif kind not in (None, WaitKind.PERSON):
            seconds, since = self.stall_limit_seconds, self.silent_since
        return since + timedelta(seconds=seconds) if seconds and since else None

    @property
    def is_near_limit(self) -> bool:
        """Return whether a tool runs for so long that it reaches its limit soon, or has done so."""
        end = self.limit_at
        if self.status != Status.WORKING or self.wait_kind != WaitKind.TOOL or end is None:
            return False
        notice = timedelta(seconds=self.tool_limit_seconds * LIMIT_NOTICE)
        return self.tool_limit_seconds >= MIN_NOTICED_LIMIT and timezone.now() >= end - notice

    @property
    def stalled(self) -> bool:
        """Return whether it is working but silent for unusually long.

        Tools and people may take their time, and so may a provider until the time that is known,
        and an agent that has declared it.
        """
        patient, now = (WaitKind.TOOL, WaitKind.PERSON), timezone.now()
        if self.status != Status.WORKING or self.wait_kind in patient:
            return False
        if (sign := self.next_sign) and sign.is_held(now):
            return False
        limit = settings.STALL_NOTICE_SECONDS
        if self.stall_limit_seconds:
            limit = min(limit, max(1, self.stall_limit_seconds // 2))
        return now - self.silent_since > timedelta(seconds=limit)

    def idle_since_limit(self, at: datetime) -> bool:
        """Return whether it has been idle for as long as its limit allows."""
        limit = timedelta(minutes=self.idle_limit_minutes or 0)
        return at - max(self.status_since, self.last_activity_at) >= limit

    def frozen_process(self) -> Process | None:
        """Return the newest process, if it waits in a paused VM."""
        newest = self.processes.order_by("-started_at", "-id").first()
        return newest if newest and newest.is_frozen else None

    def has_attached(self) -> bool:
        """Return whether a supervisor has ever come up for it."""
        return self.processes.exclude(handle={}).exists()

    def live_process(self) -> Process | None:
        """Return the process that has not ended, if any."""
        return self.processes.filter(ended_at__isnull=True).first()

    def has_lasting_process(self) -> bool:
        """Return whether it has a live process that may still end by itself; see `lasting`."""
        return Process.objects.lasting().filter(lieutenant=self.pk).exists()

    def move(self, to: Status, *, reason: str, actor: str = "reef", **fields: Any) -> None:
        """Move to another status and record the transition.

        `fields` are further columns set by the same UPDATE. Raises IllegalMove, LostRace.
        """
        old = Status(self.status)
        if to not in MOVES[old]:
            raise IllegalMove(f"Lieutenant '{self.name}' cannot go from {old} to {to}")
        now = timezone.now()
        fields = {"error": "", "restart_at": None, "status_since": now, **fields}
        if to is not Status.WORKING:
            fields.setdefault("waiting_for", "")
            fields.setdefault("waiting_since", None)
            fields.setdefault("waiting_until", None)
            fields |= {"next_sign_at": None, "next_sign_late_at": None}
            fields |= {"next_sign_reason": "", "next_sign_by": ""}
            fields.setdefault("abort_asked_at", None)
        with transaction.atomic():
            # The WHERE clause is the lock: only one of two movers finds the row.
            # A follower that was frozen must not move what another one has taken over.
            mine = Lieutenant.objects.filter(pk=self.pk, status=old, data_folder=self.data_folder)
            if not mine.update(status=to, **fields):
                raise LostRace(f"Lieutenant '{self.name}' is no longer {old}")
            Move.objects.create(
                lieutenant=self, old=old, new=to, reason=reason[:2000], actor=actor, at=now
            )
            detail = {"name": self.name, "from": str(old), "reason": reason}
            recording.record(f"lieutenant.{to.value}", self.pk, actor=actor, detail=detail)
            membership.on_status_change(self, old, to, actor=actor)
            events.publish_lieutenant(self.pk)
        self.status = to
        for field, value in fields.items():
            setattr(self, field, value)
