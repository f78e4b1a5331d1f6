"""The part of the Celery worker that hosts the follower."""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps


class FollowerStep(bootsteps.StartStopStep):
    """Starts the follower's thread with the worker and stops it with the worker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.thread: threading.Thread | None = None
        self.follower: Any = None

    def start(self, parent: Any) -> None:
        """Called by Celery when Django is set up."""
        from lieutenants.follower import Follower

        self.follower = Follower()
        self.thread = threading.Thread(target=self.follower.run, name="reef-follower", daemon=True)
        self.thread.start()

    def stop(self, parent: Any) -> None:
        """Let the pass that runs commit; a few seconds at most."""
        if self.follower and self.thread:
            self.follower.stop()
            self.thread.join(5)

    terminate = stop
