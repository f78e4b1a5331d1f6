"""The Celery app and its periodic tasks; `reef_site.common.ticks` decides when each runs."""

from __future__ import annotations

import gc
import os
import warnings
from typing import Any

from celery import Celery
from celery.signals import (
    beat_init,
    celeryd_after_setup,
    celeryd_init,
    import_modules,
    worker_ready,
)
from django.conf import settings

from reef_site.common import reaper
from reef_site.common.dispatch import dispatch
from reef_site.hardening import harden_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")

# People who run reef as root know that they do.
warnings.filterwarnings("ignore", message="(?s).*superuser privileges")

app = Celery("reef")
app.config_from_object("django.conf:settings", namespace="CELERY")
# Packages with tasks, by organ. Tasks of organs that this reef does not have are not loaded.
TASKS = {
    "lieutenant": ["lieutenants", "vmtree.operations", "registry.rules"],
    "registry": ["registry"],
    "vm-tree": ["vmtree"],
    "vers-config": ["versconfig"],
    "bootloader": ["bootloader"],
}
app.autodiscover_tasks(
    ["reef_site", *(each for organ in TASKS if organ in settings.ORGANS for each in TASKS[organ])]
)
TICKS: dict[str, dict[str, Any]] = {
    "rules-tick": {"task": "rules.tick", "schedule": 15.0},
    "operations-tick": {"task": "operations.tick", "schedule": 10.0},
    "reef-tick": {"task": "reef.tick", "schedule": 10.0},
    "reef-cleanup": {"task": "reef.cleanup", "schedule": 600.0},
    # Each minute, so that a missed hourly snapshot is made up for soon.
    "vmtree-snapshot": {"task": "vmtree.snapshot", "schedule": 60.0},
    "bootloader-tick": {"task": "bootloader.tick", "schedule": 5.0},
    "bootloader-sweep": {"task": "bootloader.sweep", "schedule": 3600.0},
    "bootloader-reconcile": {"task": "bootloader.reconcile", "schedule": 180.0},
    "registry-sweep": {"task": "registry.sweep", "schedule": 10.0},
}
# Organ of a task, by the first part of the task's name.
OWNERS = {
    "reef": "",
    "rules": "lieutenant",
    "operations": "lieutenant",
    "lieutenants": "lieutenant",
    "registry": "registry",
    "vmtree": "vm-tree",
    "versconfig": "vers-config",
    "bootloader": "bootloader",
}


def _is_available(task: str) -> bool:
    owner = OWNERS.get(task.partition(".")[0], "")
    return not owner or owner in settings.ORGANS


app.conf.beat_schedule = {name: tick for name, tick in TICKS.items() if _is_available(tick["task"])}
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
    for task in [name for name in app.tasks if not _is_available(name)]:
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
