"""Doorbells for the worker; without a broker the next tick finds what is to be done."""

from __future__ import annotations

from collections.abc import Sequence

from reef_site.common import broker


def advance(job_id: str, *, later: float = 0) -> None:
    """Somebody is to move this job on, `later` seconds from now."""
    _ring("operations.advance", [job_id], later)


def act(step_ids: Sequence[int]) -> None:
    """Somebody is to do these steps."""
    _ring("operations.act", [list(step_ids)])


def _ring(task: str, args: list[object], later: float = 0) -> None:
    broker.send_task(task, args, countdown=later)
