"""The page Storage and its API: sizes of tables and folders, and how long they are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from lieutenants.models import Lieutenant
from reef_site import env
from reef_site.common import outside
from reef_site.common.retention import retention_rules
from reef_site.sqlite import log
from reef_site.storage import folders, measuring
from reef_site.storage.models import Measurement
from reef_site.storage.reports import make_report
from tests.conftest import Api
from tests.fleets import database
from tests.lieutenants.rows import enlist
from vmtree import services, tokens
from vmtree.models import Category, Node
from vmtree.services import NewNode

__all__ = ["database"]
pytestmark = pytest.mark.django_db
NODES = 300


@pytest.fixture
def data_folder(tmp_path: Path, settings: Any) -> Path:
    settings.DATA_DIR, settings.LIEUTENANTS_DIR = tmp_path, tmp_path / "lieutenants"
    return tmp_path


@pytest.fixture
def ada(data_folder: Path) -> Lieutenant:
    """A lieutenant with files in all parts of its folder."""
    row = enlist("ada")
    write(data_folder / "lieutenants" / row.pk / "workspace" / "src" / "deep" / "big", 400_000)
    write(data_folder / "lieutenants" / row.pk / "session" / "session.jsonl", 100_000)
    write(data_folder / "lieutenants" / row.pk / "runs" / "1" / "journal", 50_000)
    write(data_folder / "lieutenants" / row.pk / "home" / ".cache" / "x", 5_000)
    write(data_folder / "snapshots" / "vms.sqlite", 30_000)
    write(data_folder / "logs" / "web.log", 20_000)
    write(data_folder / "root-token", 40)
    return row


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run outside calls at once."""
    monkeypatch.setattr(outside, "dispatch", lambda _task, call_id, **_: outside.run_here(call_id))


@pytest.fixture
def operator() -> Client:
    client = Client(headers={"accept": "text/html"})
    client.force_login(User.objects.create_superuser("grace"))
    return client


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def parts() -> dict[str, tuple[int, int]]:
    (folder,) = make_report().folders
    return {part.name: (part.size_bytes, part.count) for part in folder.parts}


def test_tables_are_measured_with_their_rows_and_retention(
    data_folder: Path, database: str
) -> None:
    Node.objects.bulk_create(
        Node(vm_id=f"vm-{n}", name=f"n{n}", category=Category.SWARM_VM) for n in range(NODES)
    )

    if database == "postgresql":
        with connection.cursor() as cursor:
            # Else its statistics come a little later.
            cursor.execute("ANALYZE vmtree_node")

    measuring.measure()

    report = make_report().database
    assert report
    assert (report.problem, report.log_bytes is None) == ("", database == "postgresql")
    tables = {table.name: table for table in report.tables}
    sizes = [table.size_bytes for table in report.tables]
    assert sizes == sorted(sizes, reverse=True)
    assert report.size_bytes >= sum(sizes) > 0
    nodes, audit = tables["vmtree_node"], tables["audit_record"]
    assert NODES <= nodes.count <= NODES * 1.1
    assert nodes.size_bytes > 50 * NODES
    assert (nodes.kept, nodes.settings) == ("no limit", ())
    assert (audit.kept, audit.settings) == (
        "90 days, at most 1,000,000 rows",
        ("REEF_AUDIT_DAYS", "REEF_AUDIT_ROWS"),
    )


def test_folders_are_measured_by_their_parts(ada: Lieutenant, data_folder: Path) -> None:
    # Neither the target of a link nor the hole of a file takes room here.
    (data_folder / "snapshots" / "link").symlink_to("/usr")
    with (data_folder / "lieutenants" / ada.pk / "runs" / "1" / "cut").open("wb") as file:
        file.truncate(50_000_000)

    measuring.measure()

    found = parts()
    assert {name: count for name, (_, count) in found.items()} == {
        "workspaces": 1,
        "sessions": 1,
        "journals": 2,
        "other files of agents": 1,
        "snapshots": 2,
        "logs": 1,
        "other": 1,
    }
    slack = 40_000
    for name, size in {"workspaces": 400_000, "sessions": 100_000, "snapshots": 30_000}.items():
        assert size <= found[name][0] <= size + slack, name
    assert found["journals"][0] < 50_000 + slack
    (folder,) = make_report().folders
    (largest,) = folder.lieutenants
    assert (largest.id, largest.name) == (ada.pk, "ada")
    assert largest.workspace_bytes == found["workspaces"][0]
    assert folder.is_complete


def test_only_the_largest_lieutenants_are_kept(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_LIEUTENANTS", 2)
    for name, size in {"small": 10_000, "large": 90_000, "middle": 50_000}.items():
        write(data_folder / "lieutenants" / name / "workspace" / "file", size)

    measuring.measure()

    (folder,) = make_report().folders
    assert [each.id for each in folder.lieutenants] == ["large", "middle"]
    assert parts()["workspaces"][1] == 3


def test_measurement_that_takes_too_long_says_so(ada: Lieutenant) -> None:
    assert folders.measure(seconds=60).is_complete
    assert not folders.measure(seconds=-1).is_complete


def test_page_shows_the_measurement_and_the_button_renews_it(
    database: str, ada: Lieutenant, operator: Client, worker: None
) -> None:
    assert "Nothing measured yet" in operator.get("/space/").content.decode()

    answer = operator.post("/space/measure/", follow=True)

    text = answer.content.decode()
    assert "Measured." in text
    assert all(each in text for each in ("REEF_AUDIT_DAYS", "Workspaces", ">ada</a>", "audit_rec"))
    first = Measurement.objects.get(subject="database").at
    operator.post("/space/measure/")
    assert Measurement.objects.get(subject="database").at > first
    assert Measurement.objects.count() == 2


def test_page_warns_of_a_long_log(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "keeps a read transaction open" not in operator.get("/space/").content.decode()
    held = log.Log(log.LONG_BYTES, [(4711, "python3")])
    monkeypatch.setattr(log, "look", lambda: held)

    text = operator.get("/space/").content.decode()

    assert "process 4711 (python3) keeps a read transaction open" in text


def test_only_operators_see_it() -> None:
    account, node = Client(), services.create(NewNode("far", Category.SWARM_VM), by="tests")
    account.force_login(User.objects.create_user("joe", is_staff=True))
    token = tokens.issue(node, made_by="tests")
    vm = Client(headers={"authorization": f"Bearer {token}"})

    refused = [
        account.get("/space/"),
        account.post("/space/measure/"),
        vm.get("/storage"),
        vm.post("/storage/measure"),
        vm.get("/storage/calls/x"),
    ]

    assert [each.status_code for each in refused] == [403] * 5
    assert not Measurement.objects.exists()


def test_api_measures_and_returns_the_same(
    database: str, ada: Lieutenant, api: Api, worker: None
) -> None:
    assert api.get("/storage").json() == {"database": None, "folders": [], "logProblem": ""}

    measured = api.post("/storage/measure").json()

    assert api.get("/storage").json() == measured
    (folder,) = measured["folders"]
    assert folder["lieutenants"][0]["workspaceBytes"] >= 400_000
    events = next(t for t in measured["database"]["tables"] if t["name"] == "eventlog_event")
    assert events["settings"] == ["REEF_EVENT_DAYS", "REEF_EVENT_ROWS"]


def test_api_tells_where_the_result_will_be(
    data_folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "dispatch", lambda *_, **__: None)
    answer = api.post("/storage/measure")
    assert answer.status_code == 202
    path = answer.json()["path"]
    assert api.get(path).json()["state"] == "running"

    outside.run_here(answer.json()["id"])

    found = api.get(path).json()
    assert (found["state"], found["folders"][0]["complete"]) == ("done", True)
    assert api.get("/storage/calls/unknown").status_code == 404


def test_rules_name_settings_that_exist_and_no_table_twice() -> None:
    named = {name for rule in retention_rules for name in rule.settings}
    assert named <= env._known
    tables = [model for rule in retention_rules for model in rule.tables]
    assert len(tables) == len(set(tables))
    assert all(rule.kept() for rule in retention_rules)
