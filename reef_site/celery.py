"""The Celery app and the beat schedule; each tick expires before the next one."""

from __future__ import annotations

import os
import warnings

from celery import Celery

from lieutenants.worker import FollowerStep

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")

# Whoever runs reef as root knows; the agents run as the same user anyway.
warnings.filterwarnings("ignore", message="(?s).*superuser privileges")

app = Celery("reef")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["lieutenants.operations", "lieutenants.rules"])
app.conf.beat_schedule = {
    "rules-tick": {
        "task": "rules.tick",
        "schedule": 15.0,
        "options": {"expires": 14.0},
    },
    "operations-tick": {
        "task": "operations.tick",
        "schedule": 10.0,
        "options": {"expires": 9.0},
    },
    "lieutenants-tick": {
        "task": "lieutenants.tick",
        "schedule": 10.0,
        "options": {"expires": 9.0},
    },
    # Finds out whether this hour has its snapshot; so one that was missed is made up for soon.
    "vmtree-snapshot": {
        "task": "vmtree.snapshot",
        "schedule": 60.0,
        "options": {"expires": 55.0},
    },
    "bootloader-tick": {
        "task": "bootloader.tick",
        "schedule": 10.0,
        "options": {"expires": 9.0},
    },
    "bootloader-reconcile": {
        "task": "bootloader.reconcile",
        "schedule": 180.0,
        "options": {"expires": 170.0},
    },
    "registry-sweep": {
        "task": "registry.sweep",
        "schedule": 10.0,
        "options": {"expires": 9.0},
    },
}
app.steps["worker"].add(FollowerStep)
