"""Remote lieutenants of a follower that has died are followed by another one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction

from lieutenants.exceptions import ProgressLost
from lieutenants.hosts import takeover
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions.session import Session
from lieutenants.sessions.write_batch import save_progress
from reef_site.common import clock
from tests.lieutenants.remote.conftest import Site
from tests.waiting import until


def folder(name: str, seconds: float) -> DataFolder:
    """Create a data folder whose follower gave its last sign of life so long ago."""
    seen = clock.database_now() - timedelta(seconds=seconds)
    return DataFolder.objects.create(pk=name, host=name, path=f"/{name}", seen_at=seen)


def remote(name: str, owner: DataFolder, vm: str) -> Process:
    row = Lieutenant.objects.create(
        name=name, role="r", agent="command", command=["cat"], folder="~/x", host=vm,
        transport="ssh", on_vm=vm, data_folder=owner.pk, status="idle",
    )  # fmt: skip
    return Process.objects.create(
        lieutenant=row, host=vm, transport="ssh", directory="~/x", agent="", data_folder=owner.pk,
        handle={"keeper_pid": 1},
    )  # fmt: skip


@pytest.mark.django_db
def test_only_machines_of_silent_followers_are_taken_over() -> None:
    dead, living = folder("dead", 60), folder("living", 1)
    lost = [remote(f"lost-{number}", dead, "vm-1") for number in range(2)]
    kept = remote("kept", living, "vm-2")
    # Two followers share them: one machine is this one's share.
    assert takeover.take_over_silent() == 1
    assert takeover.take_over_silent() == 0
    for process in lost:
        process.refresh_from_db()
        assert process in Process.objects.here()
        assert process.lieutenant in Lieutenant.objects.here()
    kept.refresh_from_db()
    assert kept.data_folder == "living"


@pytest.mark.django_db
def test_followers_share_what_a_dead_one_leaves() -> None:
    dead = folder("dead", 60)
    folder("living", 1)
    for number in range(10):
        remote(f"lost-{number}", dead, f"vm-{number}")
    assert takeover.take_over_silent() == 5
    assert Lieutenant.objects.filter(data_folder="dead").count() == 5


@pytest.mark.django_db
def test_follower_that_comes_back_writes_nothing(settings: object) -> None:
    process = remote("far", folder("here", 60), "vm-1")
    Process.objects.update(data_folder=settings.DATA_FOLDER_ID)  # type: ignore[attr-defined]
    process.refresh_from_db()
    session = Session.open(process)
    Process.objects.update(data_folder="another")
    session.process.offset = 100
    with pytest.raises(ProgressLost, match="taken over"), transaction.atomic():
        save_progress([session])
    process.refresh_from_db()
    assert process.offset == 0


def test_agent_goes_on_with_another_follower(site: Site) -> None:
    site.create("far", ["cat"])
    pid = site.fleet.process("far").handle["agent_pid"]
    site.fleet.stop_follower()
    Lieutenant.objects.update(data_folder="dead")
    Process.objects.update(data_folder="dead")
    message = site.fleet.send("far", "hello")
    folder("dead", 60)
    site.fleet.restart_follower()
    until(lambda: site.fleet.get("far")["outputHistory"] == ["hello"], 30)
    assert site.fleet.process("far").handle["agent_pid"] == pid
    message.refresh_from_db()
    assert message.taken_up_at
