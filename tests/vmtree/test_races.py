"""Two at the same time, on a database that lets them in together."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import connections

from reef_site.common import database_locks, events
from reef_site.common.errors import ReefError
from tests.vmtree.conftest import Make
from vmtree import services
from vmtree.lineage import ancestor_keys, descendant_keys
from vmtree.models import LINKS, Node
from vmtree.services import NewNode, NodeChange

pytestmark = pytest.mark.postgres
ROUNDS = 30


def run_concurrently(*functions: Callable[[], object]) -> list[str]:
    """Run all functions at once, each on its own connection; return their outcomes."""
    start = threading.Barrier(len(functions))
    outcomes = [""] * len(functions)

    def run(number: int, act: Callable[[], object]) -> None:
        try:
            start.wait(10)
            act()
            outcomes[number] = "done"
        except ReefError as error:
            outcomes[number] = str(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=each) for each in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


def move(vm_id: str, under: str) -> Callable[[], object]:
    return lambda: services.change(vm_id, NodeChange(parent_vm_id=under), by="tests")


def test_concurrent_moves_never_create_a_cycle(postgres: object, make: Make) -> None:
    make("roof")
    won = []
    for number in range(ROUNDS):
        one, two, of_one, of_two = (f"{name}{number}" for name in ("a", "b", "a-", "b-"))
        for vm_id, parent in ((one, "roof"), (two, "roof"), (of_one, one), (of_two, two)):
            make(vm_id, under=parent)
        # The moves change different rows, so row locks would not help.
        outcomes = run_concurrently(move(one, of_two), move(two, of_one))
        won.append(outcomes.count("done"))
        for vm_id in (one, two, of_one, of_two):
            node = Node.objects.get(vm_id=vm_id)
            assert ancestor_keys(LINKS, node.pk)[0] == Node.objects.get(vm_id="roof").pk
    assert won == [1] * ROUNDS


def test_moves_without_the_lock_create_a_cycle(
    postgres: object, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_locks, "lock", lambda *_, **__: None)
    both = threading.Barrier(2)
    # Both have checked, and neither has committed.
    monkeypatch.setattr(events, "publish_nodes", lambda _ids: both.wait(10))
    for vm_id, parent in (("a", None), ("b", None), ("a-", "a"), ("b-", "b")):
        above = Node.objects.filter(vm_id=parent).first()
        Node.objects.create(vm_id=vm_id, category="agent_vm", parent=above)

    assert run_concurrently(move("a", "b-"), move("b", "a-")) == ["done", "done"]
    # The queries terminate despite the cycle.
    start = Node.objects.get(vm_id="a")
    assert len(ancestor_keys(LINKS, start.pk)) == len(descendant_keys(LINKS, start.pk)) == 4


def test_no_node_is_created_below_a_removed_one(postgres: object, make: Make) -> None:
    make("roof")
    for number in range(ROUNDS):
        parent, child = f"p{number}", f"k{number}"
        make(parent, under="roof")
        make(f"q{number}", under=parent)
        run_concurrently(
            lambda: services.remove(parent, by="tests", subtree=True, confirm=2),  # noqa: B023
            lambda: services.create(
                NewNode("x", "agent_vm", child, parent_vm_id=f"q{number}"),  # noqa: B023
                by="tests",
            ),
        )
        orphans = Node.objects.active().filter(parent__removed_at__isnull=False)
        assert not orphans.exists()


def test_only_one_of_two_creations_gets_the_id(postgres: object) -> None:
    for number in range(ROUNDS):
        new = NewNode("x", "agent_vm", f"n{number}")
        outcomes = run_concurrently(*[lambda: services.create(new, by="tests")] * 2)  # noqa: B023

        assert sorted(outcomes) == [f"VM 'n{number}' exists already", "done"]
