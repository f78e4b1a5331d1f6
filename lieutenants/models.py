"""Lieutenants and their processes, messages, transcripts, usage and status transitions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, Self

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Substr
from django.utils import timezone

from bootloader.states import CleanupPolicy
from lieutenants import membership
from lieutenants.hosts.models import this_folder
from lieutenants.states import MOVES, RUNNING, MessageState, Mode, Outcome, RestartPolicy, Status
from lieutenants.unknown_agents.models import UnknownAgent as UnknownAgent
from reef_site.common import clock, events
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet

# Lists of models that are looked at, and names that a form offers.
MAX_LISTS, MAX_OFFERED = 20, 500


class LieutenantQuerySet(LeaseQuerySet["Lieutenant"]):
    def active(self) -> Self:
        """Lieutenants that are not destroyed."""
        return self.exclude(status=Status.DESTROYED)

    def here(self) -> Self:
        """Lieutenants of this data folder, whose agents run here."""
        return self.filter(data_folder=settings.DATA_FOLDER_ID)

    def claim(self, pk: str, lease: timedelta) -> Lieutenant | None:
        """Lease the row to the caller and return it; None while another lease is valid."""
        return self.get(pk=pk) if self.acquire(pk, lease) else None

    def without_process(self) -> Self:
        """Lieutenants without a live process."""
        live = Process.objects.live().filter(lieutenant=OuterRef("pk"))
        return self.filter(~Exists(live))

    def due_for_restart(self, at: datetime) -> Self:
        """Failed lieutenants whose delay before the next start has passed."""
        return self.filter(status=Status.ERROR, restart_at__lte=at)

    def idle_too_long(self, at: datetime) -> list[Lieutenant]:
        """Return idle lieutenants whose idle limit has passed."""
        waiting = self.filter(status=Status.IDLE, idle_limit_minutes__isnull=False)
        return [each for each in waiting if each.idle_since_limit(at)]

    def with_leftovers(self) -> Self:
        """Destroyed lieutenants that still hold their machines, with files of theirs or without."""
        made = Q(made_vm__isnull=False, made_vm__removed_at__isnull=True)
        held = Q(ssh_host__isnull=False) | Q(has_remote_files=True) | made
        return self.filter(held, status=Status.DESTROYED)

    def count_by_status(self) -> dict[str, int]:
        """Map each status in use to its number of lieutenants."""
        rows = self.order_by().values_list("status").annotate(count=models.Count("pk"))
        return dict(rows)

    def listed(self, *, status: str = "", words: str = "") -> Self:
        """Lieutenants of one status (default: all active ones) that contain `words`.

        Annotates `task`: the head of the newest message that was not rejected.
        """
        found = self.filter(status=status) if status in Status.values else self.active()
        if words:
            columns = ("name", "role", "model", "model_in_use", "folder")
            found = found.filter(
                reduce(or_, (Q(**{f"{column}__icontains": words}) for column in columns))
            )
        mine = Message.objects.filter(lieutenant=OuterRef("pk"))
        newest = mine.exclude(state=MessageState.REJECTED).order_by("-created_at", "-id")
        return found.annotate(task=Subquery(newest.values(head=Substr("text", 1, 200))[:1]))


class Lieutenant(models.Model):
    """A named agent session that keeps its context from task to task."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    name = models.CharField(max_length=64)
    role = models.TextField(help_text="What this lieutenant is for.")
    agent = models.CharField(max_length=20, default="pi", help_text="Its kind of agent.")
    command = models.JSONField(
        default=list, blank=True, help_text="Program and arguments, for the agent 'command'."
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
    parent_agent = models.CharField(max_length=200, blank=True)
    restart_policy = models.CharField(
        max_length=20, choices=RestartPolicy.choices, default=RestartPolicy.NEVER
    )
    idle_limit_minutes = models.PositiveIntegerField(null=True, blank=True)
    stall_limit_seconds = models.PositiveIntegerField(default=600, help_text="0 is no limit.")
    tool_limit_seconds = models.PositiveIntegerField(
        default=3600, help_text="How long one tool call may run. 0 is no limit."
    )

    status = models.CharField(max_length=20, choices=Status.choices, default=Status.STARTING)
    status_since = models.DateTimeField(default=timezone.now)
    error = models.TextField(blank=True, help_text="Why it is in `error`.")
    trouble = models.TextField(blank=True, help_text="What the model is having trouble with now.")
    waiting_for = models.CharField(max_length=200, blank=True)
    waiting_since = models.DateTimeField(
        null=True, blank=True, help_text="When the tool call that is waited for began."
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
    # For a creation with an Idempotency-Key: digests of the caller with its key, and of the
    # request.
    creation_key = models.CharField(max_length=64, null=True, blank=True, unique=True)
    creation_digest = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_activity_at = models.DateTimeField(default=timezone.now)

    objects = LieutenantQuerySet.as_manager()

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
        indexes = [models.Index(fields=["status", "restart_at"], name="lieutenant_restart")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_local(self) -> bool:
        """Return whether its agent runs on a host of reef, not on a VM reached by SSH."""
        return self.transport == "local"

    @property
    def should_run(self) -> bool:
        """Return whether the status requires a running agent."""
        return self.status in RUNNING

    @property
    def stalled(self) -> bool:
        """Return whether it is working but silent for unusually long. Tools may take their time."""
        if self.status != Status.WORKING or self.waiting_for.startswith("tool "):
            return False
        limit = settings.STALL_NOTICE_SECONDS
        if self.stall_limit_seconds:
            limit = min(limit, max(1, self.stall_limit_seconds // 2))
        return timezone.now() - self.last_activity_at > timedelta(seconds=limit)

    def idle_since_limit(self, at: datetime) -> bool:
        """Return whether it has been idle for as long as its limit allows."""
        limit = timedelta(minutes=self.idle_limit_minutes or 0)
        return at - max(self.status_since, self.last_activity_at) >= limit

    def frozen_process(self) -> Process | None:
        """Return the newest process, if it waits in a paused VM."""
        newest = self.processes.order_by("-started_at", "-id").first()
        return newest if newest and newest.is_frozen else None

    def live_process(self) -> Process | None:
        """Return the process that has not ended, if any."""
        return self.processes.filter(ended_at__isnull=True).first()

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
            fields.setdefault("abort_asked_at", None)
        with transaction.atomic():
            # The WHERE clause is the lock: only one of two movers finds the row.
            mine = Lieutenant.objects.filter(pk=self.pk, status=old)
            if not mine.update(status=to, **fields):
                raise LostRace(f"Lieutenant '{self.name}' is no longer {old}")
            Move.objects.create(
                lieutenant=self, old=old, new=to, reason=reason[:2000], actor=actor, at=now
            )
            membership.on_status_change(self, old, to, actor=actor)
            events.publish_lieutenant(self.pk)
        self.status = to
        for field, value in fields.items():
            setattr(self, field, value)


class MadeVMQuerySet(models.QuerySet["MadeVM"]):
    def here(self) -> Self:
        """VMs of lieutenants of this data folder."""
        return self.filter(lieutenant__data_folder=settings.DATA_FOLDER_ID)

    def present(self) -> Self:
        """VMs that reef has not finished with: they are made, run, or are to be deleted."""
        return self.filter(removed_at__isnull=True)

    def of_failed_starts(self) -> Self:
        """VMs whose lieutenants have failed for good before their agents were ever ready."""
        was_ready = Process.objects.filter(
            lieutenant=OuterRef("lieutenant"), ready_at__isnull=False
        )
        live = Process.objects.live().filter(lieutenant=OuterRef("lieutenant"))
        failed = self.present().filter(
            lieutenant__status=Status.ERROR, lieutenant__restart_at__isnull=True
        )
        return failed.exclude(lieutenant__on_vm="").filter(~Exists(was_ready), ~Exists(live))


class MadeVM(models.Model):
    """The VM that reef makes for one lieutenant, and deletes with it."""

    lieutenant = models.OneToOneField(
        Lieutenant, models.CASCADE, primary_key=True, related_name="made_vm"
    )
    # The newest one: after a failure another VM may be made.
    provisioning = models.ForeignKey("bootloader.Provisioning", models.PROTECT, related_name="+")
    on_failure = models.CharField(
        max_length=10, choices=CleanupPolicy.choices, default=CleanupPolicy.DELETE
    )
    prepared_at = models.DateTimeField(
        null=True, blank=True, help_text="When agents that it has inherited were ended."
    )
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = MadeVMQuerySet.as_manager()

    class Meta:
        verbose_name = "VM of a lieutenant"
        verbose_name_plural = "VMs of lieutenants"
        constraints = [
            models.CheckConstraint(
                condition=Q(on_failure__in=CleanupPolicy.values), name="made_vm_policy_is_known"
            )
        ]

    def __str__(self) -> str:
        return f"VM of {self.lieutenant.name}"


class AgentModelsQuerySet(models.QuerySet["AgentModels"]):
    def offered(self, lieutenant: Lieutenant | None = None) -> list[str]:
        """Return the names of models for a form: those of this agent, else of all agents here."""
        here = self.filter(lieutenant__data_folder=settings.DATA_FOLDER_ID)
        own = here.filter(lieutenant=lieutenant)
        listed = own if lieutenant is not None and own.exists() else here
        newest = listed.order_by("-at").values_list("names", flat=True)[:MAX_LISTS]
        return sorted({name for names in newest for name in names})[:MAX_OFFERED]


class AgentModels(models.Model):
    """The models that the agent listed at its last start."""

    lieutenant = models.OneToOneField(
        Lieutenant, models.CASCADE, primary_key=True, related_name="agent_models"
    )
    names = models.JSONField(default=list, help_text="provider/id of each.")
    labels = models.JSONField(default=list, help_text="Their names for people.")
    image_names = models.JSONField(
        null=True, blank=True, help_text="Those that take images, if the agent said so."
    )
    process = models.ForeignKey("Process", models.CASCADE, related_name="+")
    at = models.DateTimeField(default=timezone.now)

    objects = AgentModelsQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "agent models"

    def __str__(self) -> str:
        return f"{len(self.names)} models of {self.lieutenant_id}"


class Move(models.Model):
    """A change of a lieutenant's status, with its reason."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="moves")
    old = models.CharField(max_length=20, choices=Status.choices)
    new = models.CharField(max_length=20, choices=Status.choices)
    reason = models.TextField()
    actor = models.CharField(max_length=200)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"


class ProcessQuerySet(models.QuerySet["Process"]):
    def live(self) -> Self:
        """Processes that have not ended, as far as is known."""
        return self.filter(ended_at__isnull=True)

    def here(self) -> Self:
        """Processes whose run folders lie in this data folder."""
        return self.filter(data_folder=settings.DATA_FOLDER_ID)

    def start_steps(self, lieutenants: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Map lieutenants to the steps of their newest start on a VM."""
        if not lieutenants:
            return {}
        rows = self.filter(lieutenant__in=lieutenants).order_by("started_at", "id")
        return {row.lieutenant_id: row.start_steps() for row in rows.only(*Process.STEP_FIELDS)}

    def abandoned(self) -> Self:
        """Processes whose host must still end them: another host has ended their rows."""
        return self.filter(is_abandoned=True)


class Process(models.Model):
    """One run of an agent process: how to find it again, and how it ended."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="processes")
    data_folder = models.CharField(max_length=26, default=this_folder, db_index=True)
    host = models.CharField(max_length=255, db_index=True)
    transport = models.CharField(max_length=20)
    directory = models.CharField(max_length=1024)
    agent = models.CharField(max_length=1024, help_text="The agent's program and version.")
    handle = models.JSONField(default=dict, help_text="Pids with their start times.")
    started_at = models.DateTimeField(default=timezone.now)
    ready_at = models.DateTimeField(null=True, blank=True)
    stop_asked_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    exit_signal = models.IntegerField(null=True, blank=True)
    end_reason = models.TextField(blank=True)
    is_abandoned = models.BooleanField(
        default=False, help_text="Another host ended this row; its own host must end the agent."
    )
    is_frozen = models.BooleanField(
        default=False, help_text="Its row has ended, but it waits in a paused VM."
    )
    stderr = models.TextField(blank=True, help_text="Its last lines.")
    # How often another follower has taken it over.
    generation = models.PositiveIntegerField(default=0)
    # Of a start on a VM: name, at, seconds, and note or problem of each step.
    steps = models.JSONField(default=list, blank=True)
    # Committed offset in the journal, and the follower's state at that point.
    offset = models.BigIntegerField(default=0)
    state = models.JSONField(default=dict)

    STEP_FIELDS = ("lieutenant", "steps", "ready_at", "started_at")

    objects = ProcessQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at", "-id"]
        verbose_name_plural = "processes"
        constraints = [
            models.UniqueConstraint(
                fields=["lieutenant"],
                condition=Q(ended_at__isnull=True),
                name="one_live_process_a_lieutenant",
            )
        ]
        indexes = [
            models.Index(
                fields=["data_folder"], condition=Q(is_abandoned=True), name="process_abandoned"
            )
        ]

    def __str__(self) -> str:
        return f"{self.lieutenant.name} pid {self.handle.get('agent_pid', '?')}"

    def start_steps(self) -> list[dict[str, Any]]:
        """Return the steps of a start on a VM, with that of the agent's first reply."""
        if self.ready_at is None or not self.steps:
            return list(self.steps)
        last = self.steps[-1]
        began = datetime.fromisoformat(last["at"]) + timedelta(seconds=last.get("seconds", 0.0))
        waited = round(max(0.0, (self.ready_at - began).total_seconds()), 3)
        return [*self.steps, {"name": "ready", "at": began.isoformat(), "seconds": waited}]


class MessageQuerySet(models.QuerySet["Message"]):
    def undecided(self) -> Self:
        """Messages neither accepted nor rejected yet."""
        return self.filter(state__in=[MessageState.QUEUED, MessageState.DELIVERED])

    def pending(self) -> Self:
        """Messages that were sent and that the agent has not begun."""
        accepted = Q(state=MessageState.ACCEPTED, taken_up_at__isnull=True)
        return self.filter(accepted | Q(state__in=[MessageState.QUEUED, MessageState.DELIVERED]))


class Message(models.Model):
    """A message to a lieutenant and its delivery state."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="messages")
    text = models.TextField()
    mode = models.CharField(max_length=10, choices=Mode.choices)
    mode_asked = models.CharField(max_length=10, choices=Mode.choices)
    note = models.CharField(max_length=200, blank=True)
    actor = models.CharField(max_length=200, blank=True)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001
    state = models.CharField(
        max_length=10, choices=MessageState.choices, default=MessageState.QUEUED
    )
    evidence = models.JSONField(null=True, blank=True, help_text="The agent's own reply.")
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    taken_up_at = models.DateTimeField(null=True, blank=True)

    objects = MessageQuerySet.as_manager()

    # Number of characters of `text` that the query for a page did not load.
    left_out = 0

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lieutenant", "idempotency_key"], name="one_message_an_idempotency_key"
            )
        ]
        indexes = [models.Index(fields=["lieutenant", "state"], name="message_by_state")]

    def __str__(self) -> str:
        return self.text[:60]


class MessageImage(models.Model):
    """An image that was sent with a message."""

    message = models.ForeignKey(Message, models.CASCADE, related_name="images")
    number = models.PositiveSmallIntegerField(help_text="Its position in the message, from 0.")
    media_type = models.CharField(max_length=40)
    size = models.PositiveIntegerField(help_text="In bytes.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the data.")
    data = models.BinaryField()

    class Meta:
        ordering = ["message", "number"]
        constraints = [
            models.UniqueConstraint(fields=["message", "number"], name="one_image_a_number")
        ]

    def __str__(self) -> str:
        return f"{self.media_type}, {self.size} bytes"


class Answer(models.Model):
    """One turn of the agent, from its start of work to its end, with its text."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="answers")
    process = models.ForeignKey(Process, models.CASCADE, related_name="answers")
    message = models.ForeignKey(Message, models.SET_NULL, null=True, blank=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=20, choices=Outcome.choices, default=Outcome.OPEN)
    text = models.TextField(blank=True, help_text="Its text blocks joined, once it has ended.")
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["lieutenant", "outcome"], name="answer_by_outcome"),
            models.Index(fields=["outcome", "ended_at"], name="answer_by_end"),
        ]

    def __str__(self) -> str:
        return f"answer {self.pk} ({self.outcome})"


class Entry(models.Model):
    """One item of the transcript."""

    class Kind(models.TextChoices):
        USER = "user", "message"
        THINKING = "thinking", "thinking"
        TEXT = "text", "text"
        TOOL_CALL = "tool_call", "tool call"
        TOOL_RESULT = "tool_result", "tool result"
        ERROR = "error", "error"
        NOTICE = "notice", "notice"
        USAGE = "usage", "usage"

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="entries")
    process = models.ForeignKey(Process, models.CASCADE, related_name="entries")
    answer = models.ForeignKey(
        Answer, models.SET_NULL, null=True, blank=True, related_name="entries"
    )
    message = models.ForeignKey(Message, models.SET_NULL, null=True, blank=True)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    # Index of the content block in the agent's message while that is still streaming.
    block = models.PositiveIntegerField(null=True, blank=True)
    tool = models.CharField(max_length=200, blank=True)
    call_id = models.CharField(max_length=200, blank=True)
    text = models.TextField(blank=True)
    data = models.JSONField(default=dict, blank=True)
    is_error = models.BooleanField(default=False)
    final = models.BooleanField(default=True)
    rev = models.BigIntegerField()
    at = models.DateTimeField()

    # Number of characters of `text` that the query for a page did not load.
    left_out = 0

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "entries"
        indexes = [
            models.Index(fields=["lieutenant", "rev"], name="entry_by_rev"),
            models.Index(fields=["lieutenant", "id"], name="entry_by_id"),
            models.Index(fields=["process"], condition=Q(final=False), name="entry_still_open"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class Chunk(models.Model):
    """A piece of text of an entry that is still streaming; deleted when the entry is final."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="chunks")
    entry = models.ForeignKey(Entry, models.CASCADE, related_name="chunks")
    rev = models.BigIntegerField()
    text = models.TextField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["lieutenant", "rev"], name="chunk_by_rev")]

    def __str__(self) -> str:
        return f"chunk {self.pk} of entry {self.entry_id}"


class UsageQuerySet(models.QuerySet["Usage"]):
    _CLASSES = ("input", "output", "cache_read", "cache_write", "cost")

    def _sums(self) -> dict[str, models.Aggregate]:
        sums = {f"total_{name}": models.Sum(name) for name in self._CLASSES}
        return {**sums, "calls": models.Count("pk")}

    def sums(self) -> dict[str, Any]:
        """Return the number of calls and the sums of their usage.

        Keys: calls, total_cost (US dollars), and total_input, total_output, total_cache_read,
        total_cache_write (tokens).
        """
        return self.aggregate(**self._sums())

    def sums_by_day(self) -> list[dict[str, Any]]:
        """Return the sums of each day (UTC), newest first."""
        days = self.order_by("-day").values("day").annotate(**self._sums())
        return [dict(row) for row in days]

    def sums_by_lieutenant(self, pks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Map ids of lieutenants to their sums; those without usage are left out."""
        rows = self.filter(lieutenant__in=pks).order_by().values("lieutenant_id")
        return {row["lieutenant_id"]: dict(row) for row in rows.annotate(**self._sums())}

    def sums_by_message(self, pks: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Map ids of messages to their sums; those without usage are left out."""
        rows = self.filter(message__in=pks).order_by().values("message_id")
        return {row["message_id"]: dict(row) for row in rows.annotate(**self._sums())}

    def sums_by_answer(self, pks: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Map ids of answers to their sums; those without usage are left out."""
        rows = self.filter(answer__in=pks).order_by().values("answer_id")
        return {row["answer_id"]: dict(row) for row in rows.annotate(**self._sums())}


class Usage(models.Model):
    """Tokens and cost of one model call, as the agent reported them."""

    lieutenant = models.ForeignKey(Lieutenant, models.CASCADE, related_name="usage")
    message = models.ForeignKey(
        Message, models.SET_NULL, null=True, blank=True, related_name="usage"
    )
    answer = models.ForeignKey(Answer, models.SET_NULL, null=True, blank=True, related_name="usage")
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    stop_reason = models.CharField(max_length=40, blank=True)
    input = models.BigIntegerField(default=0)
    output = models.BigIntegerField(default=0)
    cache_read = models.BigIntegerField(default=0)
    cache_write = models.BigIntegerField(default=0)
    cost = models.DecimalField(max_digits=18, decimal_places=9, default=0, help_text="US dollars")
    at = models.DateTimeField()
    day = models.DateField(db_index=True, help_text="UTC")

    objects = UsageQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "usage"
        indexes = [models.Index(fields=["lieutenant", "day"], name="usage_by_day")]

    def __str__(self) -> str:
        return f"{self.model}: {self.input} in, {self.output} out"


class LifeSign(models.Model):
    """Heartbeat of a process of reef, such as `follower@host` or `worker@host`."""

    who = models.CharField(primary_key=True, max_length=300)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return self.who

    @classmethod
    def give(cls, who: str) -> None:
        """Record a heartbeat of `who`, by the clock that all hosts share."""
        cls.objects.update_or_create(who=who, defaults={"at": clock.database_now()})

    @classmethod
    def latest(cls, prefix: str, until: datetime | None = None) -> datetime | None:
        """Return the newest heartbeat of all processes of a kind, such as `worker`.

        Heartbeats after `until` were written by a wrong clock and are ignored.
        """
        signs: QuerySet[LifeSign] = cls.objects.filter(who__startswith=prefix + "@")
        if until is not None:
            signs = signs.filter(at__lte=until)
        at: datetime | None = signs.aggregate(newest=models.Max("at"))["newest"]
        return at
