"""Filters of the list of lieutenants: `?status=`, and the terms of `?q=`.

Words that are not terms are searched in names, roles, models and folders.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import QueryDict

from lieutenants.models import Answer, Lieutenant, Question
from lieutenants.search_terms import stalled_ids
from lieutenants.states import RUNNING, Outcome, Status
from reef_site.common.lists.bulk import Person
from reef_site.common.page_values import text_value
from vmtree.search import LONGEST, Term, has_text, parse

Rows = QuerySet[Lieutenant]
TEXT_COLUMNS = ("name", "role", "model", "model_in_use", "folder")


def find(values: QueryDict, _person: Person | None = None) -> Rows:
    """Return the lieutenants that a query of the list's URL matches.

    Without a status these are the active ones. Raises BadInput that lists the terms.
    """
    status = text_value(values, "status")
    everyone = Lieutenant.objects.order_by()
    rows: Rows = everyone.active()
    if status in Status.values:
        rows = everyone.filter(status=status)
    for term, value in parse(text_value(values, "q", LONGEST + 1), TERMS):
        rows = term.narrow(rows, value) if term else rows.filter(has_text(value, *TEXT_COLUMNS))
    return rows


def _needs_person(rows: Rows) -> Rows:
    """Lieutenants in error, held back, stalled, with a failing model, or with a question."""
    asking = Question.objects.open().filter(lieutenant__isnull=False).values("lieutenant")
    held_back = Q(status=Status.PAUSED) & ~Q(error="")
    model_fails = Q(status__in=RUNNING) & ~Q(trouble="")
    needs = Q(status=Status.ERROR) | held_back | model_fails | Q(pk__in=asking)
    return rows.filter(needs | Q(pk__in=stalled_ids()))


def _failed(rows: Rows) -> Rows:
    """Lieutenants in error, or whose newest turn that has ended has failed."""
    ended = Answer.objects.filter(lieutenant=OuterRef("pk")).exclude(outcome=Outcome.OPEN)
    newest = ended.order_by("-id").values("outcome")[:1]
    rows = rows.annotate(last_outcome=Subquery(newest))
    return rows.filter(Q(status=Status.ERROR) | Q(last_outcome=Outcome.ERROR))


def _flag(name: str, find_rows: Callable[[Rows], Rows]) -> Term:
    return Term(name, lambda rows, _: find_rows(rows), flag=True)


def _with_status(status: Status) -> Term:
    return _flag(status.value, lambda rows: rows.filter(status=status))


def _with_text(name: str, *columns: str) -> Term:
    return Term(name, lambda rows, value: rows.filter(has_text(value, *columns)))


TERMS: dict[str, Term] = {
    term.name: term
    for term in (
        *(_with_status(status) for status in Status if status is not Status.DESTROYED),
        _flag("needs-me", _needs_person),
        _flag("failed", _failed),
        _flag("stalled", lambda rows: rows.filter(pk__in=stalled_ids())),
        _flag("unreachable", lambda rows: rows.filter(in_reach=False)),
        _with_text("model", "model", "model_in_use"),
        _with_text("host", "host", "on_vm"),
        _with_text("role", "role"),
        _with_text("folder", "folder"),
        Term("agent", lambda rows, value: rows.filter(agent=value)),
    )
}
