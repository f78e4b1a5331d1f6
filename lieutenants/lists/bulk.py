"""Actions on many lieutenants: what a plan says of each, and what a worker does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.db.models import Count, QuerySet
from django.http import QueryDict
from django.urls import reverse

from lieutenants import membership, services
from lieutenants.actions import ACTIONS, LieutenantAction
from lieutenants.exceptions import NotNow
from lieutenants.lists import filters
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Status
from reef_site.common.errors import NotFound
from reef_site.common.lists.bulk import (
    BulkAction,
    BulkList,
    Person,
    PlannedRow,
    Result,
    Turn,
    bulk_lists,
)
from vmtree import permissions
from vmtree.permissions import Action

# What each action does, and what the person must be permitted to do.
_ACTIONS = {
    "pause": ("Stop the agent and keep its session", Action.COMMAND),
    "resume": ("Start the agent with its session", Action.START),
    "abort": ("Abort the running answer", Action.COMMAND),
    "restart": ("Stop the agent and start it again with its session", Action.START),
    "destroy": ("End the lieutenant for good; its transcript stays", Action.DESTROY),
}
_DROPS = re.compile(r"drops (\d+) queued")
_GONE = "does not exist any more"


def register() -> None:
    """Register the list."""
    bulk_lists.register(
        BulkList(
            key="lieutenants",
            noun="lieutenants",
            url_name="lieutenants:index",
            find=_find,
            url_of=lambda pk: reverse("lieutenants:by-id", args=[pk]),
            actions={each.key: each for each in (*_commands(), _sending())},
            presets=(("Needs me", "q=needs-me"), ("Working", "q=working"), ("Failed", "q=failed")),
            organ="lieutenant",
        ),
        key="lieutenants",
    )


def _find(values: QueryDict, person: Person) -> QuerySet[Any, Any]:
    return filters.find(values, person).order_by("name", "pk").values_list("pk", flat=True)


def _commands() -> list[BulkAction]:
    return [
        BulkAction(
            key=name,
            label=ACTIONS[name].label,
            plan=partial(_plan_command, ACTIONS[name]),
            run=partial(_run_command, ACTIONS[name]),
            is_destructive=ACTIONS[name].destructive,
        )
        for name in _ACTIONS
    ]


def _plan_command(action: LieutenantAction, pks: Sequence[str], person: Person) -> list[PlannedRow]:
    does, right = _ACTIONS[action.name]
    queued = _queued_messages(pks) if action.drops_queued or action.destructive else {}

    def plan(row: Lieutenant) -> tuple[str, str]:
        if row.status not in action.when:
            return f"is {row.status}", ""
        return "", _warning(action, row.status, queued.get(row.pk, 0))

    return _planned(pks, person, does, right, plan)


def _planned(
    pks: Sequence[str],
    person: Person,
    does: str,
    right: Action,
    plan: Callable[[Lieutenant], tuple[str, str]],
) -> list[PlannedRow]:
    """Return a row for each lieutenant; `plan` returns why it is refused, and a warning."""
    known = Lieutenant.objects.in_bulk(list(pks))
    found = []
    for pk in pks:
        row = known.get(pk)
        if row is None:
            found.append(PlannedRow(pk, "", does, refused=_GONE))
            continue
        refused, warning = plan(row)
        if not permissions.may(person, right, membership.vm_id_of(row)):
            refused = f"you may not {right} it"
        found.append(PlannedRow(pk, row.name, does, refused, "" if refused else warning))
    return found


def _queued_messages(pks: Sequence[str]) -> dict[str, int]:
    """Map lieutenants to the number of their queued messages."""
    rows = Message.objects.pending().filter(lieutenant__in=pks).order_by().values("lieutenant")
    return dict(rows.annotate(count=Count("pk")).values_list("lieutenant", "count"))


def _warning(action: LieutenantAction, status: str, queued: int) -> str:
    """Return what is lost by the action; empty if nothing is."""
    parts = []
    if status == Status.WORKING and action.name in ("pause", "restart", "destroy"):
        parts.append("aborts the running answer")
    if queued and (action.drops_queued or action.destructive):
        parts.append(f"drops {queued} queued message{'s' if queued > 1 else ''}")
    return " and ".join(parts)


def _run_command(action: LieutenantAction, turn: Turn, person: Person) -> Result:
    row = _find_active(turn)
    is_counted = action.drops_queued or action.destructive
    queued = row.messages.pending().count() if is_counted else 0
    warning = _warning(action, row.status, queued)
    if _loses_more(warning, turn.warning):
        raise NotNow(f"{row.name}: this {warning} by now. Plan it again.")
    return Result(action.act(row.name, person, True).removeprefix(f"{row.name}: "))


def _loses_more(now: str, confirmed: str) -> bool:
    """Return whether more is lost than in the warning that was confirmed."""
    if "aborts" in now and "aborts" not in confirmed:
        return True
    return _dropped(now) > _dropped(confirmed)


def _dropped(warning: str) -> int:
    found = _DROPS.search(warning)
    return int(found[1]) if found else 0


def _find_active(turn: Turn) -> Lieutenant:
    """Return and lock the planned lieutenant; its name may belong to another one by now."""
    row = Lieutenant.objects.active().select_for_update().filter(pk=turn.target).first()
    if row is None:
        raise NotFound("it was destroyed before")
    return row


# -- sending -------------------------------------------------------------------------------------


def _sending() -> BulkAction:
    return BulkAction("send", "Send a message", _plan_message, _send, needs_text=True)


def _plan_message(pks: Sequence[str], person: Person) -> list[PlannedRow]:
    return _planned(pks, person, "Send the message", Action.SEND, _plan_one_message)


def _plan_one_message(row: Lieutenant) -> tuple[str, str]:
    is_refused = row.status in (Status.PAUSED, Status.DESTROYED)
    is_refused |= row.status == Status.ERROR and row.restart_at is None
    if is_refused:
        return f"is {row.status}", ""
    is_later = row.status != Status.IDLE
    return "", f"waits: it is {row.status}" if is_later else ""


def _send(turn: Turn, person: Person) -> Result:
    row = _find_active(turn)
    message, _ = services.send(row.name, turn.text, key=turn.key, actor=person)
    return Result(message.note or "sent")
