"""Rows that a rewind is about: find the message in the agent's list, and all since then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db.models import Q

from lieutenants.models import Entry, Lieutenant, Message

_MAX_HEAD = 200

# The agent's id and the text of each message in its session.
Messages = Sequence[tuple[str, str]]


def find_target(
    lieutenant: Lieutenant, entry_id: int, listed: Messages, cover: Callable[[str], str]
) -> str | None:
    """Return the agent's id of the message: among equal texts, the same one counted from the end.

    The transcript holds only the beginning of a very long message, which is found by position.
    """
    entry = Entry.objects.filter(pk=entry_id).first()
    if entry is None:
        return None
    texts = [cover(text) for _, text in listed]
    since = in_session(lieutenant, entry.pk)
    # Rows were covered with the secrets known at that time.
    wanted = cover(entry.text)
    same = [number for number, text in enumerate(texts) if text == wanted]
    later = [each for each in since if cover(each.text) == wanted]
    if same and 0 < len(later) <= len(same):
        return listed[same[-len(later)]][0]
    if 0 < len(since) <= len(texts) and texts[-len(since)][:_MAX_HEAD] == wanted[:_MAX_HEAD]:
        return listed[-len(since)][0]
    return None


def in_session(lieutenant: Lieutenant, since: int) -> list[Entry]:
    """Return the messages from this entry on that the agent's session contains."""
    rows = Entry.objects.filter(lieutenant=lieutenant, kind=Entry.Kind.USER, pk__gte=since)
    return [
        each
        for each in rows.order_by("id")
        if not each.data.get("rewound") and "command" not in each.data
    ]


def was_sent_since(lieutenant: Lieutenant) -> bool:
    """Return whether a message reached the agent after the rewind was requested."""
    rows = Lieutenant.objects.filter(pk=lieutenant.pk)
    requested_at = rows.values_list("rewind_asked_at", flat=True).first()
    if requested_at is None:
        return False
    sent = Q(lieutenant=lieutenant, delivered_at__gt=requested_at)
    return Message.objects.filter(sent).exists()
