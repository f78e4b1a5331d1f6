"""The Celery app. App configurations declare tasks and ticks (`reef_site.common.apps`).

`reef_site.common.ticks` decides when each tick runs.
"""

from __future__ import annotations

import gc
import os
import warnings
from typing import Any

import django
from celery import Celery
from celery.signals import (
    beat_init,
    celeryd_after_setup,
    celeryd_init,
    import_modules,
    worker_ready,
)
from django.apps import apps
from django.conf import settings

from reef_site.common import reaper
from reef_site.common.apps import is_task_enabled, task_packages, tick_schedule
from reef_site.common.dispatch import dispatch
from reef_site.hardening import harden_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")

# People who run reef as root know that they do.
warnings.filterwarnings("ignore", message="(?s).*superuser privileges")

app = Celery("reef")
app.config_from_object("django.conf:settings", namespace="CELERY")
if not apps.apps_ready:
    # Celery's commands import this module first; in other processes Django does.
    django.setup()
# Tasks of organs that this reef does not have are not loaded.
app.autodiscover_tasks(task_packages())
app.conf.beat_schedule = tick_schedule()
if "lieutenant" in settings.ORGANS:
    from lieutenants.supervision.worker import FollowerStep, take_own_queue

    app.steps["worker"].add(FollowerStep)
    celeryd_after_setup.connect(take_own_queue, weak=False)


@celeryd_init.connect(weak=False)
@beat_init.connect(weak=False)
def _harden(**_: Any) -> None:
    """Harden worker and beat also if `up` did not start them."""
    harden_process()


@import_modules.connect(weak=False)
def _unregister_tasks(**_: Any) -> None:
    """Unregister tasks of organs that this reef does not have; their modules may be imported."""
    for task in [name for name in app.tasks if not is_task_enabled(name)]:
        app.tasks.unregister(task)


@worker_ready.connect
def send_first_heartbeat(**_: Any) -> None:
    """Send the first heartbeat of the worker without waiting for beat's first tick."""
    # Scanning permanent objects takes 50 ms, possibly inside a transaction that others wait for.
    gc.collect()
    gc.freeze()
    if os.getpid() == 1:
        reaper.reap_in_background()
    dispatch("reef.tick")
