"""The `vmId` that the API returns for a lieutenant is accepted wherever an id is."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from lieutenants import membership
from lieutenants.models import Lieutenant
from tests.conftest import Api
from tests.wire.api_client import LIEUTENANTS, create_row
from vmtree import services, tokens
from vmtree.models import Node
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db
ADA = "local-ada"


@pytest.fixture
def ada(api: Api) -> Lieutenant:
    lieutenant = create_row("ada")
    membership.register(lieutenant, actor="tests")
    return lieutenant


@pytest.mark.parametrize("path", ["", "/ancestors", "/descendants", "/children", "/history"])
def test_tree_accepts_the_alias(api: Api, ada: Lieutenant, path: str) -> None:
    by_alias, by_id = (api.get(f"/vm-tree/vms/{vm_id}{path}") for vm_id in (ADA, ada.pk))
    assert (by_alias.status_code, by_alias.content) == (200, by_id.content)


@pytest.mark.parametrize("path", ["", "/children", "/ancestors", "/subtree", "/gaps"])
def test_registry_accepts_the_alias(api: Api, ada: Lieutenant, path: str) -> None:
    answer = api.get(f"/registry/vms/{ADA}{path}")
    assert answer.status_code == 200
    if path in ("", "/ancestors", "/subtree"):
        assert ada.pk in answer.content.decode()


def test_alias_can_be_a_parent(api: Api, ada: Lieutenant) -> None:
    low = {"name": "low", "category": "agent_vm", "vmId": "low", "parentVmId": ADA}
    assert api.post("/vm-tree/vms", low).json()["parentVmId"] == ada.pk
    other = {"name": "other", "category": "agent_vm", "vmId": "other"}
    assert api.post("/vm-tree/vms", other).status_code == 201
    moved = api.client.patch(
        "/vm-tree/vms/other", {"parentVmId": ADA}, content_type="application/json"
    )
    assert moved.json()["parentVmId"] == ada.pk
    vm = {"id": "vm", "name": "vm", "role": "worker", "address": "x", "registeredBy": "t"}
    assert api.post("/registry/vms", {**vm, "parentVmId": ADA}).json()["parentVmId"] == ada.pk
    for path, key in (
        (f"/vm-tree/vms?parentVmId={ADA}", "vmId"),
        (f"/registry/vms?parentVmId={ADA}", "id"),
        (f"/registry/vms?q=parent:{ADA}", "id"),
        (f"/vm-tree/vms?q=under:{ADA}", "vmId"),
    ):
        assert "vm" in [each[key] for each in api.get(path).json()["vms"]], path
    tree = api.get(f"/vm-tree/tree?root={ADA}").json()["tree"]
    assert tree[0]["vm"]["vmId"] == ada.pk


def test_heartbeats_and_placement_accept_the_alias(api: Api, ada: Lieutenant) -> None:
    assert api.post(f"/registry/vms/{ADA}/heartbeat").json()["id"] == ada.pk
    result = api.post("/registry/heartbeats", {"ids": [ADA], "beats": [{"id": "local-bob"}]}).json()
    assert (result["count"], result["unknown"]) == (1, ["local-bob"])


def test_operations_and_config_accept_the_alias(api: Api, ada: Lieutenant) -> None:
    plan = api.post(f"/vm-tree/vms/{ADA}/pause?dryRun=true").json()["plan"]
    assert ada.pk in str(plan)
    put = api.client.put(
        "/vers-config/REEF_AGENT_MODEL",
        {"value": "a/b", "vm": ADA},
        content_type="application/json",
    )
    assert put.json()["vmId"] == ada.pk
    assert api.get(f"/vm-tree/jobs?vmId={ADA}").status_code == 200
    assert api.post(f"/vm-tree/vms/{ADA}/token").json()["vmId"] == ada.pk


def test_lieutenant_routes_accept_the_alias(api: Api, ada: Lieutenant) -> None:
    for path in ("", "/read", "/transcript", "/messages", "/usage", "/stream"):
        assert api.get(f"{LIEUTENANTS}/{ADA}{path}").status_code == 200, path
    sent: Any = api.post(f"{LIEUTENANTS}/{ADA}/send", {"message": "x"})
    assert sent.status_code == 200
    assert ada.messages.get().pk == sent.json()["messageId"]


def test_alias_does_not_match_nodes_by_name(api: Api) -> None:
    services.create(NewNode("ada", "lieutenant", "imposter"), by="tests")
    assert api.get(f"/vm-tree/vms/{ADA}").status_code == 404


def test_permissions_of_an_alias_are_those_of_the_lieutenant(api: Api, ada: Lieutenant) -> None:
    services.create(NewNode("far", "agent_vm", "far"), by="tests")
    token = tokens.issue(Node.objects.get(vm_id="far"), made_by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})
    for path in (f"/vm-tree/vms/{ADA}/pause", f"/vm-tree/vms/{ADA}/token"):
        assert node.post(path, {}, content_type="application/json").status_code == 403
    assert node.post(f"/registry/vms/{ADA}/heartbeat").status_code == 403


@pytest.mark.parametrize("name", ["destroy-all", "discover"])
def test_names_of_routes_are_rejected(api: Api, name: str) -> None:
    answer = api.post(LIEUTENANTS, {"name": name, "role": "tests"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"name: '{name}' cannot be used, as /lieutenant/")
    assert not Lieutenant.objects.exists()


def test_ui_redirects_to_the_overview(client: Client) -> None:
    for path in ("/ui", "/ui/", "/ui/anything"):
        answer = client.get(path)
        assert (answer.status_code, answer["Location"]) == (302, "/")


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Kiritimati"])
@pytest.mark.parametrize("at", ["9999-12-31T23:59", "0001-01-01T00:00", "9999-12-31T23:59:59Z"])
def test_time_out_of_range_is_rejected(
    api: Api, admin_client: Client, settings: Any, at: str, zone: str
) -> None:
    settings.TIME_ZONE = zone
    assert api.get(f"/vm-tree/tree?at={at}").status_code == 400
    assert admin_client.get(f"/fleet/then/?at={at}").status_code == 400


def test_limit_of_0_is_rejected_by_all_lists(api: Api, ada: Lieutenant) -> None:
    for path in (
        *("/registry/vms", "/vm-tree/vms", "/vm-tree/jobs", "/vers-config/history"),
        *("/registry/firings", "/bootloader/machines", "/bootloader/findings"),
        *("/bootloader/provisionings", f"{LIEUTENANTS}/ada/messages"),
        *(f"{LIEUTENANTS}/ada/transcript", f"/vm-tree/vms/{ADA}/history"),
    ):
        refused = api.get(f"{path}?limit=0")
        assert refused.status_code == 400, path
        assert refused.json()["error"].startswith("limit: must be a whole number from 1 to ")
        assert api.get(f"{path}?limit=1").json().get("next", "none") is None, path


def test_renamed_node_does_not_change_the_alias(api: Api, ada: Lieutenant) -> None:
    """Agents may rename their own nodes; that must not let them impersonate others."""
    bob = create_row("bob")
    membership.register(bob, actor="tests")
    Node.objects.filter(vm_id=bob.pk).update(name="ada")
    Node.objects.filter(vm_id=ada.pk).update(name="other")
    assert api.get(f"/vm-tree/vms/{ADA}").json()["vmId"] == ada.pk
    assert api.get("/vm-tree/vms/local-bob").json()["vmId"] == bob.pk
    assert api.get("/vm-tree/vms/local-other").status_code == 404


def test_name_like_an_alias_is_rejected(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    refused = api.post(LIEUTENANTS, {"name": "local-ada", "role": "r", "local": True})
    assert refused.status_code == 400
    assert "local-" in refused.json()["error"]
