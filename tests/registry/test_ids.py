"""Ids that no path would find again are refused, in the tree and in the registry."""

from __future__ import annotations

import pytest

from tests.conftest import Api

pytestmark = pytest.mark.django_db
REGISTRATION = {"name": "n", "role": "worker", "address": "a", "registeredBy": "tests"}


@pytest.mark.parametrize(
    ("vm_id", "text"),
    [
        (".", "must not be or have '.' or '..' as a part of a path"),
        ("..", "must not be or have '.' or '..' as a part of a path"),
        ("a/../b", "must not be or have '.' or '..' as a part of a path"),
        ("t1/ancestors", "must not end like a route, with /ancestors"),
        ("t1/heartbeat", "must not end like a route, with /heartbeat"),
        ("t1/destroy", "must not end like a route, with /destroy"),
        ("t1/diff/t2", "must not end like a route, with /diff"),
    ],
)
def test_ids_that_collide_with_routes_are_rejected(api: Api, vm_id: str, text: str) -> None:
    body = {"name": "n", "category": "agent_vm", "vmId": vm_id}
    answer = api.post("/vm-tree/vms", body)
    assert (answer.status_code, answer.json()) == (400, {"error": f"vmId: {text}"})
    answer = api.post("/registry/vms", {**REGISTRATION, "id": vm_id})
    assert (answer.status_code, answer.json()) == (400, {"error": f"id: {text}"})


@pytest.mark.parametrize("vm_id", ["ancestors", "a.b", "...", "a/b", "ancestors/t1", "diff/a"])
def test_ids_with_special_characters_work_in_routes(api: Api, vm_id: str) -> None:
    body = {"name": "n", "category": "agent_vm", "vmId": vm_id}
    assert api.post("/vm-tree/vms", body).status_code == 201
    assert api.post("/registry/vms", {**REGISTRATION, "id": vm_id}).status_code == 201
    path = vm_id.replace("/", "%2F")
    assert api.get(f"/vm-tree/vms/{path}").json()["vmId"] == vm_id
    assert api.get(f"/registry/vms/{path}").json()["id"] == vm_id


def test_wrong_name_of_the_id_field_is_corrected(api: Api) -> None:
    answer = api.post("/vm-tree/vms", {"name": "n", "category": "agent_vm", "id": "t1"})
    assert (answer.status_code, answer.json()) == (400, {"error": "id: is called vmId here"})
