"""App configuration of the site itself: system checks, commands, template tags."""

import os
from importlib import import_module
from typing import Any

from django.core import checks
from django.db.backends.signals import connection_created

from reef_site import env
from reef_site.common.apps import ReefAppConfig, reef_apps

# Between two statements of a transaction.
_MAX_IDLE_SECONDS = 30


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
        import_module("reef_site.palette.sources").register()
        env.register_names(import_module("versconfig.keys").ALL)
        _set_up_admin()
        connection_created.connect(_prepare_connection, dispatch_uid="reef-connection")


def _set_up_admin() -> None:
    """Unregister the admin pages of organs that this reef does not have."""
    from django.contrib import admin

    # Its template has a link of its own to the other pages.
    admin.site.site_url = None
    for config in reef_apps():
        if not config.is_enabled:
            for model in config.get_models():
                if admin.site.is_registered(model):
                    admin.site.unregister(model)


def _prepare_connection(connection: Any, **_: object) -> None:
    """Set what each connection to PostgreSQL needs.

    Its just-in-time compilation is turned off: it overestimates recursive queries and compiles them
    first, 450 ms for a query of 50 ms. And a process that is frozen in a transaction loses its
    locks, so that another one can take its place.
    """
    if connection.vendor == "postgresql":
        with connection.connection.cursor() as cursor:
            cursor.execute("SET jit = off")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{_MAX_IDLE_SECONDS}s'")
