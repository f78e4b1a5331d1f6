"""Find lieutenants and their messages by what requests call them."""

from __future__ import annotations

from lieutenants import membership
from lieutenants.exceptions import LieutenantNotFound
from lieutenants.models import Lieutenant, Message
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.text import is_storable
from vmtree import ids, permissions
from vmtree.permissions import Action


def find(name: str, *, missing: str = "Lieutenant not found") -> Lieutenant:
    """Return the active lieutenant of this name. Raises NotFound with the given text."""
    lieutenant = Lieutenant.objects.active().filter(name=name).first()
    if lieutenant is None:
        raise NotFound(missing)
    return lieutenant


def name_of(name: str) -> str:
    """Return the name for a lieutenant's `vmId` as the API shows it; other names are unchanged."""
    if not name.startswith(ids.LOCAL) or Lieutenant.objects.filter(name=name).exists():
        return name
    return name.removeprefix(ids.LOCAL)


def find_any(name_or_id: str) -> Lieutenant:
    """Return the active lieutenant of this name, else the one of this id, even if it is destroyed.

    Transcripts stay readable for good. Raises NotFound.
    """
    living = Lieutenant.objects.active().filter(name=name_or_id).first()
    return living or Lieutenant.objects.filter(pk=name_or_id).first() or find(name_or_id)


def find_message(lieutenant: Lieutenant, message_id: str) -> Message:
    """Return the lieutenant's message of this id. Raises NotFound."""
    message = lieutenant.messages.filter(pk=message_id).first() if is_storable(message_id) else None
    if message is None:
        raise NotFound("Message not found")
    return message


def find_cursor(lieutenant: Lieutenant, cursor: str) -> Message:
    """Return the last message of the previous page. Raises BadInput."""
    try:
        return find_message(lieutenant, cursor)
    except NotFound:
        raise BadInput("cursor: must be the `next` of an earlier page", "cursor") from None


def permitted(name: str, actor: object, action: Action) -> Lieutenant:
    """Return the active lieutenant of this name. Raises NotFound, Forbidden."""
    lieutenant = find(name, missing=str(LieutenantNotFound(name)))
    permissions.check(actor, action, membership.vm_id_of(lieutenant))
    return lieutenant


def vm_id_of(name: str) -> str:
    """Return the VM id of the active lieutenant of this name; empty if there is none."""
    found = Lieutenant.objects.active().filter(name=name).first() if is_storable(name) else None
    return membership.vm_id_of(found) if found else ""
