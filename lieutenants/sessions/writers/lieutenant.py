"""Effects on the lieutenant: its status, trouble, models, context, and its session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from lieutenants import queries
from lieutenants.agents.model_lists import image_names
from lieutenants.models import AgentModels, Entry, Lieutenant, LieutenantQuerySet
from lieutenants.sessions import effects, failure_series, rewind_rows
from lieutenants.states import MessageState, Status
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace

if TYPE_CHECKING:
    from lieutenants.sessions.recorder import Recorder

logger = logging.getLogger(__name__)

_MAX_WORDS = 80
_UNDECIDED = frozenset({MessageState.QUEUED, MessageState.DELIVERED})


# -- status and trouble ------------------------------------------------------------------------


def _move_status(recorder: Recorder, effect: effects.MoveStatus) -> None:
    # Each run checks twice, mostly in vain.
    row = queries.current_row(recorder.lieutenant.pk)
    if row is None or row.status not in effect.origins:
        return
    to = effect.to
    if to is Status.IDLE and _was_sent_meanwhile(row):
        # The message was not among the facts; its sender has seen a lieutenant that rests.
        to = Status.WORKING
        if row.status == to:
            return
    try:
        row.move(to, reason=effect.reason, **effect.columns)
    except (LostRace, IllegalMove) as error:
        logger.info("%s", error)
        return
    for each in effect.then:
        recorder.perform(each)


def _was_sent_meanwhile(row: Lieutenant) -> bool:
    """Return whether a message waits for its delivery. None is sent until the commit.

    Senders lock the row as well. On SQLite, transactions that write wait for each other anyway.
    """
    list(Lieutenant.objects.filter(pk=row.pk).select_for_update().values_list("pk"))
    return bool(queries.pending_states(row.pk) & _UNDECIDED)


def _set_trouble(recorder: Recorder, effect: effects.SetTrouble) -> None:
    recorder.lieutenant.trouble = effect.text


def _restore_trouble(recorder: Recorder, effect: effects.RestoreTrouble) -> None:
    lieutenant = recorder.lieutenant
    lieutenant.trouble = failure_series.trouble(lieutenant) or effect.failure


def _drop_earlier_series(recorder: Recorder, _effect: effects.DropEarlierSeries) -> None:
    failure_series.drop_earlier_session(recorder)


# -- models and context ------------------------------------------------------------------------


def _store_model_in_use(recorder: Recorder, effect: effects.StoreModelInUse) -> None:
    recorder.lieutenant.model_in_use = effect.name
    _row(recorder).update(model_in_use=effect.name, model_problem=effect.problem)


def _store_model_problem(recorder: Recorder, effect: effects.StoreModelProblem) -> None:
    _row(recorder).update(model_problem=effect.problem)


def _store_models(recorder: Recorder, effect: effects.StoreModels) -> None:
    AgentModels.objects.update_or_create(
        lieutenant=recorder.lieutenant,
        defaults={
            "names": [each.name for each in effect.models],
            "labels": [each.label for each in effect.models],
            "image_names": image_names(effect.models),
            "process": recorder.process,
            "at": timezone.now(),
        },
    )


def _store_context_usage(recorder: Recorder, effect: effects.StoreContextUsage) -> None:
    row = _row(recorder)
    if effect.figures != row.values_list("context_usage", flat=True).first():
        row.update(context_usage=effect.figures)
        events.publish_lieutenant(recorder.lieutenant.pk)


# -- the session -------------------------------------------------------------------------------


def _go_back(recorder: Recorder, effect: effects.GoBack) -> None:
    lieutenant = recorder.lieutenant
    target = Entry.objects.filter(pk=effect.entry).first()
    words = " ".join(recorder.screening.cover(target.text).split()) if target else ""
    for entry in rewind_rows.in_session(lieutenant, effect.entry):
        recorder.revise(entry, data={**entry.data, "rewound": True})
    _row(recorder).update(session_name=effect.to, session_since=effect.at)
    lieutenant.session_name = effect.to
    _clear_rewind(recorder, effects.ClearRewind())
    failure_series.clear(recorder)
    lieutenant.trouble = ""
    text = (
        f"Went back to before message “{words[:_MAX_WORDS]}”. The earlier session stays in "
        f"{effect.origin}."
    )
    data = {"rewind": {"from": effect.origin, "to": effect.to}}
    recorder.notice(effect.at, text, data=data)


def _clear_rewind(recorder: Recorder, _effect: effects.ClearRewind) -> None:
    _row(recorder).update(rewind_to=None, rewind_asked_at=None)


def _row(recorder: Recorder) -> LieutenantQuerySet:
    """Return the lieutenant's row, as long as the same follower has it."""
    lieutenant = recorder.lieutenant
    return Lieutenant.objects.filter(pk=lieutenant.pk, data_folder=lieutenant.data_folder)


WRITERS: dict[type, Callable[[Recorder, Any], None]] = {
    effects.MoveStatus: _move_status,
    effects.SetTrouble: _set_trouble,
    effects.RestoreTrouble: _restore_trouble,
    effects.DropEarlierSeries: _drop_earlier_series,
    effects.StoreModelInUse: _store_model_in_use,
    effects.StoreModelProblem: _store_model_problem,
    effects.StoreModels: _store_models,
    effects.StoreContextUsage: _store_context_usage,
    effects.GoBack: _go_back,
    effects.ClearRewind: _clear_rewind,
}
