"""Send messages again: that of a turn that failed or was aborted, or one that no turn had."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db.models import Exists, OuterRef, QuerySet, Value
from django.db.models.functions import Concat

from lieutenants import membership, services
from lieutenants.exceptions import NotNow
from lieutenants.messages import images
from lieutenants.models import Answer, Lieutenant, Message
from lieutenants.states import MessageState, Outcome
from lieutenants.transcript.last_turns import last_turns
from reef_site.common import clock
from reef_site.common.errors import Conflict
from vmtree import permissions
from vmtree.permissions import Action

# A message that is sent again has this and the id of the first one as its idempotency key.
AGAIN = "again-"
# How long pages offer to send a message again; the API always does.
OFFERED_FOR = timedelta(days=1)
FAILED = frozenset({Outcome.ERROR, Outcome.ABORTED, Outcome.INTERRUPTED})


def failed_messages(lieutenants: Sequence[str]) -> dict[str, str]:
    """Map lieutenants whose newest turn did not complete to the ids of its messages."""
    turns = last_turns(lieutenants)
    return {
        pk: turn.message_id
        for pk, turn in turns.items()
        if turn.outcome in FAILED and turn.message_id
    }


def can_retry(lieutenant: Lieutenant) -> bool:
    """Return whether the newest turn did not complete and its message can be sent again."""
    return bool(failed_messages([lieutenant.pk]))


def retry(name: str, *, actor: object) -> Message:
    """Send the message of the newest turn again; a second request for the same turn does nothing.

    Raises NotNow if the newest turn has not failed, and whatever `services.send` raises.
    """
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    turn: Answer | None = last_turns([lieutenant.pk]).get(lieutenant.pk)
    if turn is None or turn.outcome not in FAILED or turn.message is None:
        raise NotNow(f"The newest task of '{name}' has not failed, so there is nothing to retry.")
    message, _ = services.send(
        name,
        turn.message.text,
        key=f"retry-{turn.pk}",
        actor=actor,
        images=images.load(turn.message.pk),
    )
    return message


def send_again(name: str, message_id: str, *, actor: object) -> Message:
    """Send a message that was withdrawn or refused again, with its text, mode and images.

    Return the new message; a repeated request returns the same one. Raises NotFound, Forbidden,
    Conflict if the message waits or was begun, and whatever `services.send` raises.
    """
    lieutenant = services.find_any(name)
    permissions.check(actor, Action.SEND, membership.vm_id_of(lieutenant))
    old = services.find_message(lieutenant, message_id)
    if old.state != MessageState.REJECTED:
        is_begun = old.taken_up_at is not None
        what = "the agent has begun with it" if is_begun else "it still waits for the agent"
        raise Conflict(f"message: cannot be sent again, {what}")
    message, _ = services.send(
        name,
        old.text,
        mode=old.mode_asked,
        key=f"{AGAIN}{old.pk}",
        actor=actor,
        images=images.load(old.pk),
    )
    return message


def offered_again(lieutenant: Lieutenant) -> QuerySet[Message]:
    """Return the messages that were withdrawn or refused lately, and not sent again."""
    key = Concat(Value(AGAIN), OuterRef("pk"))
    sent_again = Message.objects.filter(lieutenant=lieutenant, idempotency_key=key)
    lately = clock.now() - OFFERED_FOR
    rows = lieutenant.messages.filter(state=MessageState.REJECTED, decided_at__gte=lately)
    return rows.exclude(Exists(sent_again)).order_by("-decided_at", "-id")
