"""Replacements for sending tasks: call a handler, record, or drop them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reef_site.common import dispatch

# Called with the name of the task, its arguments and its countdown in seconds.
Handler = Callable[[str, list[Any], float], object]


def intercept_tasks(monkeypatch: pytest.MonkeyPatch, prefix: str, handler: Handler) -> None:
    """Call `handler` instead of sending tasks whose names begin with `prefix`."""
    send = dispatch.send

    def intercepting(task: str, args: list[Any], *, queue: str | None, countdown: float) -> None:
        if task.startswith(prefix):
            handler(task, args, countdown)
        else:
            send(task, args, queue=queue, countdown=countdown)

    monkeypatch.setattr(dispatch, "send", intercepting)


def drop_tasks(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Do not send tasks whose names begin with `prefix`, as if there were no workers for them."""
    intercept_tasks(monkeypatch, prefix, lambda *_: None)
