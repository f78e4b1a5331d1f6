"""Go back to before a message: the agent continues a copy of its session that ends there.

The agent does it with its own commands; its earlier session file is kept. `request_rewind` stores
the request, and the follower carries it out, see `sessions/rules/rewinding.py`. No message is sent
meanwhile.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone

from lieutenants import membership
from lieutenants.agents import dialect_of
from lieutenants.exceptions import LieutenantNotFound, NotNow, NotSupported
from lieutenants.models import Entry, Lieutenant
from lieutenants.sessions.inputs import RewindCheck
from lieutenants.states import Status
from reef_site.common import events
from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable
from vmtree import permissions
from vmtree.permissions import Action

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

logger = logging.getLogger(__name__)

# -- requests --------------------------------------------------------------------------------


def request_rewind(
    name: str, *, actor: object, message_id: str = "", entry_id: int | None = None
) -> tuple[Lieutenant, Entry]:
    """Request that an idle lieutenant goes back to before a message.

    Return the lieutenant and the message's entry. The message is given by its id or by its
    transcript entry; the default is the first one that failed. Raises NotFound, Forbidden,
    NotNow, BadInput.
    """
    with transaction.atomic():
        found = Lieutenant.objects.select_for_update().active().filter(name=name).first()
        if found is None:
            raise LieutenantNotFound(name)
        permissions.check(actor, Action.COMMAND, membership.vm_id_of(found))
        if not dialect_of(found).features.rewind:
            raise NotSupported(f"The agent '{found.agent}' cannot go back to before a message")
        if found.status == Status.WORKING:
            raise NotNow(f"Lieutenant '{name}' is working. Abort its answer first.")
        if found.status != Status.IDLE:
            raise NotNow(
                f"Lieutenant '{name}' has no running agent (status: {found.status}). Start it "
                "first (resume or restart)."
            )
        entry = find_target(found, message_id=message_id, entry_id=entry_id)
        Lieutenant.objects.filter(pk=found.pk).update(
            rewind_to=entry.pk, rewind_asked_at=timezone.now()
        )
        events.wake_follower(found.pk)
    logger.info("%s: going back to before entry %s requested by %s", name, entry.pk, actor)
    return found, entry


def find_target(
    lieutenant: Lieutenant, *, message_id: str = "", entry_id: int | None = None
) -> Entry:
    """Return the entry of the message to go back to before, see `request_rewind`.

    Raises BadInput.
    """
    mine = lieutenant.entries.filter(kind=Entry.Kind.USER).order_by("-id")
    if message_id:
        if not is_storable(message_id):
            raise BadInput("messageId: has characters that are no text", "messageId")
        entry = mine.filter(message_id=message_id).first()
        field, wanted = "messageId", f"'{message_id[:40]}' is not a message that its agent took up"
    elif entry_id is not None:
        entry = mine.filter(pk=entry_id).first()
        field, wanted = "entryId", f"{entry_id} is not a message in its transcript"
    elif known := lieutenant.failures.get("entry"):
        entry = mine.filter(pk=known).first()
        field, wanted = "entryId", "the message since which requests fail is gone"
    else:
        raise BadInput("messageId or entryId is required", "messageId")
    if entry is None:
        raise BadInput(f"{field}: {wanted}", field)
    if entry.data.get("rewound") or "command" in entry.data:
        raise BadInput(f"{field}: this message is not in the agent's session", field)
    return entry


# -- execution -------------------------------------------------------------------------------


def advance(session: Session, row: Lieutenant, clock: float) -> None:
    """Begin a requested rewind, or continue one whose last command got no reply."""
    mark = str(int(time.time() * 1000))
    session.handle(RewindCheck(clock, mark, row.rewind_to))
