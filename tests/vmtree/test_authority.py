"""Permissions of node tokens in every service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Api
from tests.vmtree.conftest import NodeApi, ids
from vmtree import permissions, services, tokens
from vmtree.models import Node, NodeToken

Family = dict[str, Node]
As = Callable[[Node], NodeApi]
AT = "/vm-tree/vms"

READS = (
    *("/vm-tree/vms", "/vm-tree/tree", "/vm-tree/stats", "/vm-tree/_panel", f"{AT}/bob"),
    *(f"{AT}/bob/history", f"{AT}/bob/ancestors", "/vm-tree/find/organ/store"),
    *("/lieutenant/lieutenants", "/registry/vms"),
)


def is_refused(answer: Any) -> bool:
    """Return whether it is a 403 that names the rule."""
    return bool(answer.status_code == 403 and permissions.RULE in answer.json()["error"])


def patch(api: Api, vm_id: str, **fields: object) -> Any:
    return api.client.patch(f"{AT}/{vm_id}", data=fields, content_type="application/json")


def test_node_reads_the_fleet(family: Family, as_node: As) -> None:
    ada = as_node(family["ada"])

    assert {path: ada.get(path).status_code for path in READS} == dict.fromkeys(READS, 200)


def test_node_changes_itself_and_its_descendants(family: Family, as_node: As) -> None:
    ada = as_node(family["ada"])

    written = {vm_id: patch(ada, vm_id, name="new").status_code for vm_id in family}

    assert written == {
        **dict.fromkeys(("ada", "ada-1", "ada-2", "ada-2-1"), 200),
        **dict.fromkeys(("roof", "bob", "bob-1"), 403),
    }
    assert services.find("ada").revisions.last().actor == "node ada"  # type: ignore[union-attr]


def test_node_creates_vms_only_below_itself(family: Family, as_node: As) -> None:
    ada = as_node(family["ada"])

    def create(parent: str | None) -> int:
        body = {"name": "new", "category": "swarm_vm", "parentVmId": parent}
        return int(ada.post(AT, body).status_code)

    assert [create("ada"), create("ada-2-1")] == [201, 201]
    assert [create("roof"), create("bob"), create(None), create("")] == [403] * 4


def test_node_removes_and_issues_tokens_only_for_its_descendants(
    family: Family, as_node: As
) -> None:
    ada = as_node(family["ada"])

    assert is_refused(ada.delete(f"{AT}/ada?subtree=true&confirm=4"))
    assert is_refused(ada.delete(f"{AT}/bob-1"))
    assert is_refused(ada.post(f"{AT}/ada/token"))
    assert is_refused(ada.post(f"{AT}/bob/token"))
    assert is_refused(ada.delete(f"{AT}/roof/token"))
    assert ada.post(f"{AT}/ada-1/token").status_code == 201
    assert ada.delete(f"{AT}/ada-1").status_code == 200
    assert ada.delete(f"{AT}/ada-2?subtree=true&confirm=2").status_code == 200


def test_node_moves_vms_only_within_its_subtree(family: Family, as_node: As) -> None:
    ada = as_node(family["ada"])

    assert is_refused(patch(ada, "ada", parentVmId="bob"))
    assert is_refused(patch(ada, "ada", parentVmId=None))
    assert is_refused(patch(ada, "ada-1", parentVmId="bob"))
    assert is_refused(patch(ada, "ada-1", parentVmId=None))
    assert is_refused(patch(ada, "bob-1", parentVmId="ada"))
    assert patch(ada, "ada-1", parentVmId="ada-2").status_code == 200
    assert patch(ada, "ada", parentVmId="roof").status_code == 200, "it is there already"


def test_node_changes_categories_of_descendants_only(family: Family, as_node: As) -> None:
    ada = as_node(family["ada"])

    assert is_refused(patch(ada, "ada", category="infra_vm"))
    assert patch(ada, "ada", category="lieutenant", name="new").status_code == 200
    assert patch(ada, "ada-1", category="agent_vm").status_code == 200


def test_node_cannot_change_its_parent_in_the_registry(
    family: Family, api: Api, as_node: As
) -> None:
    facts = {"name": "n", "role": "worker", "address": "a", "registeredBy": "tests"}
    for vm_id in ("ada", "ada-1"):
        body = {**facts, "id": vm_id, "parentVmId": family[vm_id].parent_vm_id}
        assert api.post("/registry/vms", body).status_code == 201
    ada = as_node(family["ada"])

    def move(vm_id: str, parent: str | None) -> Any:
        body = {"parentVmId": parent}
        return ada.client.patch(f"/registry/vms/{vm_id}", body, content_type="application/json")

    for parent in ("bob", "ada-2", "unknown", None):
        assert is_refused(move("ada", parent)), parent
    assert is_refused(move("ada-1", "bob"))
    assert is_refused(move("ada-1", None))
    assert move("ada-1", "ada-2").status_code == 200
    assert move("ada", "roof").status_code == 200, "it is there already"
    again = ada.post("/registry/vms", {**facts, "id": "ada", "parentVmId": None})
    assert (again.status_code, again.json()["parentVmId"]) == (201, "roof")


def test_route_without_a_permission_refuses_nodes(family: Family, as_node: As) -> None:
    ada = as_node(family["ada"])

    assert is_refused(ada.post("/lieutenant/unknown"))


def test_token_of_a_removed_node_is_rejected(family: Family, api: Api, as_node: As) -> None:
    descendant, sibling = as_node(family["ada-2-1"]), as_node(family["bob"])

    services.remove("ada", by="tests", subtree=True, confirm=4)

    assert descendant.get(AT).status_code == 401
    assert descendant.get(AT).headers["WWW-Authenticate"] == "Bearer"
    assert sibling.get(AT).status_code == 200
    assert not NodeToken.objects.good().exclude(node=family["bob"]).exists()


def test_new_token_replaces_the_old_one(family: Family, api: Api) -> None:
    first = api.post(f"{AT}/ada/token").json()["token"]
    second = api.post(f"{AT}/ada/token").json()

    assert second["vmId"] == "ada"
    assert NodeApi(first).get(AT).status_code == 401
    assert NodeApi(second["token"]).get(AT).status_code == 200
    digests = list(NodeToken.objects.values_list("digest", flat=True))
    assert all(first not in digest and len(digest) == 64 for digest in digests)
    assert first not in str(api.get(f"{AT}/ada/token").json())


@pytest.mark.parametrize("token", ["reef_", "reef_x", "x", "reef_" + "é" * 40, ""])
def test_invalid_tokens_are_rejected(db: None, token: str) -> None:
    assert tokens.node_of(token) is None
    assert NodeApi(token).get(AT).status_code == 401


def test_operator_and_root_token_have_all_permissions(
    family: Family, admin_api: Api, api: Api
) -> None:
    assert patch(api, "roof", name="r").status_code == 200
    assert ids(admin_api.get(AT), "vms")
    assert patch(admin_api, "roof", name="s").status_code == 200
