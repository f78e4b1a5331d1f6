"""`?q=` over registered VMs knows the words of the tree's search, too."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.conftest import Api
from tests.registry.conftest import Register
from vmtree import services as tree
from vmtree.services import NewNode


@pytest.fixture
def fleet(register: Register) -> None:
    """Create roof → (ada → ada-1, bob), and a VM that is only registered."""
    stores: dict[str, Any] = {"organs": ["store", "cron"], "capabilities": ["ssh"]}
    register("roof", reefConfig={"organs": ["storekeeper"], "capabilities": []})
    tree.create(NewNode("roof", "infra_vm", "roof"), by="tests")
    for vm_id, parent in (("ada", "roof"), ("ada-1", "ada"), ("bob", "roof")):
        dna = stores if vm_id != "bob" else {"organs": ["cron"], "capabilities": []}
        register(vm_id, reefConfig=dna)
        tree.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
    register("loose", reefConfig=stores)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("organ:store", ["ada", "ada-1", "loose"]),
        ("organ:cron cap:ssh", ["ada", "ada-1", "loose"]),
        ("capability:ssh under:ada", ["ada-1"]),
        ("category:agent_vm", ["ada", "ada-1", "bob"]),
        ("category:infra_vm running", ["roof"]),
        ("under:roof organ:cron", ["ada", "ada-1", "bob"]),
        ("organ:Store", []),
        ("parent:nobody", []),
    ],
)
def test_registry_accepts_search_terms_of_the_tree(
    api: Api, fleet: None, query: str, found: list[str]
) -> None:
    answer = api.get(f"/registry/vms?{urlencode({'q': query})}")
    assert answer.status_code == 200, answer.content
    assert sorted(vm["id"] for vm in answer.json()["vms"]) == found


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("category:king", "q: category is one of lieutenant, swarm_vm, agent_vm, infra_vm, not"),
        ("under:nobody", "q: under: there is no VM 'nobody'"),
        ("organs:store", 'q: Unknown filter "organs:". Try cap:, category:, id:, late, live,'),
    ],
)
def test_invalid_search_term_is_named(api: Api, fleet: None, query: str, error: str) -> None:
    answer = api.get(f"/registry/vms?{urlencode({'q': query})}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)
