"""Items of the attention list: one bounded query for each kind of problem."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import Count, Q
from django.urls import reverse
from django.utils import timezone

from bootloader.models import Finding, Provisioning
from bootloader.states import State
from lieutenants import troubles
from lieutenants.agents import provider_errors
from lieutenants.hosts.liveness import list_hosts
from lieutenants.models import Lieutenant
from lieutenants.sessions.floods import TROUBLE_PREFIX
from lieutenants.states import RUNNING, Status
from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.attention.models import Kind
from reef_site.common import clock
from reef_site.common.text import first_words
from registry.models import VM
from registry.rules.models import Firing, FiringState

# How many items of one kind are read.
MAX_ITEMS = 300
MAX_EXAMPLES = 20
RULES_SINCE = timedelta(days=7)
_MAX_TEXT = 120


@dataclass(frozen=True)
class Item:
    """One problem. `state` selects its icon; items of one `group` are shown as one row."""

    kind: Kind
    subject: str
    name: str
    url: str
    state: str
    label: str
    since: datetime
    text: str
    group: str

    @property
    def cause(self) -> str:
        """Text that changes when the same subject has another problem, or the same one again."""
        return f"{self.since.isoformat()} {digest(self.text)}"


@dataclass(frozen=True)
class SilentVMs:
    """Silent VMs: how many are new, how many were dismissed, and the newest examples."""

    new: int
    seen: int
    newest: list[Item]


def digest(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def find_items() -> Iterator[Item]:
    """Yield the items of all kinds except silent VMs, which may be thousands."""
    if "lieutenant" in settings.ORGANS:
        yield from _lieutenants()
        yield from _unknown_agents()
        yield from _rules()
        yield from _hosts()
    if "bootloader" in settings.ORGANS:
        yield from _provisionings()
        yield from _findings()


# -- lieutenants ---------------------------------------------------------------------------------


def _lieutenants() -> Iterator[Item]:
    """Yield lieutenants in error, held back or stalled, and those whose model fails."""
    stalled_before = timezone.now() - timedelta(seconds=1)
    model_fails = Q(status__in=RUNNING) & ~Q(trouble="")
    stalled = Q(status=Status.WORKING, last_activity_at__lt=stalled_before)
    held_back = Q(status=Status.PAUSED) & ~Q(error="")
    suspects = Lieutenant.objects.filter(Q(status=Status.ERROR) | model_fails | stalled | held_back)
    for each in suspects.defer("system_prompt", "directive").order_by("-status_since")[:MAX_ITEMS]:
        if each.status == Status.ERROR:
            yield _lieutenant(each, "error", each.status_since, each.error)
        elif each.status == Status.PAUSED:
            yield _lieutenant(each, "paused", each.status_since, each.error)
        elif each.stalled:
            reason = f"waiting for {each.waiting_for}" if each.waiting_for else "no output"
            yield _lieutenant(each, "stalled", each.last_activity_at, each.trouble or reason)
        elif each.trouble:
            is_ours = troubles.is_reachability_trouble(each.trouble) or each.trouble.startswith(
                TROUBLE_PREFIX
            )
            has_failed = each.status == Status.IDLE and not is_ours
            label = "task failed" if has_failed else "has trouble"
            yield _lieutenant(each, "stalled", each.status_since, each.trouble, label)


def _lieutenant(each: Lieutenant, state: str, since: datetime, text: str, label: str = "") -> Item:
    line = first_words(provider_errors.sentence(text) or text, _MAX_TEXT)
    return Item(
        kind=Kind.LIEUTENANT,
        subject=each.pk,
        name=each.name,
        url=reverse("lieutenants:detail", args=[each.name]),
        state=state,
        label=label or state,
        since=since,
        text=line,
        group=f"{label or state} {digest(line)}",
    )


def _unknown_agents() -> Iterator[Item]:
    """Yield running agents that no follower reads."""
    for row in UnknownAgent.objects.defer("handle").order_by("-found_at")[:MAX_ITEMS]:
        yield Item(
            kind=Kind.LIEUTENANT,
            subject=f"run:{row.run}",
            name=row.name or row.lieutenant_id,
            url=f"{reverse('lieutenants:index')}#unknown-agents",
            state="stalled",
            label="nobody follows it",
            since=row.found_at,
            text=first_words(f"{row.why} It runs on {row.host}.", _MAX_TEXT),
            group=f"unknown agent {digest(row.why)}",
        )


# -- VMs -----------------------------------------------------------------------------------------


def silent_vms(seen_until: datetime | None) -> SilentVMs:
    """Return the silent VMs; those that fell silent after `seen_until` count as new."""
    if "registry" not in settings.ORGANS:
        return SilentVMs(0, 0, [])
    vms = VM.objects.silent(clock.now())
    is_seen = Q(silent_after__lte=seen_until) if seen_until else Q(pk__in=[])
    counts = vms.aggregate(all=Count("pk"), seen=Count("pk", filter=is_seen))
    newest = vms.order_by("-silent_after", "pk")[:MAX_EXAMPLES] if counts["all"] else []
    new = counts["all"] - counts["seen"]
    return SilentVMs(new, counts["seen"], [_silent(vm) for vm in newest])


def _silent(vm: VM) -> Item:
    assert vm.silent_after is not None
    has_page = "vm-tree" in settings.ORGANS
    return Item(
        kind=Kind.VM,
        subject=vm.pk,
        name=vm.name or vm.pk,
        url=f"{reverse('fleet:by-id')}?{urlencode({'vm': vm.pk})}" if has_page else "",
        state="silent",
        label="silent",
        since=vm.silent_after,
        text="",
        group="silent",
    )


# -- provisioning --------------------------------------------------------------------------------


def _provisionings() -> Iterator[Item]:
    """Yield failed provisionings that nobody has dealt with yet."""
    failed = Provisioning.objects.filter(state=State.FAILED)
    columns = ("id", "name", "state", "state_since", "reason")
    for row in failed.only(*columns).order_by("-id")[:MAX_ITEMS]:
        line = first_words(row.reason, _MAX_TEXT)
        yield Item(
            kind=Kind.PROVISIONING,
            subject=row.pk,
            name=row.name,
            url=reverse("bootloader:detail", args=[row.pk]),
            state="error",
            label="provisioning failed",
            since=row.state_since,
            text=line,
            group=digest(line),
        )


def _findings() -> Iterator[Item]:
    """Yield open findings."""
    for row in Finding.objects.open().order_by("-id")[:MAX_ITEMS]:
        yield Item(
            kind=Kind.FINDING,
            subject=str(row.pk),
            name=row.name or row.machine_id,
            url=reverse("bootloader:findings"),
            state="late",
            label=row.get_kind_display(),
            since=row.found_at,
            text=first_words(row.text, _MAX_TEXT),
            group=f"{row.kind} {row.provider}",
        )


# -- rules ---------------------------------------------------------------------------------------


def _rules() -> Iterator[Item]:
    """Yield the rule executions of the last days that failed."""
    since = timezone.now() - RULES_SINCE
    failed = Firing.objects.filter(state=FiringState.FAILED, ended_at__gte=since)
    for row in failed.defer("evidence").order_by("-ended_at")[:MAX_ITEMS]:
        line = first_words(row.outcome, _MAX_TEXT)
        query = urlencode({"q": row.rule_name})
        yield Item(
            kind=Kind.RULE,
            subject=str(row.pk),
            name=f"{row.rule_name}: {row.subject_name or row.subject}",
            url=f"{reverse('admin:rules_firing_changelist')}?{query}",
            state="error",
            label="rule failed",
            since=row.ended_at or row.at,
            text=line,
            group=f"{digest(row.rule_name)} {digest(line)}",
        )


# -- hosts ---------------------------------------------------------------------------------------


def _hosts() -> Iterator[Item]:
    """Yield hosts that do not answer while lieutenants wait for them, and hosts with a rival."""
    for host in list_hosts():
        if host.needs_attention or host.rival:
            yield Item(
                kind=Kind.HOST,
                subject=host.id or host.name,
                name=host.name,
                url=reverse("lieutenant-hosts"),
                state="error",
                label="does not answer" if host.needs_attention else "not followed",
                since=host.seen_at or timezone.now(),
                text=host.summary if host.needs_attention else host.rival,
                group=f"host {host.id or host.name}",
            )
