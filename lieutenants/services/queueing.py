"""Change, move and withdraw messages that wait in a lieutenant's queue."""

from __future__ import annotations

import logging

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from lieutenants import membership
from lieutenants.exceptions import TooLate
from lieutenants.messages import delivery
from lieutenants.models import Lieutenant, Message
from lieutenants.services.lookup import find_any, find_message, vm_id_of
from lieutenants.services.sending import checked_text, covered_note, joined_notes
from lieutenants.services.transitions import actor_name, record
from reef_site.common import events
from reef_site.common.batches import BATCH_SIZE
from reef_site.common.errors import BadInput
from versconfig.screening import sources
from vmtree import permissions
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

CHANGED_BY = "changed by {}"


def withdraw(name: str, message_id: str, *, actor: object) -> Message:
    """Withdraw a queued message. Withdrawing it again does nothing.

    Raises NotFound, Forbidden, TooLate.
    """
    lieutenant = find_any(name)
    permissions.check(actor, Action.COMMAND, membership.vm_id_of(lieutenant))
    message = find_message(lieutenant, message_id)
    note = delivery.WITHDRAWN_BY.format(actor_name(actor))
    if delivery.withdraw(message.pk, note, timezone.now()):
        events.publish_lieutenant(lieutenant.pk)
        logger.info("%s: message %s withdrawn by %s", lieutenant.name, message.pk, actor)
    message.refresh_from_db()
    if not delivery.is_withdrawn(message):
        what = delivery.why_too_late(message)
        raise TooLate(f"message: cannot be withdrawn, {what}")
    return message


def change(
    name: str,
    message_id: str,
    *,
    text: str | None = None,
    position: int | None = None,
    actor: object,
) -> Message:
    """Change the text of a queued message, or its position among those that can be moved (from 1).

    A position beyond the end is the last one. Secrets in the text are covered, as in `send`.
    Raises BadInput, TooLarge, NotFound, Forbidden, TooLate.
    """
    if text is None and position is None:
        raise BadInput("body: must have text or position")
    lieutenant = find_any(name)
    vm_id = membership.vm_id_of(lieutenant)
    permissions.check(actor, Action.COMMAND, vm_id)
    if text is not None:
        permissions.check(actor, Action.SEND, vm_id)
    message = find_message(lieutenant, message_id)
    with transaction.atomic():
        # Two people who sort the same queue wait for each other.
        Lieutenant.objects.select_for_update().get(pk=lieutenant.pk)
        message.refresh_from_db()
        if text is not None:
            _change_text(lieutenant, message, checked_text(text, "text"), actor)
        if position is not None:
            _move(lieutenant, message, position)
        events.publish_lieutenant(lieutenant.pk)
    message.refresh_from_db()
    return message


def _movable(lieutenant_id: str) -> QuerySet[Message]:
    return Message.objects.filter(lieutenant=lieutenant_id).not_sent()


def _change_text(lieutenant: Lieutenant, message: Message, text: str, actor: object) -> None:
    names = set[str]()
    text = sources.for_node(vm_id_of(lieutenant.name), recheck=True).cover(text, names)
    changed = CHANGED_BY.format(actor_name(actor))
    note = message.note
    if f"; {changed}; " not in f"; {note}; ":
        # The end of a long note is cut off.
        note = joined_notes(changed, note)
    rows = _movable(lieutenant.pk).filter(pk=message.pk)
    # A repeated request is compared with what was sent at first.
    sent = message.sent_digest or Message.digest_of(message.text)
    if not rows.update(text=text, note=covered_note(note, names), sent_digest=sent):
        raise _too_late(message)
    record("message_changed", lieutenant, actor, messageId=message.pk)
    logger.info("%s: message %s changed by %s", lieutenant.name, message.pk, actor)


def _move(lieutenant: Lieutenant, message: Message, position: int) -> None:
    """Number all pending messages again, below 0, so that new ones come after them."""
    movable = list(Message.objects.positions(lieutenant.pk))
    if message.pk not in movable:
        raise _too_late(message)
    movable.remove(message.pk)
    movable.insert(position - 1, message.pk)
    pending = lieutenant.messages.pending().in_queue_order().values_list("pk", flat=True)
    # If their agent ends, those that it has not begun are queued again, at the front.
    sent = [pk for pk in pending if pk not in set(movable)]
    order = [*sent, *movable]
    places = {pk: place for place, pk in enumerate(order, start=-len(order))}
    own = places.pop(message.pk)
    if not _movable(lieutenant.pk).filter(pk=message.pk).update(place=own):
        raise _too_late(message)
    others = [Message(pk=pk, place=place) for pk, place in places.items()]
    Message.objects.bulk_update(others, ["place"], BATCH_SIZE)


def _too_late(message: Message) -> TooLate:
    message.refresh_from_db()
    if delivery.is_withdrawn(message):
        what = "it has been withdrawn"
    else:
        what = delivery.why_too_late(message)
    return TooLate(f"message: cannot be changed, {what}")
