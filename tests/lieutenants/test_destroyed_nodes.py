"""A destroyed lieutenant whose node stays in the tree, since it has children."""

from __future__ import annotations

from typing import Any

import pytest

from lieutenants import membership
from lieutenants.states import Status
from tests.conftest import Api
from tests.fleets import plant
from tests.lieutenants.rows import enlist
from vmtree.models import Node


def nodes(answer: Any) -> dict[str, dict[str, Any]]:
    return {each["vmId"]: each for each in answer.json()["vms"]}


def test_tree_shows_a_destroyed_node(database: str, api: Api) -> None:
    ada = enlist("ada")
    membership.register(ada, actor="tests")
    plant("child", ada.pk)
    plain = nodes(api.get("/vm-tree/vms?category=lieutenant"))[ada.pk]
    assert "destroyed" not in plain
    assert "destroyed" not in api.get("/vm-tree/stats").json()

    ada.move(Status.DESTROYED, reason="tests")

    listed = nodes(api.get("/vm-tree/vms?category=lieutenant"))[ada.pk]
    assert listed["destroyed"] is True
    assert listed["destroyedAt"] == listed["updatedAt"]
    assert api.get(f"/vm-tree/vms/{ada.pk}").json() == listed
    tree = api.get("/vm-tree/tree").json()["tree"]
    assert [each["vm"].get("destroyed") for each in tree] == [True]
    assert [each["vm"].get("destroyed") for each in tree[0]["children"]] == [None]
    assert api.get("/vm-tree/stats").json()["destroyed"] == 1


@pytest.mark.django_db
def test_reconcile_marks_a_node_once_and_deregisters_it_without_children(api: Api) -> None:
    ada = enlist("ada")
    membership.register(ada, actor="tests")
    plant("child", ada.pk)
    ada.move(Status.DESTROYED, reason="tests")
    first = Node.objects.get(vm_id=ada.pk).destroyed_at

    membership.deregister(ada, actor="reef")
    assert Node.objects.get(vm_id=ada.pk).destroyed_at == first
    api.delete("/vm-tree/vms/child")
    membership.deregister(ada, actor="reef")
    assert Node.objects.get(vm_id=ada.pk).removed_at is not None
