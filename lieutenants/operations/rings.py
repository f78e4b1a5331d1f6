"""Dispatch of the job tasks. Without a broker, the next tick finds the work."""

from __future__ import annotations

from collections.abc import Sequence

from reef_site.common import broker


def advance(job_id: str, *, later: float = 0) -> None:
    """Schedule a task that advances this job, `later` seconds from now."""
    _ring("operations.advance", [job_id], later)


def act(step_ids: Sequence[int]) -> None:
    """Schedule a task that runs these steps."""
    _ring("operations.act", [list(step_ids)])


def _ring(task: str, args: list[object], later: float = 0) -> None:
    broker.send_task(task, args, countdown=later)
