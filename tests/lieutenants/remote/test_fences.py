"""Commands of followers that were overtaken, and of a database older than its keepers."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lieutenants.agents import dialect_of
from lieutenants.exceptions import Overtaken
from lieutenants.hosts import fences
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision import runtime
from lieutenants.supervision.transports import ssh_transport_of, transport_of
from lieutenants.supervision.transports.ssh.places import place_of
from lieutenants.supervision.transports.ssh.relay import operations
from lieutenants.supervision.transports.ssh.relay.machine import Refused
from lieutenants.supervision.transports.ssh.transport import SshTransport
from reef_site.common import clock
from tests.lieutenants.remote import rows
from tests.lieutenants.remote.conftest import Site
from tests.lieutenants.remote.test_remote_command import is_running
from tests.waiting import until


def of_generation(process: Process, generation: int) -> SshTransport:
    return SshTransport(place_of(process.lieutenant), generation)


def announce(process: Process, generation: int) -> None:
    """Let the keeper know a follower of this generation."""
    of_generation(process, generation).send(process.directory, [])


@pytest.mark.rotated
def test_database_from_an_older_backup_catches_up_with_its_keepers(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    announce(process, 5)
    assert site.fleet.ask("far", "hello") == "hello"
    process.refresh_from_db()
    assert process.generation == 6
    with pytest.raises(Overtaken) as refused:
        announce(process, 5)
    assert refused.value.generation == 6


def test_stop_and_removal_catch_up_as_well(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    announce(process, 3)
    site.fleet.stop_follower()
    Lieutenant.objects.update(status="paused")
    Process.objects.update(generation=0)
    process.refresh_from_db()
    runtime.halt(process, working=False)
    assert Process.objects.get().generation == 0, "no follower has the lease of its data folder"
    now = clock.database_now()
    DataFolder.objects.update_or_create(
        pk=process.data_folder, defaults={"follower": "F", "seen_at": now, "host": "h", "path": "/"}
    )
    runtime.halt(process, working=False)
    assert Process.objects.get().generation == process.generation == 4
    runtime.halt(process, working=False)
    until(lambda: not is_running(process.handle["keeper_pid"]))

    DataFolder.objects.update(follower="")
    site.fleet.restart_follower()
    until(lambda: site.fleet.row("far").live_process() is None)
    Process.objects.update(generation=1)
    assert site.fleet.api.delete("/lieutenant/lieutenants/far").status_code == 200
    until(lambda: not Lieutenant.objects.filter(has_remote_files=True).exists(), 30)
    assert not site.agents.exists()


@pytest.mark.rotated
def test_requests_around_the_keeper_are_refused_as_well(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    site.fleet.stop_follower()
    announce(process, 2)
    older, newer = of_generation(process, 1), of_generation(process, 2)
    for keeper in (False, True):
        with pytest.raises(Overtaken):
            older.end(process.directory, process.handle, keeper=keeper)
    assert is_running(process.handle["agent_pid"])

    newer.end(process.directory, process.handle, keeper=True)
    until(lambda: not is_running(process.handle["keeper_pid"]))
    run = site.folder("far") / "runs" / process.pk
    # A stop would end what runs of a later process.
    with pytest.raises(Overtaken):
        older.stop(process.directory, process.handle, None)
    with pytest.raises(Overtaken):
        older.remove(process.lieutenant_id)
    older.clean(process.directory)
    older.list_runs()
    assert run.exists()
    newer.clean(process.directory)
    until(lambda: not run.exists())
    Process.objects.update(generation=2)
    site.fleet.restart_follower()


def test_new_follower_is_announced_before_it_sends_anything(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    site.fleet.stop_follower()
    Process.objects.update(generation=4)
    site.fleet.restart_follower()
    query = dialect_of(process.lieutenant).query_state("~late")

    def is_refused() -> bool:
        try:
            transport_of(process).send(process.directory, [query])
        except Overtaken:
            return True
        return False

    until(is_refused)
    assert site.fleet.ask("far", "hello") == "hello"


def test_late_start_touches_nothing_of_a_later_run(site: Site) -> None:
    site.create("far", ["cat"])
    process = site.fleet.process("far")
    own = site.folder("far")
    (own / "tmp" / "note").write_text("of the agent")
    late = f"{process.directory.rpartition('/')[0]}/late"
    transport = ssh_transport_of(process.lieutenant)
    request: dict[str, Any] = {"op": "start", "emptied": ["tmp"], "spec": {"dir": late}}
    with pytest.raises(Exception, match="another supervisor of this lieutenant runs"):
        transport.link.ask(request)
    assert transport.withdraw(late) is None
    with pytest.raises(Exception, match="was given up"):
        transport.link.ask(request)
    assert (own / "tmp" / "note").exists()


def test_inherited_agents_are_ended_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by a relay: on the machine of the tests, it would end sessions that are not the test's.
    removed: list[str] = []
    files = SimpleNamespace(
        which=lambda *_, **__: None, rmtree=lambda path, **_: removed.append(path)
    )
    monkeypatch.setattr(operations, "shutil", files)
    monkeypatch.setattr(operations, "ROOT", str(tmp_path))
    monkeypatch.setattr(operations, "sweep", lambda *_: None)
    own = tmp_path / "lieutenants" / "inherited"
    own.mkdir(parents=True)
    assert operations.evict({"kept": [], "once": "copy-1"}) == {"ended": ["inherited"]}
    assert str(own) in removed
    removed.clear()
    # The answer was lost, and others came meanwhile.
    assert operations.evict({"kept": [], "once": "copy-1"}) == {"ended": []}
    assert removed == []
    assert operations.evict({"kept": ["inherited"], "once": "copy-2"}) == {"ended": []}
    assert operations.evict({"kept": [], "once": "copy-3"}) == {"ended": ["inherited"]}


def test_evictions_at_the_same_time_end_agents_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    is_ending, may_go_on = threading.Event(), threading.Event()

    def sweep(_program: object, owner: str) -> None:
        ended.append(owner)
        is_ending.set()
        may_go_on.wait(10)

    monkeypatch.setattr(operations, "FOLDER", str(tmp_path / "none"))
    monkeypatch.setattr(operations, "find_older", lambda: {"older": None})
    monkeypatch.setattr(operations, "end_older", lambda *_: False)
    monkeypatch.setattr(operations, "ROOT", str(tmp_path))
    monkeypatch.setattr(operations, "sweep", sweep)
    (tmp_path / "lieutenants" / "inherited").mkdir(parents=True)
    request = {"kept": [], "once": "copy-1"}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(operations.evict, request)
        assert is_ending.wait(10)
        second = pool.submit(operations.evict, request)
        # One of a lieutenant that begins there when the first eviction is done.
        (tmp_path / "lieutenants" / "later").mkdir()
        may_go_on.set()
        assert first.result(10) == {"ended": ["inherited"]}
        assert second.result(10) == {"ended": []}
    assert ended == ["inherited"]
    monkeypatch.setattr(operations, "EVICT_SECONDS", 0.0)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(Refused, match="are still being ended"):
        operations.evict(request)
    os.close(folder)


@pytest.mark.django_db
def test_only_the_follower_with_the_lease_catches_up() -> None:
    process = rows.process(rows.lieutenant())
    assert not fences.catch_up(process, 7), "no follower"
    own = rows.folder(process.data_folder, 60)
    assert not fences.catch_up(process, 7), "its lease has ended"
    DataFolder.objects.filter(pk=own.pk).update(seen_at=clock.database_now())
    assert fences.catch_up(process, 7)
    assert fences.catch_up(process, 2)
    assert Process.objects.get().generation == process.generation == 8
    Lieutenant.objects.update(data_folder="other")
    assert not fences.catch_up(process, 9), "another follower has taken it over"
    assert Process.objects.get().generation == 8


@pytest.mark.django_db
def test_process_that_ended_under_another_follower_catches_up_for_the_removal_of_its_files() -> (
    None
):
    row = rows.lieutenant(status="destroyed", has_remote_files=True)
    rows.folder(row.data_folder, 1)
    process = rows.process(row, data_folder="dead", ended_at=clock.database_now())
    assert fences.catch_up_newest(row, 7)
    assert Process.objects.get().generation == 8
    Process.objects.update(ended_at=None)
    assert not fences.catch_up(process, 9), "it runs, and another follower has it"
    Process.objects.update(ended_at=clock.database_now())
    Lieutenant.objects.update(data_folder="other")
    assert not fences.catch_up_newest(row, 9)
    assert Process.objects.get().generation == 8
