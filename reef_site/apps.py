"""App configuration of the site itself: commands and template tags."""

import os
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.apps import apps as django_apps
from django.core import checks
from django.db.backends.signals import connection_created

from reef_site import env

APPS = {
    "lieutenants": "lieutenant",
    "registry": "registry",
    "vmtree": "vm-tree",
    "versconfig": "vers-config",
    "bootloader": "bootloader",
}


@checks.register()
def settings_have_names_that_exist(**_: object) -> list[checks.CheckMessage]:
    """What `up` says at its start, for those who start the processes one by one."""
    return [checks.Warning(doubt, id="reef.W001") for doubt in env.doubts(os.environ)]


@checks.register()
def configured_values_can_be(**_: object) -> list[checks.CheckMessage]:
    """What stops `up`, for those who start the processes one by one."""
    problems = import_module("versconfig.config").problems_of_environment()
    return [checks.Error(problem, id="reef.E001") for problem in problems]


class ReefSiteConfig(AppConfig):
    name = "reef_site"
    verbose_name = "reef"

    def ready(self) -> None:
        """Make our Celery app the one that `shared_task` rings, in every process."""
        import_module("reef_site.celery")
        env.know(import_module("versconfig.keys").ALL)
        _leave_out_admins()
        connection_created.connect(_without_compiling, dispatch_uid="reef-without-compiling")


def _leave_out_admins() -> None:
    """Have no admin pages of organs that this reef has not; the admin has found all by now."""
    from django.conf import settings
    from django.contrib import admin

    for label, organ in APPS.items():
        if organ not in settings.ORGANS:
            for model in django_apps.get_app_config(label).get_models():
                if admin.site.is_registered(model):
                    admin.site.unregister(model)


def _without_compiling(connection: Any, **_: object) -> None:
    """Have PostgreSQL run our queries as they are.

    It takes recursive ones for long and compiles them first: 450 ms for one of 50 ms.
    """
    if connection.vendor == "postgresql":
        with connection.connection.cursor() as cursor:
            cursor.execute("SET jit = off")
