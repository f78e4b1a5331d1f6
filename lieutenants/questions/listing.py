"""Lists of questions: open ones by urgency, decided ones by time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q
from django.utils import timezone

from lieutenants.models import Question
from lieutenants.questions.models import QuestionQuerySet
from reef_site.common.errors import BadInput
from vmtree import permissions
from vmtree.permissions import Action
from vmtree.queries.nodes import count_descendants_of_vms

# More open ones are not ordered, but only counted.
MAX_OPEN_LISTED = 500


@dataclass(frozen=True)
class OpenQuestion:
    """An open question with the number of descendants of the agent that waits for its answer."""

    question: Question
    waiting_below: int

    def urgency(self, now: datetime) -> float:
        """Return how many agents wait, the asking one included, times the seconds that they do."""
        seconds = (now - self.question.created_at).total_seconds()
        return (1 + self.waiting_below) * max(0.0, seconds)


def readable_by(caller: object) -> QuestionQuerySet:
    """Return the questions that the caller may read, with their lieutenants."""
    rows = Question.objects.select_related("lieutenant")
    nodes = permissions.readable(caller, Action.READ_TRANSCRIPT)
    return rows if nodes is None else rows.filter(vm_id__in=nodes.values("vm_id"))


def by_urgency(rows: QuestionQuerySet) -> list[OpenQuestion]:
    """Return the open ones among the questions, the most urgent first."""
    found = list(rows.open().order_by("created_at", "id")[:MAX_OPEN_LISTED])
    counts = count_descendants_of_vms({row.vm_id for row in found})
    listed = [OpenQuestion(row, counts.get(row.vm_id, 0)) for row in found]
    now = timezone.now()
    return sorted(listed, key=lambda each: each.urgency(now), reverse=True)


def by_time(rows: QuestionQuerySet, cursor: str | None) -> QuestionQuerySet:
    """Return the questions behind the one with the id `cursor`, newest first. Raises BadInput."""
    rows = rows.order_by("-created_at", "-id")
    if not cursor:
        return rows
    last = Question.objects.filter(pk=cursor).first()
    if last is None:
        raise BadInput("cursor: must be the `next` of an earlier page", "cursor")
    same = Q(created_at=last.created_at, pk__lt=last.pk)
    return rows.filter(same | Q(created_at__lt=last.created_at))
