"""Use cases of actions on many rows: plan, confirm, cancel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.http import QueryDict

from reef_site.common import clock
from reef_site.common.batches import BATCH_SIZE
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.lists.bulk import MAX_ROWS, BulkAction, BulkList, bulk_lists
from reef_site.common.lists.sorting import PARAMETER
from reef_site.common.text import is_storable
from reef_site.lists.models import MAX_QUERY, BulkItem, BulkRun, ItemState, RunState
from versconfig.screening import sources

# A plan describes what was there then; later it has to be made again.
PLAN_VALID = timedelta(hours=1)
# Parameters of a list's URL that do not change which rows it has.
NOT_FILTERS = ("page", PARAMETER, "after", "place", "open", "vm")
_MAX_TARGET = 255


def find_list(key: str) -> BulkList:
    """Return the list of this key. Raises NotFound."""
    found = bulk_lists.get(key)
    if found is None or (found.organ and found.organ not in settings.ORGANS):
        raise NotFound(f"there is no list '{key[:40]}'")
    return found


def find_action(bulk_list: BulkList, key: str) -> BulkAction:
    """Return the action of this key. Raises BadInput."""
    if key not in bulk_list.actions:
        raise BadInput(f"action: must be one of {', '.join(bulk_list.actions)}", "action")
    return bulk_list.actions[key]


def find_run(pk: str) -> BulkRun:
    """Return the action with this id. Raises NotFound."""
    run = BulkRun.objects.filter(pk=pk).first()
    if run is None:
        raise NotFound("there is no such action; plans that nobody confirms are deleted")
    return run


def matching(bulk_list: BulkList, query: QueryDict, user: User) -> list[str]:
    """Return the keys of all rows that match the query. Raises BadInput for too many."""
    keys = [str(key) for key in bulk_list.find(query, user)[: MAX_ROWS + 1]]
    if len(keys) > MAX_ROWS:
        raise BadInput(f"More than {MAX_ROWS:,} rows match this filter. Narrow it, or choose rows.")
    return keys


def plan(
    bulk_list: BulkList, action: BulkAction, targets: Iterable[str], *, by: User, query: str = ""
) -> BulkRun:
    """Store the plan of an action on these rows, in this order, and return it. Raises BadInput."""
    chosen = list(dict.fromkeys(targets))
    if not chosen:
        raise BadInput("Choose at least one row.")
    if len(chosen) > MAX_ROWS:
        raise BadInput(f"At most {MAX_ROWS:,} rows can be chosen.")
    if any(not is_storable(each) or len(each) > _MAX_TARGET for each in chosen):
        raise BadInput("id: is not an id of this list", "id")
    planned = action.plan(chosen, by)
    with transaction.atomic():
        run = BulkRun.objects.create(
            list=bulk_list.key, action=action.key, query=query, user=by, actor=str(by)[:200]
        )
        items = [
            BulkItem(
                run=run,
                position=number,
                target=row.target,
                name=row.name[:255],
                does=row.does[:300],
                warning=row.warning[:300],
                count=row.count,
                state=ItemState.REFUSED if row.refused else ItemState.WAITING,
                result=row.refused,
            )
            for number, row in enumerate(planned)
        ]
        BulkItem.objects.bulk_create(items, batch_size=BATCH_SIZE)
    return run


def start(run: BulkRun, action: BulkAction, *, by: User, text: str = "") -> None:
    """Confirm a plan: a worker carries out exactly its rows.

    Raises BadInput, and Conflict if it was confirmed before, is too old, or changes nothing.
    """
    if run.user_id != by.pk:
        raise NotFound("this is another person's plan; make one of your own")
    if run.created_at < clock.now() - PLAN_VALID:
        raise Conflict("This plan is older than an hour. Make it again.")
    if not run.items.filter(state=ItemState.WAITING).exists():
        raise Conflict("This plan changes nothing.")
    fields = {"state": RunState.OPEN, "started_at": clock.now(), "text": _checked(action, text)}
    with transaction.atomic():
        planned = BulkRun.objects.filter(pk=run.pk, state=RunState.PLANNED)
        if not planned.update(**fields):
            raise Conflict("This plan was confirmed before.")
        dispatch("lists.advance", run.pk)


def _checked(action: BulkAction, text: str) -> str:
    """Return the text to store, with secrets covered. Raises BadInput."""
    if not action.needs_text:
        return ""
    if not text.strip():
        raise BadInput("message: is required", "text")
    if not is_storable(text):
        raise BadInput("message: has characters that are no text (NUL or half a pair)", "text")
    if len(text.encode()) > settings.MAX_MESSAGE_BYTES:
        raise BadInput(f"message: must have at most {settings.MAX_MESSAGE_BYTES} bytes", "text")
    return sources.current(recheck=True).cover(text, set())


def cancel(run: BulkRun) -> None:
    """Cancel what has not been done yet. Raises Conflict if it has ended."""
    with transaction.atomic():
        if not run.end(RunState.CANCELLED):
            raise Conflict("This has ended already.")
        waiting = run.items.filter(state=ItemState.WAITING)
        waiting.update(state=ItemState.CANCELLED, ended_at=clock.now())


def filters_of(query: QueryDict) -> str:
    """Return the part of a list's URL that says which rows it has, in one spelling."""
    return _without(query, NOT_FILTERS)


def stored_view(given: str) -> str:
    """Return `view_of` a query string. Raises BadInput if it is too long to be stored."""
    view = view_of(QueryDict(given))
    if len(view) > MAX_QUERY:
        raise BadInput(f"query: must have at most {MAX_QUERY} encoded characters", "query")
    return view


def view_of(query: QueryDict) -> str:
    """Return the part of a list's URL that says which rows it has, and in which order."""
    return _without(query, [name for name in NOT_FILTERS if name != PARAMETER])


def _without(query: QueryDict, left_out: Sequence[str]) -> str:
    pairs = sorted((name, value) for name, values in query.lists() for value in values)
    kept = QueryDict(mutable=True)
    for name, value in pairs:
        if value and name not in left_out:
            kept.appendlist(name, value)
    return kept.urlencode()
