"""Rows of remote lieutenants, as services and starts write them, and threads beside the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, connections, transaction

from bootloader.models import Machine, Provisioning
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, MadeVM, Process
from reef_site.common import clock
from tests.waiting import until


def folder(name: str, seconds: float) -> DataFolder:
    """Create a data folder whose follower gave its last sign of life so long ago."""
    seen = clock.database_now() - timedelta(seconds=seconds)
    return DataFolder.objects.create(
        pk=name, host=name, path=f"/{name}", seen_at=seen, follower="F"
    )


def lieutenant(name: str = "far", owner: str = "", vm: str = "vm-1", **fields: Any) -> Lieutenant:
    usual: dict[str, Any] = {
        "role": "r",
        "agent": "command",
        "command": ["cat"],
        "folder": "~/x",
        "host": vm,
    }
    usual |= {"transport": "ssh", "on_vm": vm, "status": "idle"}
    owner = owner or settings.DATA_FOLDER_ID
    return Lieutenant.objects.create(name=name, data_folder=owner, **{**usual, **fields})


def process(of: Lieutenant, **fields: Any) -> Process:
    usual: dict[str, Any] = {"host": of.host, "transport": "ssh", "directory": "~/x", "agent": ""}
    usual |= {"data_folder": of.data_folder, "handle": {"keeper_pid": 1}}
    return Process.objects.create(lieutenant=of, **{**usual, **fields})


def machine(vm: str = "vm-1", **fields: Any) -> Machine:
    return Machine.objects.create(
        **{"provider": "vers", "machine_id": vm, "vm_id": vm, "state": "running", **fields}
    )


def made_vm(of: Lieutenant, **fields: Any) -> MadeVM:
    """Create the record that the machine of a lieutenant was made for it."""
    usual: dict[str, Any] = {
        "name": of.name,
        "provider": "vers",
        "state": "done",
        "vm_id": of.on_vm,
    }
    usual |= {"machine": Machine.objects.filter(vm_id=of.on_vm).first(), "wish": {"commit": "c"}}
    made = Provisioning.objects.create(**{**usual, **fields})
    return MadeVM.objects.create(lieutenant=of, provisioning=made)


def claim(of: Lieutenant, seconds: float = 60.0) -> Lieutenant:
    found = Lieutenant.objects.claim(of.pk, timedelta(seconds=seconds))
    assert found is not None
    return found


def at_once(
    first: Callable[[], Any], then: Callable[[], Any], last: Callable[[], Any] = lambda: None
) -> Any:
    """Return what `then` returns if it begins before the transaction of `first` has committed.

    `last` runs in that transaction as well, when `then` waits.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(then())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    with transaction.atomic():
        first()
        thread.start()
        _until_one_waits()
        last()
    thread.join(30)
    assert not thread.is_alive()
    return results[0]


def _until_one_waits() -> None:
    """Wait until another connection waits for a lock. On SQLite, each writer waits for others."""
    if connection.vendor == "postgresql":
        sql = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until(lambda: _number(sql), 10)


def _number(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])
