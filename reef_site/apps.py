"""App configuration of the site itself: system checks, commands, template tags."""

import os
from importlib import import_module
from typing import Any

from django.core import checks
from django.db.backends.signals import connection_created

from reef_site import env
from reef_site.common.apps import ReefAppConfig, reef_apps


@checks.register()
def check_setting_names(**_: object) -> list[checks.CheckMessage]:
    """Warn about misspelt variables, as `up` does, if the processes are started one by one."""
    return [checks.Warning(warning, id="reef.W001") for warning in env.warnings_for(os.environ)]


@checks.register()
def check_config_values(**_: object) -> list[checks.CheckMessage]:
    """Refuse invalid values, as `up` does, if the processes are started one by one."""
    problems = import_module("versconfig.config").problems_of_environment()
    return [checks.Error(problem, id="reef.E001") for problem in problems]


class ReefSiteConfig(ReefAppConfig):
    name = "reef_site"
    verbose_name = "reef"
    task_prefix = "reef"
    ticks = {"reef.tick": 10.0, "reef.cleanup": 600.0}

    def ready(self) -> None:
        """Load our Celery app, which `shared_task` binds to, in every process."""
        import_module("reef_site.celery")
        env.register_names(import_module("versconfig.keys").ALL)
        _unregister_admins()
        connection_created.connect(_disable_jit, dispatch_uid="reef-without-compiling")


def _unregister_admins() -> None:
    """Unregister the admin pages of organs that this reef does not have."""
    from django.contrib import admin

    for config in reef_apps():
        if not config.is_enabled:
            for model in config.get_models():
                if admin.site.is_registered(model):
                    admin.site.unregister(model)


def _disable_jit(connection: Any, **_: object) -> None:
    """Turn off PostgreSQL's just-in-time compilation for this connection.

    It overestimates recursive queries and compiles them first: 450 ms for a query of 50 ms.
    """
    if connection.vendor == "postgresql":
        with connection.connection.cursor() as cursor:
            cursor.execute("SET jit = off")
