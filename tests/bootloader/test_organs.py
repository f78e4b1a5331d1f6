"""A reef with some of its organs: routes, tasks, ticks and pages of the others are not there."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bootloader.root_stack import RootStack
from tests.stack import ROOT, free_port
from tests.waiting import until
from vmtree import organs

pytestmark = pytest.mark.timeout(180)

DOORS = {
    "lieutenant": ["/lieutenant/lieutenants", "/lieutenant/_panel", "/registry/rules"],
    "registry": ["/registry/vms", "/registry/discover/worker", "/registry/_panel"],
    "vm-tree": ["/vm-tree/vms", "/vm-tree/tree", "/vm-tree/snapshots"],
    "vers-config": ["/vers-config/"],
    "bootloader": ["/bootloader/dist/"],
}
PAGES = {
    "lieutenant": "/lieutenants/",
    "vm-tree": "/fleet/",
    "vers-config": "/config/",
    "bootloader": "/provisioning/",
}
ADMINS = {
    "lieutenant": "/admin/lieutenants/lieutenant/",
    "registry": "/admin/registry/vm/",
    "vm-tree": "/admin/vmtree/node/",
    "vers-config": "/admin/versconfig/",
    "bootloader": "/admin/bootloader/",
}
FULL = "store,cron,lieutenant,registry,vm-tree,vers-config,docs,installer"
REEFS = {
    "infra": ("store,cron,docs", set[str]()),
    "full": (FULL, {"lieutenant", "registry", "vm-tree", "vers-config"}),
    "tree": ("vm-tree", {"vm-tree"}),
}


@pytest.fixture(
    scope="module", params=["infra", "tree", pytest.param("full", marks=pytest.mark.thorough)]
)
def reef(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RootStack, set[str]]]:
    named, here = REEFS[request.param]
    with RootStack(tmp_path_factory.mktemp("reef"), REEF_ORGANS=named) as running:
        yield running, here


@contextmanager
def signed_in(roof: RootStack) -> Iterator[httpx.Client]:
    link = roof.manage("signin", "--url", roof.url).strip()
    with httpx.Client(base_url=roof.url, follow_redirects=True, timeout=30) as client:
        assert client.get(link).status_code == 200
        yield client


@pytest.mark.rotated
def test_only_routes_of_enabled_organs_exist(reef: tuple[RootStack, set[str]]) -> None:
    roof, here = reef
    for organ, paths in DOORS.items():
        for path in paths:
            answer = roof.client.get(path)
            if organ in here:
                assert answer.status_code == 200, path
            else:
                assert (answer.status_code, answer.json()) == (404, {"error": "not found"}), path
    beat = roof.client.post("/registry/vms/x/heartbeat")
    wanted = "VM not found" if "registry" in here else "not found"
    assert beat.json() == {"error": wanted}
    node = {"vmId": "n-1", "name": "n-1", "category": "infra_vm"}
    created = roof.client.post("/vm-tree/vms", json=node)
    assert created.status_code == (201 if "vm-tree" in here else 404)


def test_health_lists_enabled_services(reef: tuple[RootStack, set[str]]) -> None:
    roof, here = reef
    health = roof.client.get("/health").json()

    assert health["services"] == ["ui", *(each for each in organs.MODULES if each in here)]
    assert ("follower" in health["parts"]) == ("lieutenant" in here)
    assert ("worker" in health["parts"]) == bool(here)


def test_only_pages_of_enabled_organs_exist(reef: tuple[RootStack, set[str]]) -> None:
    roof, here = reef
    with signed_in(roof) as person:
        html = {"accept": "text/html"}
        overview = person.get("/", headers=html)
        assert overview.status_code == 200
        links = set(re.findall(r'href="(/[^"?#]*)', overview.text))
        for path in sorted(links):
            assert person.get(path, headers=html).status_code == 200, path
        for organ, path in PAGES.items():
            status = 200 if organ in here else 404
            assert person.get(path, headers=html).status_code == status, path
            assert (path in links) == (organ in here), path
        index = person.get("/admin/", headers=html)
        for organ, path in ADMINS.items():
            if organ not in here:
                assert f'href="{path}' not in index.text, path
        if "vm-tree" in here:
            assert 'href="/admin/vmtree/node/' in index.text
        assert person.get("/nowhere", headers=html).status_code == 404


def test_database_does_not_depend_on_organs(reef: tuple[RootStack, set[str]]) -> None:
    roof, _ = reef
    tables = sqlite3.connect(roof.data / "db.sqlite3").execute(
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    )
    names = {name for (name,) in tables}
    assert {"registry_vm", "vmtree_node", "lieutenants_lieutenant"} <= names
    assert {"bootloader_jointoken", "versconfig_value"} & names


_LOOK = """
import json, django
django.setup()
from reef_site.celery import app
app.loader.import_default_modules()
steps = [step.__name__ for step in app.steps["worker"]]
tasks = [name for name in app.tasks if not name.startswith("celery.")]
print(json.dumps({"tasks": tasks, "ticks": sorted(app.conf.beat_schedule), "steps": steps}))
"""


def worker_of(folder: Path, named: str) -> dict[str, Any]:
    """Return the environment of a worker of such a reef."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "REEF_DATA_DIR": str(folder / "data")}
    done = subprocess.run(
        [sys.executable, "-c", _LOOK],
        cwd=ROOT,
        env={**env, "REEF_ORGANS": named, "DJANGO_SETTINGS_MODULE": "reef_site.settings"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.rotated
@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("store", set()),
        ("vm-tree", {"vmtree"}),
        ("registry", {"vmtree", "registry"}),
        (FULL, {"vmtree", "registry", "lieutenants", "operations", "rules"}),
    ],
)
def test_only_tasks_and_ticks_of_enabled_organs_exist(
    tmp_path: Path, named: str, words: set[str]
) -> None:
    known = worker_of(tmp_path, named)
    # The site, its event log, storage and lists are no organs.
    words = words | {"reef", "activity", "storage", "lists"}

    assert {task.partition(".")[0] for task in known["tasks"]} == words
    assert {re.split("[.-]", tick)[0] for tick in known["ticks"]} <= words
    assert ("FollowerStep" in known["steps"]) == (named == FULL)


def test_all_organs_are_enabled_by_default(tmp_path: Path) -> None:
    known = worker_of(tmp_path, "")

    assert {"bootloader.tick", "lieutenants.settle", "registry.sweep"} <= set(known["tasks"])
    assert "FollowerStep" in known["steps"]


# -- settings ------------------------------------------------------------------------------------


def test_unknown_organ_stops_the_start_and_lists_known_ones(tmp_path: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "REEF_DATA_DIR": str(tmp_path / "d"),
        "REEF_ORGANS": "store,spleen",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=env, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr == (
        "reef: REEF_ORGANS: 'spleen' is no organ; known are lieutenant, registry, vm-tree,"
        " vers-config, bootloader, store, cron, docs, installer\n"
    )


@pytest.mark.parametrize(
    ("named", "kept", "description"),
    [
        ("", set(organs.MODULES), ""),
        ("none", set(), "organs: none of reef"),
        ("store docs", set(), "organs: none of reef"),
        (
            "lieutenant",
            {"lieutenant", "registry", "vm-tree"},
            "organs: lieutenant, registry, vm-tree; registry, vm-tree because the others need it",
        ),
        ("bootloader lieutenant", set(organs.MODULES), ""),
        ("vm-tree store", {"vm-tree"}, "organs: vm-tree"),
    ],
)
def test_requirements_of_organs_are_enabled(named: str, kept: set[str], description: str) -> None:
    assert organs.enabled_modules(named.split()) == kept
    assert organs.describe(named.split()) == description


@pytest.mark.rotated
def test_up_starts_only_required_processes(tmp_path: Path) -> None:
    """A reef without modules has no worker; it is healthy and lists its organs."""
    port, log = free_port(), tmp_path / "up.log"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REEF_ORGANS": "store,cron,docs"}
    with log.open("wb") as out:
        up = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(port)],
            cwd=ROOT,
            env={**env, "REEF_DATA_DIR": str(tmp_path / "data")},
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: "sign in, once" in log.read_text() or up.poll() is not None, 60)
        health = httpx.get(f"http://127.0.0.1:{port}/health").json()
        assert (health["status"], health["services"]) == ("ok", ["ui"])
        assert not {"worker", "follower"} & set(health["parts"])
        until(lambda: "organs: none of reef" in log.read_text())
        logs = {each.stem for each in (tmp_path / "data" / "logs").iterdir()}
        assert logs == {"up", "redis", "web", "edge"}
    finally:
        up.terminate()
        up.wait(20)
