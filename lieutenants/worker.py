"""The part of the Celery worker that hosts the follower."""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps
from django.conf import settings


def take_own_queue(instance: Any, **_: Any) -> None:
    """Have the worker take the tasks of its own data folder, whatever its `-Q` names."""
    from lieutenants.tasks import queue_of

    instance.app.amqp.queues.select_add(queue_of(settings.DATA_FOLDER_ID))


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
