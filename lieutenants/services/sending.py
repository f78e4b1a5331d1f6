"""Send messages to lieutenants."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.conf import settings
from django.db import transaction

from bootloader.grants import budgets
from lieutenants import membership
from lieutenants.agents import dialect_of
from lieutenants.exceptions import KeyReused, LieutenantNotFound, NotNow, TooLarge
from lieutenants.hosts import liveness
from lieutenants.messages import images as message_images
from lieutenants.messages.images import NewImage
from lieutenants.models import Lieutenant, Message
from lieutenants.services.transitions import actor_name, record
from lieutenants.states import Mode, Status
from lieutenants.usage.spending import Reading
from reef_site.common import events
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.text import is_storable
from versconfig.screening import sources
from versconfig.screening.screen import Screen
from vmtree import permissions
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

FOLLOW_UP_NOTE = "auto-queued as follow-up since lieutenant is working"
NO_STEERING_NOTE = "sent as follow-up since the agent '{}' cannot be steered"
PROMPT_NOTE = "sent as prompt since lieutenant is idle"
STARTING_NOTE = "queued until the lieutenant is ready"
RESTARTING_NOTE = "queued until the lieutenant is running again"
UNREACHABLE_NOTE = "waits: its machine or supervisor cannot be reached"
COVERED_NOTE = "a secret was covered before this was stored; the agent gets it with {}"


@budgets.recording_refusals()
def send(
    name: str,
    text: object,
    *,
    mode: object = None,
    key: str = "",
    actor: object = "",
    images: Sequence[NewImage] = (),
    action: Action = Action.SEND,
) -> tuple[Message, bool]:
    """Queue a message; return it and whether it is new.

    The same idempotency key returns the same message if text, mode and images are equal; otherwise
    KeyReused is raised. Secrets in the text are covered; the agent gets the covered text, and a
    note says so. `action` is what the actor must be permitted to do.

    Raises BadInput, TooLarge, NotFound, Forbidden, BudgetUsedUp, NotNow.
    """
    text, requested = checked_text(text), _message_mode(mode)
    message_images.check(images)
    spent = _read_spent(name)
    screen, names = sources.for_node(spent.vm_id, recheck=True), set[str]()
    text = screen.cover(text, names)
    if len(key) > 200 or not is_storable(key):
        raise BadInput("Idempotency-Key: at most 200 characters")
    with transaction.atomic():
        lieutenant = _locked(name, actor, action)
        if key and (known := lieutenant.messages.filter(idempotency_key=key).first()):
            is_same = _has_text(known, text, screen) and known.mode_asked == requested
            if not is_same or not message_images.are_equal(known, images):
                raise KeyReused("Idempotency-Key: was used for another message")
            return known, False
        if images:
            message_images.check_accepted(lieutenant)
        actual, note = _effective_mode(lieutenant, requested)
        silent = liveness.silent_host_of(lieutenant)
        note = _add_waiting_note(note, lieutenant, silent)
        if not (actual == Mode.STEER and lieutenant.status == Status.WORKING):
            # An agent that is not working begins with what should steer it.
            vm_id = membership.vm_id_of(lieutenant)
            checked = budgets.check(actor, action, vm_id, known=spent.now(vm_id))
            note = joined_notes(note, checked)
        message = Message.objects.create(
            lieutenant=lieutenant,
            text=text,
            mode=actual,
            mode_asked=requested,
            note=covered_note(note, names),
            actor=actor_name(actor),
            idempotency_key=key or None,
        )
        message_images.store(message, images)
        record("message", lieutenant, actor, messageId=message.pk, mode=actual.value)
        # Nothing works on it yet on a host that does not respond: the follower moves it later.
        _count_and_move(lieutenant, actual, actor, may_move=not silent)
        events.wake_follower(lieutenant.pk)
    return message, True


def _has_text(message: Message, text: str, screen: Screen) -> bool:
    """Return whether the message was sent with this text, which has no secrets any more."""
    if message.sent_digest:
        # Its text was changed in the queue.
        return message.sent_digest == Message.digest_of(text)
    return screen.cover(message.text) == text


def checked_text(text: object, field: str = "message") -> str:
    """Return the text of a message that came in this field. Raises BadInput, TooLarge."""
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{field} is required", field)
    if not is_storable(text):
        raise BadInput(f"{field}: has characters that are no text (NUL or half a pair)", field)
    size = len(text.encode())
    if size > settings.MAX_MESSAGE_BYTES:
        most = settings.MAX_MESSAGE_BYTES
        raise TooLarge(f"{field}: has {size} bytes, at most {most} are taken", field)
    return text


def _message_mode(mode: object) -> Mode:
    if mode is None:
        return Mode.PROMPT
    if not isinstance(mode, str) or mode not in Mode.values:
        raise BadInput(f"mode: must be one of {', '.join(Mode.values)}", "mode")
    return Mode(mode)


def _read_spent(name: str) -> Reading:
    """Return what is spent of the budgets above a lieutenant, before the transaction.

    It has no VM id if there is no such lieutenant.
    """
    rows = Lieutenant.objects.active().filter(name=name).annotate(has_budgets=budgets.exist())
    found = rows.first() if is_storable(name) else None
    if found is None:
        return Reading("")
    vm_id = membership.vm_id_of(found)
    return Reading.of(vm_id) if vars(found)["has_budgets"] else Reading(vm_id)


def _locked(name: str, actor: object, action: Action) -> Lieutenant:
    """Return the lieutenant to send to, locked until the commit.

    Raises NotFound, Forbidden, or NotNow if it cannot take messages.
    """
    lieutenant = Lieutenant.objects.select_for_update().active().filter(name=name).first()
    if lieutenant is None:
        if Lieutenant.objects.filter(name=name).exists():
            raise NotFound(f"Lieutenant '{name}' has been destroyed")
        raise LieutenantNotFound(name)
    permissions.check(actor, action, membership.vm_id_of(lieutenant))
    if lieutenant.status == Status.PAUSED:
        raise NotNow(f"Lieutenant '{name}' is paused. Resume it first.")
    if lieutenant.status == Status.ERROR and lieutenant.restart_at is None:
        raise NotNow(_no_connection(lieutenant))
    return lieutenant


def _no_connection(lieutenant: Lieutenant) -> str:
    """Return the API's error text with the cause and the remedy."""
    reason = f": {lieutenant.error.splitlines()[0][:300]}" if lieutenant.error.strip() else ""
    text = f"No active RPC connection for '{lieutenant.name}'{reason}"
    return f"{text.rstrip('.')}. POST …/restart starts its agent again."


def _effective_mode(lieutenant: Lieutenant, requested: Mode) -> tuple[Mode, str]:
    """Return the mode that loses no message, and a note if it differs from `requested`."""
    first = not lieutenant.messages.pending().exists()
    if lieutenant.status == Status.IDLE:
        return Mode.PROMPT, "" if requested == Mode.PROMPT else PROMPT_NOTE
    if lieutenant.status in (Status.STARTING, Status.ERROR):
        note = STARTING_NOTE if lieutenant.status == Status.STARTING else RESTARTING_NOTE
        return (Mode.PROMPT if first or requested == Mode.PROMPT else requested), note
    if requested == Mode.PROMPT:
        return Mode.FOLLOW_UP, FOLLOW_UP_NOTE
    if requested == Mode.STEER and not dialect_of(lieutenant).features.steering:
        return Mode.FOLLOW_UP, NO_STEERING_NOTE.format(lieutenant.agent)
    return requested, ""


def _add_waiting_note(note: str, lieutenant: Lieutenant, silent: liveness.Host | None) -> str:
    """Return the note with why a message waits for host or machine."""
    parts = [note]
    if silent:
        parts = [silent.pending_note, note]
    elif lieutenant.is_out_of_reach:
        parts = [note, UNREACHABLE_NOTE]
    return joined_notes(*parts)


def covered_note(note: str, names: set[str]) -> str:
    """Return a message's note, extended by the names of the secrets that were covered."""
    marks = ", ".join(f"[{name}]" for name in sorted(names))
    covered = COVERED_NOTE.format(marks) if names else ""
    return joined_notes(note, covered)[:200]


def joined_notes(*notes: str) -> str:
    """Return notes about a message as one, without the empty ones."""
    return "; ".join(filter(None, notes))


def _count_and_move(lieutenant: Lieutenant, mode: Mode, actor: object, *, may_move: bool) -> None:
    """Count a sent message as a task, and make an idle lieutenant work."""
    counted = {"task_count": lieutenant.task_count + (mode == Mode.PROMPT)}
    if lieutenant.status == Status.IDLE and may_move:
        lieutenant.move(
            Status.WORKING,
            reason="a message was sent",
            actor=actor_name(actor) or "reef",
            **counted,
        )
    elif mode == Mode.PROMPT:
        Lieutenant.objects.filter(pk=lieutenant.pk).update(**counted)
