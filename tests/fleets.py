"""Small fleets as rows, and a queue in place of broker and workers."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import Any

import pytest

from registry.models import VM
from tests.dispatching import intercept_tasks
from vmtree import services as tree
from vmtree.operations import runner
from vmtree.operations.models import Job
from vmtree.services import NewNode


class Pump:
    """Queue of dispatched tasks that `work` runs; delays are ignored."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, Any]] = deque()

    def enqueue(self, task: str, args: list[Any], _countdown: float) -> None:
        call = task.removeprefix("operations."), args[0]
        if call[0] == "act" or call not in self.waiting:
            self.waiting.append(call)

    def work(self, tasks_at_most: int = 2000) -> None:
        while self.waiting:
            tasks_at_most -= 1
            assert tasks_at_most, "endless tasks"
            name, argument = self.waiting.popleft()
            getattr(runner, name)(argument)


@pytest.fixture
def pump(monkeypatch: pytest.MonkeyPatch) -> Pump:
    waiting = Pump()
    intercept_tasks(monkeypatch, "operations.", waiting.enqueue)
    monkeypatch.setattr(runner, "RECHECK_INTERVAL", timedelta(0))
    return waiting


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases; tests with a real fleet use the default one."""
    request.getfixturevalue("transactional_db")
    if request.param == "postgresql":
        if "fleet" in request.fixturenames:
            pytest.skip("its processes are bound to the usual database")
        request.getfixturevalue("postgres")
    return str(request.param)


def plant(vm_id: str, parent: str = "", *, status: str = "running", **fields: Any) -> VM:
    """Create a VM in the tree and the registry."""
    category = fields.pop("category", "swarm_vm")
    tree.create(NewNode(vm_id, category, vm_id=vm_id, parent_vm_id=parent), by="tests")
    vm = VM(id=vm_id, name=vm_id, role="worker", registered_by="tests", address="::1", **fields)
    vm.parent_vm_id = parent or None
    vm.seen(vm.last_seen, status=status)
    vm.save(force_insert=True)
    return vm


def grow() -> None:
    """Create root → (left → leaf, leaf2; right)."""
    for vm_id, parent in (
        ("root", ""),
        ("left", "root"),
        ("right", "root"),
        ("leaf", "left"),
        ("leaf2", "left"),
    ):
        plant(vm_id, parent)


def states(job_id: str) -> dict[str, str]:
    return dict(Job.objects.get(pk=job_id).steps.values_list("vm_id", "state"))
