"""Rows of every kind in any number, to see what a page costs when there are many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.apps import apps
from django.contrib.auth.models import User
from django.db import models

from bootloader.states import StepName
from lieutenants.models import Entry, Lieutenant
from lieutenants.questions.states import QuestionState
from lieutenants.states import Status
from reef_site.common import clock

BATCH = 5000
# Rows of other apps, of which there is one, or which no page lists.
LEFT_OUT = {
    *("admin.LogEntry", "auth.Permission", "auth.Group", "auth.User", "contenttypes.ContentType"),
    *("sessions.Session", "registry.Watch", "reef_site.Tick", "reef_site.OutsideCall"),
    *("accounts.RequestCount", "accounts.AttemptCount"),
    # One of each person.
    *("accounts.Preferences", "activity.Presence"),
}
# Rows of which another row has only a few.
FEW_OF_EACH = {"bootloader.BootStep", "versconfig.Setting", "lieutenants.ReadMark"}
Facts = Mapping[str, Any]
CONFIG_VALUE: Facts = {"key": "VERS_BASE_URL", "scope": "vm", "clear": "http://a", "sealed": ""}
_ENTRY_KINDS = list(dict.fromkeys((Entry.Kind.TEXT, Entry.Kind.USER, *Entry.Kind)))
# Of each kind of row, the fields that must have other values than the usual ones.
SPECIAL: dict[str, Callable[[int, datetime], Facts]] = {
    "activity.Subscriber": lambda n, _: {
        "channel": "webhook",
        "url": f"https://a.example/{n}",
        "owner": User.objects.order_by("pk").first() if n % 2 else None,
    },
    "bootloader.BootStep": lambda n, _: {"name": StepName.values[n % len(StepName)]},
    "bootloader.JoinRefusal": lambda n, _: {"remote": f"192.0.2.{n}"},
    "bootloader.JoinToken": lambda _, at: {"made_at": at, "expires_at": at + timedelta(days=9999)},
    "bootloader.Machine": lambda n, _: {"provider": "vers", "vm_id": f"vm-{n}"},
    "bootloader.MachineCommand": lambda _, at: {
        "ssh_host": None,
        "overdue_at": at + timedelta(days=9999),
    },
    "bootloader.Finding": lambda n, _: {"provider": "vers", "name": f"machine {n}"},
    "bootloader.Provisioning": lambda n, at: {"vm_id": f"vm-{n}", "batch": "b", "created_at": at},
    "bootloader.SshHost": lambda _, __: {"jump": None},
    # There are pages for a text and for a message.
    "lieutenants.Entry": lambda n, _: {"kind": _ENTRY_KINDS[n % len(_ENTRY_KINDS)]},
    "lieutenants.Lieutenant": lambda n, at: {
        "status": Status.values[n % 5],
        "error": "It broke." if n % 5 == 4 else "",
        "ssh_host": None,
        "created_at": at,
    },
    "lieutenants.Process": lambda n, at: {
        "ended_at": at if n else None,
        "handle": {"agent_pid": n},
    },
    "lieutenants.Question": lambda n, at: {
        "source": "tool",
        "kind": "ask",
        "state": QuestionState.OPEN if n % 2 else QuestionState.ANSWERED,
        "decided_at": None if n % 2 else at,
    },
    "lieutenants.ReadMark": lambda n, _: {"lieutenant": Lieutenant.objects.order_by("pk")[n]},
    "lieutenants.UsageSlot": lambda n, _: {"slot": clock.now() - timedelta(hours=n), "cost": n},
    "operations.Job": lambda n, _: {"state": "done" if n % 2 else "failed"},
    "registry.VM": lambda n, at: {
        "id": f"vm-{n}",
        "status": "running",
        "interval_ms": 60_000,
        "parent_vm_id": f"vm-{n // 10}" if n else None,
        "last_seen": at,
        "late_after": at + timedelta(days=9999 if n % 10 else 0),
        "silent_after": at + timedelta(days=9999 if n % 10 else 0),
    },
    "rules.Rule": lambda _, __: {"event": "vm-late", "action": "note"},
    "versconfig.Setting": lambda _, __: CONFIG_VALUE,
    "versconfig.Version": lambda _, __: CONFIG_VALUE,
    "vmtree.Node": lambda n, at: {"vm_id": f"vm-{n}", "category": "swarm_vm", "created_at": at},
    "vmtree.OperatorToken": lambda _, __: {"subtree": None},
    "vmtree.Snapshot": lambda n, at: {
        "state": "ready",
        "at": at,
        "sha256": f"{n:064}",
        "hour": None,
        "counts": {"nodes": 1},
    },
}


class Population:
    """Adds rows of each kind. Every second row belongs to the first row of another kind, whose
    page then shows many.
    """

    def __init__(self) -> None:
        self._keys: dict[type[models.Model], list[Any]] = {}

    def grow(self, count_of: Callable[[type[models.Model]], int]) -> None:
        """Add rows of every kind up to these numbers."""
        for model in _in_order(all_models()):
            self._fill(model, count_of(model))

    def _fill(self, model: type[models.Model], count: int) -> None:
        number = len(self._keys_of(model))
        for field in model._meta.concrete_fields:
            if field.is_relation and field.unique:
                # There may be fewer accounts.
                count = min(count, len(self._keys_of(_related_model(field))))
        while number < count:
            # The first row is the parent of others.
            stop = min(number + BATCH if number else 1, count)
            model._default_manager.bulk_create(self._row(model, n) for n in range(number, stop))
            number = stop
            self._keys.pop(model, None)

    def _keys_of(self, model: type[models.Model]) -> list[Any]:
        if model not in self._keys:
            keys = model._default_manager.order_by("pk").values_list("pk", flat=True)
            self._keys[model] = list(keys)
        return self._keys[model]

    def _row(self, model: type[models.Model], number: int) -> models.Model:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
        special = SPECIAL.get(model._meta.label)
        given = dict(special(number, at)) if special else {}
        for field in model._meta.concrete_fields:
            if field.name in given or isinstance(field, models.AutoField):
                continue
            if field.is_relation:
                given[field.attname] = self._related(field, number)
            elif field.primary_key or _needs_value(field):
                given[field.name] = _value(field, number, at)
        return model(**given)

    def _related(self, field: models.Field[Any, Any], number: int) -> Any:
        model = _related_model(field)
        keys = self._keys_of(model)
        if model is field.model:
            return keys[min(number // 10, len(keys) - 1)] if keys else None
        is_first = number % 2 and not _is_limited(field)
        return keys[0 if is_first else number % len(keys)]


def all_models() -> list[type[models.Model]]:
    """Return the kinds of rows that grow."""
    return [each for each in apps.get_models() if each._meta.label not in LEFT_OUT]


def _in_order(found: Iterable[type[models.Model]]) -> Iterator[type[models.Model]]:
    """Yield each kind after those that its rows belong to."""
    left = list(found)
    while left:
        ready = [each for each in left if not _parents(each) & set(left) - {each}]
        assert ready, left
        yield from ready
        left = [each for each in left if each not in ready]


def _parents(model: type[models.Model]) -> set[Any]:
    return {field.related_model for field in model._meta.concrete_fields if field.is_relation}


def _related_model(field: models.Field[Any, Any]) -> type[models.Model]:
    model = field.related_model
    assert isinstance(model, type)
    return model


def _is_limited(field: models.Field[Any, Any]) -> bool:
    """Return whether a related row has only a few of these rows."""
    names = {
        tuple(each.fields)
        for each in field.model._meta.constraints
        if isinstance(each, models.UniqueConstraint)
    }
    return field.unique or (field.name,) in names or field.model._meta.label in FEW_OF_EACH


def _needs_value(field: models.Field[Any, Any]) -> bool:
    return not (field.null or field.blank or field.has_default()) or field.name == "name"


def _value(field: models.Field[Any, Any], number: int, at: datetime) -> Any:
    """Return a value for a field of this row; keys are in the order of their rows."""
    if isinstance(field, models.UUIDField):
        return UUID(int=number + 1)
    if field.primary_key:
        return f"{number:026}"
    if field.choices:
        values = [value for value, _ in field.flatchoices]
        return values[number % len(values)]
    for kind, value in _values(field, number, at):
        if isinstance(field, kind):
            return value
    raise NotImplementedError(f"{field.model._meta.label}.{field.name}")


def _values(
    field: models.Field[Any, Any], number: int, at: datetime
) -> list[tuple[type[models.Field[Any, Any]], Any]]:
    """Return values for the kinds of fields; one comes before those that it is derived from."""
    return [
        (models.DateTimeField, at),
        (models.DateField, at.date()),
        (models.BooleanField, False),
        (models.JSONField, {}),
        (models.BinaryField, b"an image"),
        (models.IntegerField, number),
        (models.FloatField, float(number)),
        (models.CharField, f"{field.name} {number}"),
        (models.TextField, f"{field.name} {number}"),
    ]
