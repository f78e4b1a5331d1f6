"""Lieutenants in the palette: go to one, or to a page that asks before an action on one."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Q
from django.urls import reverse

from lieutenants.actions import ACTIONS, LieutenantAction
from lieutenants.models import Lieutenant
from reef_site.common.palette import MAX_ENTRIES, Entry
from reef_site.common.text import first_words
from vmtree import permissions

# Actions are listed of so many lieutenants.
MAX_TARGETS = 2
_HINT_LENGTH = 60


def entries(user: AbstractBaseUser | AnonymousUser, words: str) -> Iterator[Entry]:
    """Yield lieutenants whose names, roles or folders contain the words, and their actions.

    The words may begin with an action, as in "pause ada".
    """
    if "lieutenant" not in settings.ORGANS:
        return
    verb, _, rest = words.partition(" ")
    wanted = [each for each in ACTIONS.values() if verb and each.name.startswith(verb.lower())]
    if wanted:
        for lieutenant in _found(rest.strip()):
            yield from _actions(user, lieutenant, wanted)
    found = _found(words)
    for lieutenant in found:
        hint = f"{lieutenant.status} · {first_words(lieutenant.role, _HINT_LENGTH)}"
        url = reverse("lieutenants:detail", args=[lieutenant.name])
        yield Entry("Lieutenants", lieutenant.name, url, hint)
    if words:
        for lieutenant in found[:MAX_TARGETS]:
            yield from _actions(user, lieutenant, list(ACTIONS.values()))


def _found(words: str) -> list[Lieutenant]:
    rows = Lieutenant.objects.active().defer("system_prompt", "directive")
    for word in words.split():
        part = Q(name__icontains=word) | Q(role__icontains=word) | Q(folder__icontains=word)
        rows = rows.filter(part)
    return list(rows.order_by("-last_activity_at")[:MAX_ENTRIES])


def _actions(
    user: AbstractBaseUser | AnonymousUser, lieutenant: Lieutenant, wanted: list[LieutenantAction]
) -> Iterator[Entry]:
    if permissions.is_read_only_account(user):
        return
    for action in wanted:
        if action.is_available(lieutenant):
            url = reverse("lieutenants:act", args=[lieutenant.name, action.name])
            label = f"{action.label} {lieutenant.name}…"
            yield Entry("Actions", label, url, lieutenant.status, action.destructive)
