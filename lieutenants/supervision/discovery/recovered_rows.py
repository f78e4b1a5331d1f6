"""Insertion of lieutenants for agents that were found running."""

from __future__ import annotations

import re
from collections.abc import Callable

from django.db import IntegrityError, transaction

from lieutenants import membership
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from lieutenants.supervision import made_vms
from lieutenants.supervision.discovery.machines import NamedPlace
from vmtree.models import Node

_MAX_NAME = 64
_MAX_NUMBER = 100


def name_from(*candidates: object) -> str:
    """Return the first of these texts from which a lieutenant's name can be made."""
    for text in candidates:
        words = re.sub(r"[^A-Za-z0-9._-]+", "-", text) if isinstance(text, str) else ""
        if found := words.strip("._-")[:_MAX_NAME]:
            return found
    return "recovered"


def insert(
    place: NamedPlace,
    build: Callable[[str], Lieutenant],
    name: str,
    *,
    reason: str,
    actor: str = "reef",
) -> Lieutenant:
    """Insert the lieutenant that `build` returns for a name, with its memberships.

    One of an active lieutenant's name gets a number. The caller has locked the machine. Raises
    NotNow if its VM is being deleted, IntegrityError.
    """
    made_vms.check_stays(place.place.vm_id)
    name = name_from(name)
    node = Node.objects.active().filter(vm_id=place.place.vm_id).first()
    for number in range(1, _MAX_NUMBER):
        row = build(name if number == 1 else f"{name[:60]}-{number}")
        try:
            with transaction.atomic():
                row.save(force_insert=True)
                row.moves.create(old="", new=Status.STARTING, reason=reason, actor=actor)
                membership.register(row, actor=actor, parent=node)
        except IntegrityError:
            continue
        return row
    raise IntegrityError(f"all names like {name} are taken")
