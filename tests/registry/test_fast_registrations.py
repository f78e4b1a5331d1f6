"""Registrations and new nodes of the edge make the rows and responses that Django makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings as of_site

from registry import fast_registrations, plain_bodies
from registry.fast_limits import WriteLimits
from registry.remembered import Remembered
from tests.both_writes import Case, check_passed_on, check_plain, send_fast
from tests.registry.conftest import Register
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node
from vmtree.services import NewNode

REGISTRY, TREE = "/registry/vms", "/vm-tree/vms"
VM_BODY = {"name": "n", "role": "worker", "address": "a", "registeredBy": "me"}
NODE_BODY = {"name": "n", "category": "agent_vm"}
DNA = {"organs": ["störe", "store"], "capabilities": ["ssh"]}


def vm(vm_id: str, **more: object) -> dict[str, Any]:
    return {"id": vm_id, **VM_BODY, **more}


def node(vm_id: str, **more: object) -> dict[str, Any]:
    return {"vmId": vm_id, **NODE_BODY, **more}


def post(token: str, path: str, body: dict[str, Any]) -> Case:
    return Case(token, "POST", path, body)


def nested(levels: int) -> list[Any]:
    """Return lists in each other, which can be parsed, but from 255 levels on not written."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


PLAIN: dict[str, Case] = {
    "a new VM": post("root", REGISTRY, vm("new")),
    "a VM with everything": post(
        *("root", REGISTRY),
        vm("new", reefConfig=DNA, services=[{"a": 1.5}], metadata={"ä": [None]}, parentVmId="?"),
    ),
    "a VM below a node": post("root", REGISTRY, vm("new", role="lieutenant", parentVmId="mid")),
    "a VM below a removed node": post("root", REGISTRY, vm("new", parentVmId="gone")),
    "a VM again": post("root", REGISTRY, vm("low", name="other", reefConfig=DNA)),
    "a VM again, with its parent": post("root", REGISTRY, vm("low", parentVmId="mid")),
    "a VM that waits for its place": post("root", REGISTRY, vm("loose")),
    "a VM by itself": post("mid", REGISTRY, vm("mid", services=["x"])),
    "a VM by itself where it is": post("mid", REGISTRY, vm("mid", parentVmId="top")),
    "a node": post("root", TREE, node("new")),
    "a node with DNA": post("root", TREE, node("new", reefConfig=DNA)),
    "a node below another": post("root", TREE, node("new", parentVmId="mid", category="swarm_vm")),
    "a node by its parent": post("mid", TREE, node("new", parentVmId="mid")),
    "a node by one above": post("top", TREE, node("new", parentVmId="low", reefConfig={})),
}
PASSED_ON: dict[str, Case] = {
    "an id twice": post("root", TREE, node("mid")),
    "a removed id": post("root", TREE, node("gone")),
    "no such parent": post("root", TREE, node("new", parentVmId="nobody")),
    "a removed parent": post("root", TREE, node("new", parentVmId="gone")),
    "a root by a node": post("mid", TREE, node("new")),
    "a node elsewhere": post("mid", TREE, node("new", parentVmId="top")),
    "a node without id": post("root", TREE, {**NODE_BODY}),
    "a number as id": post("root", TREE, {**node("x"), "vmId": 7}),
    "an unknown field": post("root", TREE, node("new", parentID="mid")),
    "a wrong category": post("root", TREE, node("new", category="vm")),
    "a name with blanks": post("root", TREE, node("new", name=" n ")),
    "an invisible name": post("root", TREE, node("new", name="a\u200bb")),
    "an id like a route": post("root", TREE, node("new/token")),
    "an alias": post("root", TREE, node("new", parentVmId="local-ada")),
    "another VM": post("mid", REGISTRY, vm("low")),
    "a VM that moves itself": post("mid", REGISTRY, vm("mid", parentVmId="low")),
    "a VM without a node by a node": post("mid", REGISTRY, vm("new", parentVmId="mid")),
    "no parent": post("root", REGISTRY, vm("low", parentVmId=None)),
    "its own parent": post("root", REGISTRY, vm("new", parentVmId="new")),
    "a circle": post("root", REGISTRY, vm("top", parentVmId="low")),
    "absent services": post("root", REGISTRY, vm("low", services=0)),
    "wrong services": post("root", REGISTRY, vm("low", services={})),
    "wrong DNA": post("root", REGISTRY, vm("low", reefConfig={"organ": []})),
    "a large number": post("root", REGISTRY, vm("low", metadata=1e300)),
    "no name": post("root", REGISTRY, vm("low", name="")),
    "a wrong role": post("root", REGISTRY, vm("low", role="boss")),
    "deep metadata": post("root", REGISTRY, vm("low", metadata=nested(300))),
    "deep services": post("root", REGISTRY, vm("low", services=nested(300))),
}


@pytest.fixture
def shown(register: Register) -> dict[str, str]:
    """Create top → mid → low in both tables, a VM whose parent comes later; return tokens."""
    made = {}
    for vm_id, parent in (("top", ""), ("mid", "top"), ("low", "mid"), ("gone", "top")):
        made[vm_id] = tree.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
        register(vm_id, **({"parentVmId": parent} if parent else {}))
    register("loose", parentVmId="later")
    tree.create(NewNode("later", "agent_vm", "later", "top"), by="tests")
    tree.remove("gone", by="tests")
    issued = {name: tokens.issue(made[name], made_by="tests") for name in ("top", "mid")}
    return {"root": of_site.ROOT_TOKEN, **issued}


def test_plain_requests_make_the_same_rows_and_responses(shown: dict[str, str]) -> None:
    check_plain(PLAIN, shown)


def test_all_others_are_passed_on_without_a_trace(shown: dict[str, str]) -> None:
    check_passed_on(PASSED_ON, shown)
    long = json.dumps(vm("low", metadata="x" * 70_000)).encode()
    for body in (long, b"{x", b"[]", b"", b'{"id":"a\\u0000"}', b"\xff"):
        assert send_fast(Case("root", "POST", REGISTRY, body), shown) is None, body


def test_a_batch_leaves_what_depends_on_each_other_to_django(shown: dict[str, str]) -> None:
    registrations = [
        *(vm("a", parentVmId="b"), vm("b", parentVmId="a")),
        *(vm("twice"), vm("twice", name="x"), vm("both", parentVmId="mid"), vm("alone")),
    ]
    nodes = [node("both", name="from the tree"), node("below", parentVmId="both")]
    requests = []
    for path, bodies in ((REGISTRY, registrations), (TREE, nodes)):
        what = "register" if path == REGISTRY else "create"
        for body in bodies:
            parsed = plain_bodies.parse(what, None, json.dumps(body).encode(), "")
            assert parsed
            requests.append(parsed)
    responses, changed = fast_registrations.write(requests, Remembered())
    statuses = [response and response.status for response in responses]
    assert statuses == [None, None, None, None, 201, 201, 201, None]
    assert changed == {"both", "alone"}
    assert Node.objects.get(vm_id="both").name == "from the tree"


def test_revoked_and_made_up_tokens_are_refused(shown: dict[str, str]) -> None:
    tree.revoke_tokens("mid", by="tests")
    for token in (shown["mid"], "reef_nonsense"):
        answer = send_fast(post(token, REGISTRY, vm("mid")), shown)
        assert answer
        assert answer.status == 401


def test_writes_beyond_the_limit_of_a_token_are_left_to_django(settings: Any) -> None:
    settings.RATE_LIMIT, settings.ROOT_RATE_LIMIT = 2, 0
    limits = WriteLimits()
    assert [limits.allow("a") for _ in range(3)] == [True, True, False]
    assert limits.allow("b")
    assert all(limits.allow(None) for _ in range(10))
