"""Removal of VMs from the tree: VMs of active lieutenants stay, subtrees are deregistered too."""

from __future__ import annotations

import pytest

from lieutenants import membership, services
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.common.errors import NotFound
from registry.models import VM
from tests.conftest import Api
from tests.fleets import plant
from tests.lieutenants.rows import enlist
from vmtree import services as tree
from vmtree.models import Node
from vmtree.operations import services as operations

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> Lieutenant:
    plant("top")
    found = enlist("ada", Status.PAUSED)
    membership.register(found, actor="tests", parent=Node.objects.get(vm_id="top"))
    return found


def test_vm_of_an_active_lieutenant_is_not_removed(api: Api, ada: Lieutenant) -> None:
    wanted = (409, {"error": f"VM '{ada.pk}': destroy the lieutenant first"})
    for path in (ada.pk, "top?subtree=true&confirm=2", f"{ada.pk}?subtree=true&confirm=1"):
        answer = api.delete(f"/vm-tree/vms/{path}")
        assert (answer.status_code, answer.json()) == wanted, path
    assert Node.objects.active().count() == VM.objects.count() == 2


def test_refusal_lists_the_first_of_many(api: Api, ada: Lieutenant) -> None:
    for number in range(6):
        other = enlist(f"other-{number}", Status.IDLE)
        membership.register(other, actor="tests", parent=Node.objects.get(vm_id="top"))
    answer = api.delete("/vm-tree/vms/top?subtree=true&confirm=8")
    assert answer.json()["error"].endswith(" and 2 more: destroy the lieutenant first")


def test_destroyed_lieutenant_is_removed(api: Api, ada: Lieutenant) -> None:
    services.destroy("ada", actor="tests")
    assert Node.objects.get(vm_id=ada.pk).removed_at
    assert api.delete("/vm-tree/vms/top").status_code == 200


def test_subtree_is_deregistered_too(api: Api) -> None:
    for vm_id, parent in (("top", ""), ("mid", "top"), ("leaf", "mid"), ("beside", "")):
        plant(vm_id, parent)
    assert api.delete("/vm-tree/vms/top?subtree=true&confirm=3").json()["count"] == 3
    assert list(VM.objects.values_list("pk", flat=True)) == ["beside"]
    assert api.delete("/vm-tree/vms/beside").json() == {"deleted": True}
    assert VM.objects.filter(pk="beside").exists(), "a single one leaves the tree only"


def test_operations_deregister_ended_lieutenants(ada: Lieutenant) -> None:
    operations.remove_vm(ada.pk, "tests")
    assert Node.objects.get(vm_id=ada.pk).removed_at
    with pytest.raises(NotFound):
        tree.find(ada.pk)
