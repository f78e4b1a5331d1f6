"""The tree of the API: nested, flat, limited, ancestors, descendants, and at earlier times."""

from __future__ import annotations

import json
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

from reef_site.common import clock
from tests.conftest import Api
from tests.vmtree.conftest import Make, ids
from vmtree import services
from vmtree.models import Node
from vmtree.services import NodeChange

Family = dict[str, Node]


def shape(tree: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["vm"]["vmId"]: shape(each["children"]) for each in tree}


WHOLE = {"roof": {"ada": {"ada-1": {}, "ada-2": {"ada-2-1": {}}}, "bob": {"bob-1": {}}}}


def test_tree_is_nested(family: Family, api: Api) -> None:
    answer = api.get("/vm-tree/tree").json()

    assert shape(answer["tree"]) == WHOLE
    assert answer["count"] == 7


def test_lists_have_the_same_fields_as_a_single_node(family: Family, api: Api, make: Make) -> None:
    make('odd "id" é\\', name='a "name" ü 🌊', organs=('q"uote', "ß\\"), under="ada")
    services.change("bob", NodeChange(dna=None), by="tests")
    # New names with control characters are refused, but old rows may have some.
    Node.objects.filter(vm_id="bob").update(name="b\n\tob")
    listed = api.get("/vm-tree/vms")

    assert b"\\u00" not in listed.content
    assert b'": ' not in listed.content
    for vm in listed.json()["vms"]:
        assert vm == json.loads(api.get(f"/vm-tree/vms/{vm['vmId']}".replace('"', "%22")).content)


def test_tree_is_limited_by_root_and_depth(family: Family, api: Api) -> None:
    under_ada = api.get("/vm-tree/tree?root=ada").json()
    top = api.get("/vm-tree/tree?depth=1").json()

    assert shape(under_ada["tree"]) == {"ada": WHOLE["roof"]["ada"]}
    assert under_ada["count"] == 7
    assert shape(top["tree"]) == {"roof": {"ada": {}, "bob": {}}}
    assert shape(api.get("/vm-tree/tree?root=ada&depth=0").json()["tree"]) == {"ada": {}}
    assert api.get("/vm-tree/tree?root=nobody").json()["tree"] == []


def test_flat_tree_lists_nodes(family: Family, api: Api) -> None:
    assert len(ids(api.get("/vm-tree/tree?flat=true"), "vms")) == 7
    assert ids(api.get("/vm-tree/tree?flat=true&depth=1"), "vms") == ["roof", "ada", "bob"]
    assert ids(api.get("/vm-tree/tree?flat=true&root=bob"), "vms") == ["bob", "bob-1"]


def test_since_returns_only_changed_nodes(family: Family, api: Api) -> None:
    Node.objects.update(updated_at=clock.parse_timestamp("2020-01-01T00:00:00Z", "x"))
    services.change("ada-1", NodeChange(name="new"), by="tests")
    services.remove("bob-1", by="tests")

    changed = api.get("/vm-tree/tree?since=2021-01-01T00:00:00.000Z")
    under_bob = api.get("/vm-tree/tree?flat=true&root=bob&since=2021-01-01T00:00:00.000Z")

    assert sorted(ids(changed, "vms")) == ["ada-1", "bob-1"]
    assert {each["vmId"]: "removedAt" in each for each in changed.json()["vms"]} == {
        "ada-1": False,
        "bob-1": True,
    }
    assert changed.json()["until"] < clock.format_timestamp(clock.now())
    assert ids(under_bob, "vms") == ["bob-1"]


def test_ancestors_descendants_and_children_are_listed(family: Family, api: Api) -> None:
    at = "/vm-tree/vms"
    assert ids(api.get(f"{at}/ada-2-1/ancestors"), "ancestors") == [
        *("roof", "ada", "ada-2", "ada-2-1")
    ]
    assert ids(api.get(f"{at}/roof/descendants"), "descendants") == [
        *("ada", "bob", "ada-1", "ada-2", "bob-1", "ada-2-1")
    ]
    assert ids(api.get(f"{at}/ada/children"), "children") == ["ada-1", "ada-2"]
    assert ids(api.get(f"{at}/ada-1/children"), "children") == []
    assert api.get(f"{at}/nobody/ancestors").json() == {"error": "VM not found"}


def test_tree_is_shown_at_an_earlier_time(family: Family, api: Api) -> None:
    for vm_id, second in (("roof", 1), ("ada", 2), ("bob", 3), ("ada-1", 4)):
        family[vm_id].revisions.update(at=f"2026-01-01T00:00:0{second}Z")
    services.change("ada-1", NodeChange(parent_vm_id="bob", name="moved"), by="tests")
    services.remove("ada", by="tests", subtree=True, confirm=3)

    then = api.get("/vm-tree/tree?at=2026-01-01T00:00:05Z").json()
    early = api.get("/vm-tree/tree?at=2026-01-01T00:00:02Z&flat=true").json()
    limited = api.get("/vm-tree/tree?at=2026-01-01T00:00:05Z&root=ada").json()
    now = api.get(f"/vm-tree/tree?at={clock.format_timestamp(clock.now())}").json()

    assert shape(then["tree"]) == {"roof": {"ada": {"ada-1": {}}, "bob": {}}}
    assert then["count"] == 4
    assert [vm["vmId"] for vm in early["vms"]] == ["roof", "ada"]
    assert shape(limited["tree"]) == {"ada": {"ada-1": {}}}
    assert shape(now["tree"]) == {"roof": {"bob": {"ada-1": {}, "bob-1": {}}}}
    assert shape(api.get("/vm-tree/tree?at=2026-01-01T00:00:05Z&depth=1").json()["tree"]) == {
        "roof": {"ada": {}, "bob": {}}
    }
    assert api.get("/vm-tree/tree?at=yesterday").status_code == 400
    assert api.get("/vm-tree/tree?at=2026-01-01&since=2026-01-01").status_code == 400


def test_deep_chain_is_returned(database: str, api: Api) -> None:
    create_chain(3000)

    answer = api.get("/vm-tree/tree")

    assert answer.status_code == 200
    assert answer.content.count(b'"children":[{') == 2999
    assert len(ids(api.get("/vm-tree/vms/c2999/ancestors"), "ancestors")) == 3000
    assert len(ids(api.get("/vm-tree/vms/c0/descendants"), "descendants")) == 2999


def create_chain(length: int) -> None:
    """Create c0 → c1 → … without history."""
    top = Node.objects.create(vm_id="c0", name="c0", category="agent_vm")
    Node.objects.bulk_create(
        Node(id=top.pk + n, vm_id=f"c{n}", name="", category="agent_vm", parent_id=top.pk + n - 1)
        for n in range(1, length)
    )


def test_number_of_queries_does_not_grow_with_the_tree(
    family: Family, api: Api, make: Make
) -> None:
    paths = (
        *("tree", "tree?flat=true", "tree?depth=3", "tree?root=roof", "vms", "vms?q=store"),
        *("vms/ada-1/ancestors", "vms/roof/descendants", "vms/roof/children", "stats"),
        *("find/organ/store", "vms/roof/history", "_panel", "vms?q=under:roof organ:store"),
    )
    small = {path: count_queries(api, path) for path in paths}
    for number in range(60):
        make(f"more-{number}", under=f"more-{number - 1}" if number else "ada", organs=("store",))
    large = {path: count_queries(api, path) for path in paths}

    assert small == large
    assert max(large.values()) <= 4


def count_queries(api: Api, path: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert api.get(f"/vm-tree/{path}").status_code == 200
    return len(queries)
