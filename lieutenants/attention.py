"""Items of “Needs you”: questions, failures, and agents and hosts that nothing follows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from django.db.models import F, Q
from django.urls import reverse, reverse_lazy
from django.utils import timezone

from lieutenants.agents import provider_errors
from lieutenants.hosts.liveness import Host, list_hosts
from lieutenants.messages import retrying
from lieutenants.models import Lieutenant, Message, Question
from lieutenants.models.lieutenants import LIMIT_NOTICE, MIN_NOTICED_LIMIT, WAIT_COLUMNS
from lieutenants.sessions.floods import TROUBLE_PREFIXES
from lieutenants.states import RUNNING, LimitAction, Status
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common.attention import (
    MAX_ITEMS,
    MAX_TEXT,
    AttentionKind,
    Button,
    Item,
    attention_kinds,
    digest,
)
from reef_site.common.text import first_words

# Label, action, and whether it is a link to the page that asks first.
_Verb = tuple[str, str, bool]
_COLUMNS = ("name", "error", "trouble", "in_reach", *WAIT_COLUMNS)
# What the row and the form of a question show.
_QUESTION_COLUMNS = (
    *("vm_id", "kind", "text", "details", "options", "prefill", "placeholder"),
    *("default", "deadline", "created_at"),
)
LIEUTENANT, QUESTION, UNKNOWN_AGENT, HOST = "lieutenant", "question", "unknown-agent", "host"


def register() -> None:
    """Register the kinds of lieutenants."""
    organ = "lieutenant"
    for key, kind in {
        QUESTION: AttentionKind("questions", find_questions, organ=organ),
        LIEUTENANT: AttentionKind("lieutenants", find_lieutenants, organ=organ),
        UNKNOWN_AGENT: AttentionKind("unknown agents", find_unknown_agents, organ=organ),
        HOST: AttentionKind("hosts", find_hosts, organ=organ),
    }.items():
        attention_kinds.register(kind, key=key)


# -- lieutenants ---------------------------------------------------------------------------------


def find_lieutenants() -> Iterator[Item]:
    """Yield lieutenants in error, held back or silent for too long, and those whose model fails.

    Also those with a tool that reaches its limit.
    """
    now = timezone.now()
    model_fails = Q(status__in=RUNNING) & ~Q(trouble="")
    silent = Q(last_activity_at__lt=now - timedelta(seconds=1))
    # A tool that prints is no sign of its agent, and may reach its limit.
    stalled = Q(status=Status.WORKING) & (silent | Q(next_sign_late_at__lte=now))
    noticed = now - timedelta(seconds=MIN_NOTICED_LIMIT * (1 - LIMIT_NOTICE))
    in_tool = Q(status=Status.WORKING, tool_limit_seconds__gte=MIN_NOTICED_LIMIT)
    in_tool &= Q(waiting_since__lte=noticed)
    held_back = Q(status=Status.PAUSED) & ~Q(error="")
    idle = Q(status=Status.IDLE) & (Q(sign_period_seconds__gt=0) | Q(next_sign_at__isnull=False))
    # Which of the others are silent for too long is decided below, so they must displace no others.
    rows = [
        each
        for suspects in (Q(status=Status.ERROR) | model_fails | held_back, stalled, in_tool, idle)
        for each in Lieutenant.objects.filter(suspects)
        .only(*_COLUMNS)
        .order_by("-status_since")[:MAX_ITEMS]
    ]
    rows = list({each.pk: each for each in rows}.values())
    at_work = [each.pk for each in rows if each.status == Status.WORKING]
    queued = Message.objects.pending().filter(lieutenant__in=at_work)
    with_queue = set(queued.order_by().values_list("lieutenant", flat=True).distinct())
    failed = retrying.failed_messages([each.pk for each in rows if each.status == Status.IDLE])
    for each in rows:
        if item := _problem_of(each, each.pk in with_queue, each.pk in failed):
            yield item


def _problem_of(each: Lieutenant, has_queue: bool, can_retry: bool) -> Item | None:
    """Return the problem of a lieutenant; None if it has none."""
    if each.status == Status.ERROR:
        # What decides about an automatic restart is a question of its own.
        verbs = [("Restart", "restart", False)]
        return _lieutenant(each, "error", each.status_since, each.error, verbs)
    if each.status == Status.PAUSED:
        verbs = [("Resume", "resume", False)]
        return _lieutenant(each, "paused", each.status_since, each.error, verbs)
    if silent := _silence_of(each, has_queue):
        return silent
    if not each.trouble:
        return None
    is_ours = each.is_out_of_reach
    is_ours |= each.trouble.startswith(TROUBLE_PREFIXES)
    has_failed = each.status == Status.IDLE and not is_ours
    verbs = [("Retry", "retry", False)] if has_failed and can_retry else []
    label = "task failed" if has_failed else "has trouble"
    return _lieutenant(each, "stalled", each.status_since, each.trouble, verbs, label)


def _silence_of(each: Lieutenant, has_queue: bool) -> Item | None:
    """Return what is wrong with the silence of a lieutenant; None if nothing is.

    Times are in no text: each person has a zone of their own.
    """
    # Aborting drops queued messages, so the page asks first.
    abort = ("Abort…" if has_queue else "Abort", "abort", has_queue)
    verbs = [abort, ("Restart…", "restart", True)] if each.status == Status.WORKING else []
    waits = f"waiting for {each.waiting_for}" if each.waiting_for else ""
    sign = each.next_sign
    if sign and each.is_overdue and not each.is_out_of_reach:
        text = f"no sign, though it was due: {sign.reason}" + (f" ({waits})" if waits else "")
        return _lieutenant(each, "stalled", sign.late_at, text, verbs, "overdue")
    if each.stalled:
        text = each.trouble or waits or "no output"
        return _lieutenant(each, "stalled", each.silent_since, text, verbs)
    if each.is_near_limit and each.waiting_since:
        is_noted = each.limit_action == LimitAction.NOTE
        end = "which is only noted" if is_noted else "and its answer is aborted then"
        text = f"{each.waiting_for} reaches its limit, {end}"
        return _lieutenant(each, "stalled", each.waiting_since, text, verbs, "near its limit")
    return None


def _buttons(each: Lieutenant, verbs: list[_Verb]) -> list[Button]:
    fields = {"lieutenant": each.pk}
    return [
        Button(label, reverse("lieutenants:act", args=[each.name, verb]), fields, is_link)
        for label, verb, is_link in verbs
    ]


def _lieutenant(
    each: Lieutenant,
    state: str,
    since: datetime,
    text: str,
    verbs: list[_Verb],
    label: str = "",
) -> Item:
    line = first_words(provider_errors.sentence(text) or text, MAX_TEXT)
    return Item(
        kind=LIEUTENANT,
        subject=each.pk,
        name=each.name,
        url=reverse_lazy("lieutenants:detail", args=[each.name]),
        state=state,
        label=label or state,
        since=since,
        text=line,
        group=f"{label or state} {digest(line)}",
        vm_id=each.pk,
        make_buttons=partial(_buttons, each, verbs),
    )


def find_unknown_agents() -> Iterator[Item]:
    """Yield running agents that no follower reads."""
    url = f"{reverse('lieutenants:index')}#unknown-agents"
    for row in UnknownAgent.objects.defer("handle").order_by("-found_at")[:MAX_ITEMS]:
        yield Item(
            kind=UNKNOWN_AGENT,
            subject=f"run:{row.run}",
            name=row.name or row.lieutenant_id,
            url=url,
            state="stalled",
            label="nobody follows it",
            since=row.found_at,
            text=first_words(row.problem or f"{row.why} It runs on {row.host}.", MAX_TEXT),
            group=f"unknown agent {digest(row.why)}",
            make_buttons=partial(_unknown_agent_buttons, row),
        )


def _unknown_agent_buttons(row: UnknownAgent) -> list[Button]:
    if row.request or not row.can_be_taken_up:
        return []
    url = reverse("lieutenants:unknown-agent", args=[row.run, Request.TAKE_UP])
    return [Button("Take up", url)]


def find_questions() -> Iterator[Item]:
    """Yield open questions of agents, with the form that answers them."""
    url = reverse("questions:index")
    rows = Question.objects.open().annotate(asker=F("lieutenant__name")).only(*_QUESTION_COLUMNS)
    for row in rows.order_by("created_at", "id")[:MAX_ITEMS]:
        yield Item(
            kind=QUESTION,
            subject=f"question:{row.pk}",
            name=vars(row)["asker"] or row.vm_id,
            url=f"{url}#q{row.pk}",
            state="stalled",
            label="asks",
            since=row.created_at,
            text=first_words(row.text, MAX_TEXT),
            group=f"question {row.pk}",
            vm_id=row.vm_id,
            template="questions/_inline.html",
            data=row,
        )


# -- hosts ---------------------------------------------------------------------------------------


def find_hosts() -> Iterator[Item]:
    """Yield hosts that do not answer while lieutenants wait for them, and hosts with a rival."""
    for host in list_hosts():
        if host.needs_attention or host.rival:
            yield Item(
                kind=HOST,
                subject=host.id or host.name,
                name=host.name,
                url=reverse("lieutenant-hosts"),
                state="error",
                label="does not answer" if host.needs_attention else "not followed",
                since=host.seen_at or timezone.now(),
                text=_host_text(host),
                group=f"host {host.id or host.name}",
                waiting=max(1, host.lieutenants),
                make_buttons=partial(_host_buttons, host),
            )


def _host_text(host: Host) -> str:
    if not host.needs_attention:
        return host.rival
    remedy = "; start reef's worker here, see logs/worker.log" if host.is_here else ""
    return host.summary + remedy


def _host_buttons(host: Host) -> list[Button]:
    # A data folder cannot take its own lieutenants over, and one that is followed loses none.
    if host.is_here or not host.needs_attention:
        return []
    return [Button("Take over…", reverse("lieutenant-hosts"), is_link=True)]
