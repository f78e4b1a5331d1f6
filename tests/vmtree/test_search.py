"""`?q=`"""

from __future__ import annotations

from datetime import timedelta

import pytest

from reef_site.common import clock
from registry.models import VM, Status
from tests.conftest import Api
from tests.vmtree.conftest import Make, ids
from tests.vmtree.planted import set_long_uptime
from vmtree import search
from vmtree.models import Node

Family = dict[str, Node]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["roof", "ada", "bob", "ada-1", "bob-1", "ada-2", "ada-2-1"]),
        ("ADA-2", ["ada-2", "ada-2-1"]),
        ("organ:bob", ["bob"]),
        ("organ:store category:lieutenant", ["ada", "bob"]),
        ("cap:ssh", []),
        ("capability:ssh", []),
        ("under:ada", ["ada-1", "ada-2", "ada-2-1"]),
        ("under:ada category:swarm_vm", ["ada-1", "ada-2-1"]),
        ('under:"ada" -1', ["ada-1", "ada-2-1"]),
        ("parent:roof", ["ada", "bob"]),
        ("PARENT:roof", ["ada", "bob"]),
        ("Organ:bob", ["bob"]),
        ("id:ada", ["ada"]),
        ('"organ:bob"', []),
        ("%", []),
        ("_", []),
        ("' OR 1=1 --", []),
        ('organ:"', []),
    ],
)
def test_terms_narrow_the_result(family: Family, api: Api, query: str, found: list[str]) -> None:
    answer = api.client.get("/vm-tree/vms", {"q": query})

    assert sorted(ids(answer, "vms")) == sorted(found)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("organs:store", 'Unknown filter "organs:". Try cap:, category:, error, id:'),
        ("category:boss", "category is one of lieutenant, swarm_vm, agent_vm, infra_vm, not"),
        ("under:nobody", "there is no VM 'nobody'"),
        ("parent:nobody", "parent: there is no VM 'nobody'"),
        ("a\0b", "q: has a NUL character"),
        ("organ:", '"organ:" needs a value'),
        ('"', "nothing stands behind the quote"),
        ('store ""', "nothing stands behind the quote"),
        ("x" * 1001, "at most 1000 characters"),
    ],
)
def test_unknown_term_lists_the_valid_ones(db: None, api: Api, query: str, says: str) -> None:
    answer = api.client.get("/vm-tree/vms", {"q": query})

    assert answer.status_code == 400
    assert says in answer.json()["error"]


WORDS = {
    "running": ["late", "live", "silent"],
    "live": ["live"],
    "late": ["late"],
    "silent": ["silent"],
    "paused": ["paused"],
    "stopped": ["stopped"],
}


def test_states_are_case_insensitive(database: str, make: Make, api: Api) -> None:
    set_long_uptime()
    now, far = clock.now(), timedelta(hours=6)
    for vm_id in ("live", "late", "silent", "paused", "stopped"):
        make(vm_id, name=f"is {vm_id}")
        make(f"un-{vm_id}", name=vm_id)
        status = vm_id if vm_id in Status.values else "running"
        vm = VM(id=vm_id, name=vm_id, role="worker", status=status, last_seen=now)
        vm.registered_at = now
        if status == "running":
            vm.late_after = now + far * (1 if vm_id == "live" else -1)
            vm.silent_after = now + far * (-1 if vm_id == "silent" else 1)
        vm.save()

    for word, found in WORDS.items():
        for written in (word, word.upper(), word.title()):
            answer = api.client.get("/vm-tree/vms", {"q": written})
            assert sorted(ids(answer, "vms")) == found, written
            answer = api.client.get("/registry/vms", {"q": f"{written} role:worker"})
            assert sorted(vm["id"] for vm in answer.json()["vms"]) == found, written
    for word in ("live", "late", "silent"):
        found = api.client.get("/registry/vms", {"liveness": word}).json()["vms"]
        assert {vm["id"] for vm in found} == {vm["id"] for vm in found if vm["liveness"] == word}
        assert word in {vm["id"] for vm in found}


def test_search_ignores_case_beyond_ascii(database: str, make: Make, api: Api) -> None:
    make("one", name="Größe ÉTÉ (1)")
    make("two", name="Grosse")
    for text in ("größe", "GRÖßE", "été", "Été", '"été (1)"', "one"):
        assert ids(api.client.get("/vm-tree/vms", {"q": text}), "vms") == ["one"], text
    assert ids(api.client.get("/vm-tree/vms", {"q": "ét."}), "vms") == []


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"q": "boat:x"},
            'Unknown filter "boat:". Try cap:, category:, id:, late, live, organ:,',
        ),
        ({"q": "status:away"}, "status is one of running, paused, stopped, not 'away'"),
        ({"q": "a\0"}, "q: has a NUL"),
        ({"liveness": "dead"}, "liveness: must be one of live, late, silent"),
    ],
)
def test_invalid_terms_of_the_registry_are_named(
    db: None, api: Api, asked: dict[str, str], says: str
) -> None:
    answer = api.client.get("/registry/vms", asked)

    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_higher_apps_register_terms(family: Family, api: Api) -> None:
    loud = search.Term("loud", lambda nodes, _: nodes.filter(name="ada"), flag=True)

    with search.search_terms.changed({"loud": loud}):
        assert ids(api.get("/vm-tree/vms?q=loud"), "vms") == ["ada"]
        assert ids(api.get('/vm-tree/vms?q="loud"'), "vms") == []
        assert "loud" in search.spellings(search.search_terms)
        assert api.get("/vm-tree/vms?q=loud:x").status_code == 400
