"""The Celery app and its periodic tasks; `reef_site.common.ticks` says which of them run."""

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

# Whoever runs reef as root knows; the agents run as the same user anyway.
warnings.filterwarnings("ignore", message="(?s).*superuser privileges")

app = Celery("reef")
app.config_from_object("django.conf:settings", namespace="CELERY")
# Where each organ has its tasks; of organs that this reef has not, there are none.
TASKS = {
    "lieutenant": ["lieutenants", "lieutenants.operations", "lieutenants.rules"],
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
    # Finds out whether this hour has its snapshot; so one that was missed is made up for soon.
    "vmtree-snapshot": {"task": "vmtree.snapshot", "schedule": 60.0},
    "bootloader-tick": {"task": "bootloader.tick", "schedule": 5.0},
    "bootloader-sweep": {"task": "bootloader.sweep", "schedule": 3600.0},
    "bootloader-reconcile": {"task": "bootloader.reconcile", "schedule": 180.0},
    "registry-sweep": {"task": "registry.sweep", "schedule": 10.0},
}
# The first word of a task says whose it is.
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


def _is_here(task: str) -> bool:
    owner = OWNERS.get(task.partition(".")[0], "")
    return not owner or owner in settings.ORGANS


app.conf.beat_schedule = {name: tick for name, tick in TICKS.items() if _is_here(tick["task"])}
if "lieutenant" in settings.ORGANS:
    from lieutenants.worker import FollowerStep, take_own_queue

    app.steps["worker"].add(FollowerStep)
    celeryd_after_setup.connect(take_own_queue, weak=False)


@celeryd_init.connect(weak=False)
@beat_init.connect(weak=False)
def _harden(**_: Any) -> None:
    """Also where the worker was not started by `up`."""
    harden_process()


@import_modules.connect(weak=False)
def _leave_out_tasks(**_: Any) -> None:
    """Take no tasks of organs that this reef has not, though their modules may be imported."""
    for task in [name for name in app.tasks if not _is_here(name)]:
        app.tasks.unregister(task)


@worker_ready.connect
def show_life(**_: Any) -> None:
    """The first sign need not wait for beat's first tick."""
    # Looking through what stays anyway takes 50 ms, maybe amid a transaction that others wait for.
    gc.collect()
    gc.freeze()
    if os.getpid() == 1:
        reaper.reap_in_background()
    dispatch("reef.tick")
