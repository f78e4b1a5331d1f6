"""Queries of the live tree, on both databases."""

from __future__ import annotations

from datetime import timedelta

from django.test import Client

from reef_site.accounts.signin_links import make_operator
from reef_site.common import clock
from reef_site.dashboard import aggregate_health
from reef_site.dashboard.tree_history import PastTree
from registry.models import VM
from tests.vmtree.conftest import Make
from tests.vmtree.planted import set_long_uptime
from vmtree import services
from vmtree.models import Node
from vmtree.queries import nodes


def register(vm_id: str, *, minutes: int, status: str = "running") -> None:
    """Register a VM whose last heartbeat was this long ago."""
    vm = VM(id=vm_id, name=vm_id, role="worker", registered_by="tests", interval_ms=30_000)
    vm.last_seen = clock.now() - timedelta(minutes=minutes)
    vm.seen(vm.last_seen, status=status)
    vm.save()


def test_worst_state_of_descendants_reaches_the_root(family: dict[str, Node]) -> None:
    register("ada-1", minutes=0)
    register("ada-2-1", minutes=9)
    register("bob-1", minutes=4)
    register("bob", minutes=0, status="paused")
    keys = [node.pk for node in family.values()]
    names = {node.pk: name for name, node in family.items()}
    found = aggregate_health.worst_descendant_states(keys, clock.now(), grace=False)
    assert {names[key]: word for key, word in found.items()} == {
        "roof": "silent",
        "ada": "silent",
        "ada-2": "silent",
        "bob": "late",
    }
    forgiven = aggregate_health.worst_descendant_states(keys, clock.now(), grace=True)
    assert set(forgiven.values()) == {"late"}
    assert aggregate_health.worst_descendant_states([], clock.now(), grace=False) == {}


def test_ancestors_are_found_up_to_a_depth(family: dict[str, Node]) -> None:
    key = family["ada-2-1"].pk
    path = {family[name].pk for name in ("roof", "ada", "ada-2", "ada-2-1")}
    assert nodes.keys_of_vms_and_ancestors(["ada-2-1", "nobody"]) == path
    assert nodes.with_ancestors([key], 1) == {key, family["ada-2"].pk}
    assert nodes.with_ancestors([key], 100) == path


def test_pages_render(family: dict[str, Node], make: Make) -> None:
    set_long_uptime()
    before = clock.now()
    register("ada-2-1", minutes=9)
    services.remove("bob-1", by="tests")
    make("later", under="bob", organs=("store",))
    client = Client()
    client.force_login(make_operator())
    paths = ["", "?q=silent", "?q=organ:store", f"_children/{family['ada'].pk}", "picture/"]
    for path in [*paths, "then/", f"{family['bob'].pk}/"]:
        assert client.get(f"/fleet/{path}").status_code == 200, path
    past = PastTree(before)
    assert {(each.node.vm_id, each.kind) for each in past.since} >= {("bob-1", "removed")}
