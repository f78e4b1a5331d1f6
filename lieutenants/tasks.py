"""Celery tasks. They reread the rows, so each may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from lieutenants.models import MadeVM
from lieutenants.questions import deadlines, failures
from lieutenants.supervision import runtime
from reef_site.common.dispatch import dispatch
from reef_site.common.ticks import tick_task


def queue_of(data_folder: str) -> str:
    """Return the queue of the workers with this data folder."""
    return f"host.{data_folder}"


def on_provisioning_end(provisioning_id: str) -> None:
    """Go on with the lieutenant whose VM was made, or could not be made."""
    rows = MadeVM.objects.present().filter(provisioning=provisioning_id)
    for pk, folder in rows.values_list("pk", "lieutenant__data_folder"):
        dispatch(settle, pk, queue=queue_of(folder))


@shared_task(name="lieutenants.settle", soft_time_limit=60, time_limit=80)
def settle(lieutenant_id: str) -> None:
    """Start or stop this lieutenant's process, as its row wants."""
    runtime.converge(lieutenant_id)


@tick_task("lieutenants.questions", soft_time_limit=30, time_limit=40)
def decide_questions() -> None:
    """Decide overdue questions, withdraw void ones, and ask about failures."""
    deadlines.decide_overdue()
    deadlines.withdraw_orphaned()
    failures.ask_about_failures()
