"""The site wires exactly the declarations of the app configurations."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import resolve

from reef_site.celery import app
from reef_site.common import apps
from vmtree import organs


@pytest.fixture
def tasks() -> dict[str, Any]:
    app.loader.import_default_modules()
    return {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}


def test_tasks_bear_the_prefix_of_their_app(tasks: dict[str, Any]) -> None:
    prefixes = {config.name: config.task_prefix for config in apps.reef_apps()}
    packages = {name: task.__module__.removesuffix(".tasks") for name, task in tasks.items()}
    # `tick_task` makes its functions in `ticks`.
    own = {name: each for name, each in packages.items() if each in prefixes}
    assert own
    assert {name: name.partition(".")[0] for name in own} == {
        name: prefixes[package] for name, package in own.items()
    }
    assert {name.partition(".")[0] for name in tasks} == set(filter(None, prefixes.values()))


def test_each_tick_is_a_task_of_the_app_that_declares_it(tasks: dict[str, Any]) -> None:
    declared = [(config.task_prefix, tick) for config in apps.reef_apps() for tick in config.ticks]
    assert len(declared) == len(apps.tick_schedule())
    for prefix, tick in declared:
        assert tick in tasks
        assert tick.partition(".")[0] == prefix


def test_apps_name_organs_that_exist() -> None:
    named = {config.organ for config in apps.reef_apps() if config.organ}
    assert named == set(organs.MODULES)


def test_without_an_organ_its_apps_are_not_wired(settings: Any) -> None:
    settings.ORGANS = frozenset({"vm-tree", "registry"})
    names = {config.name for config in apps.enabled_apps()}
    assert {"reef_site", "vmtree", "registry", "reef_site.dashboard"} <= names
    assert not {"lieutenants", "vmtree.operations", "registry.rules", "bootloader"} & names
    assert not apps.is_task_enabled("rules.tick")
    assert apps.is_task_enabled("registry.sweep")
    assert "operations-tick" not in apps.tick_schedule()


@pytest.mark.parametrize(
    ("path", "view"),
    [
        ("/vm-tree/vms/a/pause", "vmtree.operations.api.StartOperation"),
        ("/vm-tree/nothing", "vmtree.api.UnknownPath"),
        ("/registry/rules", "registry.rules.api.RuleList"),
        ("/registry/nothing", "registry.api.UnknownPath"),
    ],
)
def test_unknown_paths_of_a_lower_app_hide_no_route_of_a_higher_one(path: str, view: str) -> None:
    assert resolve(path)._func_path == view
