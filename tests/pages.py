"""Addresses of all pages, from the table of routes and for rows of `tests.populations`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from bootloader.models import Finding, JoinToken, MachineCommand, Provisioning
from lieutenants.models import Entry, Lieutenant, MessageImage, Question, UnknownAgent
from reef_site.activity.models import Delivery, Subscriber
from reef_site.lists.models import BulkRun, SavedFilter
from registry.rules.models import Rule
from versconfig.keys import ALL
from versconfig.models import Version
from vmtree.models import Node

# Pages that show no rows, or that lead to another page.
LEFT_OUT = {
    *("outside-call", "signin", "signin-link", "signin-again", "lieutenants:by-id", "docs:page"),
    # They lead to the page of a VM, or need a VM without a place in the tree.
    *("access:by-id", "fleet:by-id", "fleet:registered", "fleet:registered-facts"),
    # Part of the page of a command, with a status that ends its polling.
    "bootloader:command_part",
    # They read a snapshot's file.
    *("fleet:snapshot-compare", "fleet:snapshot-restore", "fleet:snapshot-download"),
}
QUERIES = {
    "lieutenants:entries": "?ids=1,2,3,4,5,6,7,8,9,10,11,12",
    "lieutenants:find": "?q=e",
    "lieutenants:changed-file": "?path=a.py",
}


def page_addresses() -> dict[str, str]:
    """Return the addresses of the pages and of their parts, by the names of their routes."""
    values = _values()
    found = {}
    for name, pattern in _routes(get_resolver().url_patterns):
        if name not in LEFT_OUT:
            given = values.get(name, values.get(name.split(":")[0], {}))
            words = {word: given.get(word) for word in pattern.pattern.regex.groupindex}
            assert None not in words.values(), f"{name}: no values for {words}"
            found[name] = reverse(name, kwargs=words) + QUERIES.get(name, "")
    return found


def admin_addresses() -> dict[str, str]:
    """Return the addresses of the lists of the admin, by their names."""
    names = [
        f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        for model in admin.site._registry
    ]
    return {name: reverse(name) for name in names}


def _values() -> dict[str, dict[str, Any]]:
    """Return values of parameters, by the names of routes or by their namespaces."""
    lieutenant = Lieutenant.objects.order_by("pk")[0]
    of_lieutenant = {
        "pk": lieutenant.pk,
        "name": lieutenant.name,
        "verb": "destroy",
        "entry_id": _first(Entry.objects.filter(lieutenant=lieutenant)),
    }
    image = MessageImage.objects.order_by("pk")[0]
    of_image = {"message_id": image.message_id, "number": image.number}
    return {
        "access": {"key": _first(Node.objects.all())},
        "bootloader": {
            "pk": _first(Provisioning.objects.all()),
            "command_id": _first(MachineCommand.objects.all()),
        },
        "bootloader:decide": {"pk": _first(Finding.objects.all())},
        "bootloader:void": {"pk": _first(JoinToken.objects.all())},
        "event-log": {
            "subscriber_id": _first(Subscriber.objects.filter(owner=None)),
            "delivery_id": _first(Delivery.objects.all()),
            "action": "pause",
        },
        "fleet": {"key": _first(Node.objects.all())},
        "lieutenant-hosts-adopt": {"name": lieutenant.host},
        "lieutenants": of_lieutenant | of_image,
        "lieutenants:rewind-to": {
            "name": lieutenant.name,
            "entry_id": _first(Entry.objects.filter(lieutenant=lieutenant, kind=Entry.Kind.USER)),
        },
        "lieutenants:unknown-agent": {"run": _first(UnknownAgent.objects.all()), "verb": "end"},
        "lists": {
            "name": "lieutenants",
            "filter_id": _first(SavedFilter.objects.all()),
            "run_id": _first(BulkRun.objects.all()),
            "action": "pause",
        },
        "notifications": {
            "channel_id": _first(Subscriber.objects.exclude(owner=None)),
            "action": "on",
        },
        "rules": {"rule_id": _first(Rule.objects.all()), "action": "on"},
        "questions": {"pk": _first(Question.objects.all())},
        "versconfig": {
            "name": next(iter(ALL)),
            "version_id": _first(Version.objects.all()),
            "verb": "undo",
        },
    }


def _first(rows: QuerySet[Any]) -> Any:
    return rows.order_by("pk").values_list("pk", flat=True)[0]


def _routes(
    patterns: Sequence[URLPattern | URLResolver], namespace: str = ""
) -> Iterator[tuple[str, URLPattern]]:
    """Yield pages with their names. The views of the API are classes."""
    for each in patterns:
        if isinstance(each, URLResolver):
            if each.app_name != "admin":
                inner = f"{namespace}{each.namespace}:" if each.namespace else namespace
                yield from _routes(each.url_patterns, inner)
        elif each.name and not hasattr(each.callback, "cls"):
            yield f"{namespace}{each.name}", each
