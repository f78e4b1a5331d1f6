"""Remote lieutenants of a follower that has died are followed by another one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction

from lieutenants.agents import dialect_of
from lieutenants.exceptions import ProgressLost, TransportError
from lieutenants.hosts import sharing, takeover
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions.session import Session
from lieutenants.sessions.write_batch import save_progress
from lieutenants.supervision.transports import transport_of
from reef_site.common import queries
from tests.lieutenants.remote import rows
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.remote.rows import folder
from tests.waiting import until


def remote(name: str, owner: DataFolder, vm: str) -> Process:
    return rows.process(rows.lieutenant(name, owner.pk, vm))


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
def test_follower_whose_lease_has_just_ended_gets_nothing_back() -> None:
    folder(settings.DATA_FOLDER_ID, 1)
    dead, living = folder("dead", 25), folder("living", 1)
    # It has ended in an orderly way, and its folder's next follower is about to start.
    DataFolder.objects.filter(pk=folder("resigned", 1).pk).update(follower="")
    for number in range(10):
        remote(f"lost-{number}", dead, f"vm-{number}")
    assert takeover.take_over_silent() == 5
    Lieutenant.objects.filter(data_folder="dead").update(data_folder=living.pk)
    assert sharing.share_out() == 0, "two followers have half of them each"
    DataFolder.objects.filter(pk=living.pk).update(is_draining=True)
    assert sharing.share_out(living.pk) == 5
    assert Lieutenant.objects.here().count() == 10


@pytest.mark.django_db
def test_only_transactions_of_those_who_lose_machines_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[set[str]] = []

    def end(data_folders: Iterable[str], _seconds: float) -> int:
        ended.append(set(data_folders))
        return 0

    monkeypatch.setattr(queries, "end_frozen_transactions", end)
    folder("removed", 60)
    assert takeover.take_over_silent() == 0
    assert ended == [], "it has nothing that others could take"
    remote("lost", folder("dead", 60), "vm-1")
    assert takeover.take_over_silent() == 1
    assert ended == [{"dead"}]


@pytest.mark.postgres
@pytest.mark.usefixtures("postgres")
def test_open_transactions_of_others_stay() -> None:
    database = connection.get_connection_params()

    def begin(name: str) -> psycopg.Connection:
        link = psycopg.connect(**{**database, "application_name": name})
        link.execute("SELECT 1")
        return link

    with begin("living") as living, closing(begin("dead")) as dead:
        assert queries.end_frozen_transactions(["dead", "another"], 0.0) == 1
        living.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            dead.execute("SELECT 1")


@pytest.mark.django_db
def test_follower_that_comes_back_writes_nothing() -> None:
    process = remote("far", folder("here", 60), "vm-1")
    Process.objects.update(data_folder=settings.DATA_FOLDER_ID)
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


# -- shares ----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_follower_that_joins_gets_its_share_from_the_others() -> None:
    here = folder(settings.DATA_FOLDER_ID, 1)
    for number in range(7):
        remote(f"far-{number}", here, f"vm-{number}")
    remote("second", here, "vm-6")
    assert sharing.share_out() == 0, "there is nobody to share with"
    folder("joined", 1)
    folder("silent", 60)
    assert sharing.share_out() == 3
    assert sharing.share_out() == 0
    given = Process.objects.filter(data_folder="joined")
    assert {each.generation for each in given} == {1}
    assert not Process.objects.filter(data_folder="silent").exists()
    for process in Process.objects.select_related("lieutenant"):
        assert process.data_folder == process.lieutenant.data_folder


@pytest.mark.django_db
def test_drained_follower_gives_all_away_and_takes_nothing(capsys: Any) -> None:
    here, other = folder(settings.DATA_FOLDER_ID, 1), folder("other", 1)
    for number in range(7):
        remote(f"far-{number}", here, f"vm-{number}")
    call_command("drain", wait=0)
    assert "7 machines are followed by others now" in capsys.readouterr().out
    assert not Process.objects.here().exists()
    # It neither takes over what a dead one leaves nor gets a share.
    remote("lost", folder("dead", 60), "vm-lost")
    assert takeover.take_over_silent() == 0
    assert sharing.share_out(other.pk) == 0
    call_command("drain", end=True)
    assert sharing.share_out(other.pk) == 3
    assert takeover.take_over_silent() == 1


@pytest.mark.django_db
def test_drain_says_what_stays() -> None:
    remote("far", folder(settings.DATA_FOLDER_ID, 1), "vm")
    with pytest.raises(CommandError, match="1 machines stay: no other worker answers"):
        call_command("drain", wait=0)


@pytest.mark.django_db
def test_machine_with_a_start_under_way_stays() -> None:
    process = remote("far", folder(settings.DATA_FOLDER_ID, 1), "vm")
    folder("other", 1)
    Lieutenant.objects.update(status="starting")
    assert not sharing.move([process.lieutenant_id], process.data_folder, "other")
    Lieutenant.objects.update(status="idle")
    assert sharing.move([process.lieutenant_id], process.data_folder, "other")


def test_keeper_refuses_commands_of_an_older_follower(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    Process.objects.filter(pk=process.pk).update(generation=3)
    newer = Process.objects.get(pk=process.pk)
    query = dialect_of(process.lieutenant).query_state("~test")
    transport_of(newer).send(newer.directory, [query])
    with pytest.raises(TransportError, match="another follower has taken this agent over"):
        transport_of(process).send(process.directory, [query])
    with pytest.raises(TransportError, match="another follower has taken this agent over"):
        transport_of(process).stop(process.directory, process.handle, None)
    site.fleet.restart_follower()
    assert site.fleet.ask("far", "hello") == "hello"
