"""Integration of the follower into the Celery worker."""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps
from django.conf import settings


def take_own_queue(instance: Any, **_: Any) -> None:
    """Let the worker consume its data folder's queue, whatever `-Q` says."""
    from lieutenants.tasks import queue_of

    instance.app.amqp.queues.select_add(queue_of(settings.DATA_FOLDER_ID))


class FollowerStep(bootsteps.StartStopStep):
    """Starts and stops the follower's thread with the worker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.thread: threading.Thread | None = None
        self.follower: Any = None

    def start(self, parent: Any) -> None:
        """Start the thread. Celery calls this after Django's setup."""
        from lieutenants.supervision.follower import Follower

        self.follower = Follower()
        self.thread = threading.Thread(target=self.follower.run, name="reef-follower", daemon=True)
        self.thread.start()

    def stop(self, parent: Any) -> None:
        """Let the current pass commit, for a few seconds at most, and close the connections."""
        if self.follower and self.thread:
            from lieutenants.supervision.transports.ssh.transport import links

            self.follower.stop()
            self.thread.join(5)
            links.close_all()

    terminate = stop
