"""A copy of a data folder with an identity of its own, while agents of the original run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lieutenants.exceptions import NotTheFollower
from lieutenants.hosts import services as hosts
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision.transports import get_transport
from tests.conftest import Fleet
from tests.waiting import until

ORIGINAL = "01ORIGINALORIGINALORIGINA1"


def test_copy_is_not_followed_while_agents_of_its_original_run(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.create("ada")
    fleet.stop_follower()
    process = fleet.process("ada")
    home = Path(process.directory).parent.parent
    copy = tmp_path / home.name / "runs" / process.pk
    shutil.copytree(process.directory, copy, ignore=shutil.ignore_patterns("*.sock"))
    # The rows as the copy's database has them.
    monkeypatch.setattr(hosts, "has_own_database", lambda: True)
    DataFolder.objects.create(pk=ORIGINAL, host="box1", path=str(tmp_path), place="there")
    Lieutenant.objects.update(data_folder=ORIGINAL)
    Process.objects.update(data_folder=ORIGINAL, directory=str(copy))

    with pytest.raises(NotTheFollower, match=r"is a copy of one whose agents run.*first: ada"):
        hosts.register_folder("F1")
    assert Lieutenant.objects.get().data_folder == ORIGINAL
    assert get_transport("local").alive(process.handle)

    get_transport("local").stop(process.directory, process.handle, None)
    until(lambda: not get_transport("local").alive(process.handle), 30)
    hosts.register_folder("F1")
    assert Lieutenant.objects.get().data_folder != ORIGINAL
