"""Locks of processes, lieutenants and the tree: taken in one order, so that nobody deadlocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone

from lieutenants.hosts import adoption
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision import made_vms, remote_pause, starts
from lieutenants.supervision.discovery import following
from lieutenants.supervision.discovery.following import FoundRun
from reef_site.common import database_locks
from reef_site.common.database_locks import DatabaseLock
from tests.dispatching import drop_tasks
from tests.lieutenants.remote import rows
from tests.vmtree.conftest import database

__all__ = ["database"]

HANDLE = {"keeper_pid": 7}


@pytest.fixture(autouse=True)
def _no_workers(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_tasks(monkeypatch, "")
    rows.machine()


def lock_processes() -> None:
    list(Process.objects.select_for_update())


def lock_lieutenants() -> None:
    list(Lieutenant.objects.select_for_update())


def freeze() -> Callable[[], bool]:
    row = rows.lieutenant(status="paused")
    process = rows.process(row, ready_at=timezone.now())
    # So that the VM itself is not paused.
    rows.lieutenant("gone", status="destroyed", has_remote_files=True)
    claimed = rows.claim(row)
    return lambda: remote_pause.freeze(claimed, process)


def thaw() -> Callable[[], bool]:
    row = rows.lieutenant(status="paused")
    process = rows.process(row, is_frozen=True, ended_at=timezone.now())
    claimed = rows.claim(row)
    return lambda: remote_pause.thaw(claimed, process, stop=True)


def adopt_keeper() -> Callable[[], bool]:
    process = rows.process(rows.lieutenant(status="starting"), handle={})

    def act() -> bool:
        starts.adopt_keeper(process, HANDLE)
        return bool(Process.objects.get().handle == HANDLE)

    return act


def follow() -> Callable[[], bool]:
    row = rows.lieutenant(status="error")
    process = rows.process(row, ended_at=timezone.now())

    def act() -> bool:
        following.follow(row, FoundRun(row.pk, process.pk, "~/x", HANDLE, "vm-1"))
        return Process.objects.get().ended_at is None

    return act


def adopt_host() -> Callable[[], bool]:
    rows.folder("other", 100)
    rows.process(rows.lieutenant(owner="other"))
    return lambda: "taken over" in adoption.adopt("other", actor="tests")[0]


@pytest.mark.parametrize("prepare", [freeze, thaw, adopt_keeper, follow, adopt_host])
def test_processes_are_locked_before_their_lieutenants(
    prepare: Callable[[], Callable[[], bool]],
) -> None:
    assert rows.at_once(lock_processes, prepare(), lock_lieutenants)


def test_node_of_a_new_vm_is_moved_beside_creations_of_nodes() -> None:
    row = rows.lieutenant(status="starting", vm="vm-1")
    made = rows.made_vm(row)
    Lieutenant.objects.update(on_vm="")
    row = rows.claim(row)

    def create() -> None:
        database_locks.lock(DatabaseLock.TREE_STRUCTURE, shared=True)

    def move() -> None:
        database_locks.lock(DatabaseLock.TREE_STRUCTURE)

    assert rows.at_once(create, lambda: made_vms.bring_up(row), move)
    assert Lieutenant.objects.get().on_vm == made.provisioning.vm_id
