"""The newest turn of each lieutenant that has ended, for lists."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import OuterRef, Subquery

from lieutenants.models import Answer, Lieutenant
from lieutenants.states import Outcome


def last_turns(lieutenants: Sequence[str]) -> dict[str, Answer]:
    """Map lieutenants to the newest turn that has ended, in two queries.

    Its text and error are not loaded.
    """
    if not lieutenants:
        return {}
    ended = Answer.objects.filter(lieutenant=OuterRef("pk")).exclude(outcome=Outcome.OPEN)
    newest = ended.order_by("-id").values("pk")[:1]
    rows = Lieutenant.objects.filter(pk__in=lieutenants).annotate(turn=Subquery(newest))
    keys = [pk for pk in rows.order_by().values_list("turn", flat=True) if pk is not None]
    found = Answer.objects.filter(pk__in=keys).defer("text", "error")
    return {turn.lieutenant_id: turn for turn in found}
