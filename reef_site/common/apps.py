"""Base of the project's app configurations: each declares what the site wires.

`reef_site` derives routes, Celery tasks and schedule, and the admin from these declarations; an app
that is added needs an entry in `INSTALLED_APPS` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from django.apps import AppConfig, apps
from django.conf import settings
from django.urls import URLResolver, include, path, re_path


class ReefAppConfig(AppConfig):
    """An app of this project, and what of it the site wires."""

    # Without this organ the app has tables, but no routes, tasks, ticks and admin. An app with an
    # empty one is always wired.
    organ: ClassVar[str] = ""
    # URL configurations of pages, by prefix, and of the API, by the beginning of a regex.
    page_urls: ClassVar[Mapping[str, str]] = {}
    api_urls: ClassVar[Mapping[str, str]] = {}
    # The names of its Celery tasks begin with this and a dot; empty if it has none.
    task_prefix: ClassVar[str] = ""
    # Seconds between two runs of each periodic task, by the task's name.
    ticks: ClassVar[Mapping[str, float]] = {}
    # The module with its tools for agents, as `TOOLS`; empty if it has none.
    tools: ClassVar[str] = ""

    @property
    def is_enabled(self) -> bool:
        """Return whether this reef has the organ of the app."""
        return not self.organ or self.organ in settings.ORGANS


def reef_apps() -> list[ReefAppConfig]:
    """Return the apps of this project, the lower ones first."""
    return [config for config in apps.get_app_configs() if isinstance(config, ReefAppConfig)]


def enabled_apps() -> list[ReefAppConfig]:
    """Return the apps whose organ this reef has, the lower ones first."""
    return [config for config in reef_apps() if config.is_enabled]


def page_routes() -> list[URLResolver]:
    """Return the routes of all pages."""
    return [
        path(prefix, include(module))
        for config in reversed(enabled_apps())
        for prefix, module in config.page_urls.items()
    ]


def api_routes() -> list[URLResolver]:
    """Return the routes of the API.

    Higher apps come first: a lower app answers all unknown paths below its prefix, where a higher
    one may have routes, too.
    """
    return [
        re_path(prefix, include(module))
        for config in reversed(enabled_apps())
        for prefix, module in config.api_urls.items()
    ]


def task_packages() -> list[str]:
    """Return the packages with Celery tasks."""
    return [config.name for config in enabled_apps() if config.task_prefix]


def is_task_enabled(name: str) -> bool:
    """Return whether this reef has the app of a task. Tasks of other packages always are."""
    prefix = name.partition(".")[0]
    return not any(config.task_prefix == prefix for config in reef_apps() if not config.is_enabled)


def tick_schedule() -> dict[str, dict[str, object]]:
    """Return Celery's schedule of all periodic tasks."""
    return {
        task.replace(".", "-"): {"task": task, "schedule": seconds}
        for config in enabled_apps()
        for task, seconds in config.ticks.items()
    }
