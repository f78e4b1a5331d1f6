"""Names with characters that nobody sees: refused where they are new, marked where they are old."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from registry.models import VM
from tests.conftest import Api
from tests.lieutenants.conftest import operator
from tests.vmtree.planted import set_long_uptime
from vmtree import names
from vmtree.models import Node

__all__ = ["operator"]

pytestmark = pytest.mark.django_db

TREE = "/vm-tree/vms"
REGISTRY = "/registry/vms"
HIDDEN = ["\u202e", "\u2066", "\u200b", "\u200d", "\u2060", "\ufeff", "\u061c", "\x1b", "\x7f"]
HIDDEN += ["\x85", "\u2028", "\u00ad", "\n"]
OLD = "evil\u202eexe.live\u200b"
SHOWN = "evil[U+202E]exe.live[U+200B]"


@pytest.fixture(autouse=True)
def _long_uptime(db: None) -> None:
    set_long_uptime()


def registration(name: str, vm_id: str = "vm-1", **more: Any) -> dict[str, Any]:
    facts = {"id": vm_id, "name": name, "role": "worker", "address": "x", "registeredBy": "t"}
    return {**facts, **more}


def patch(api: Api, path: str, **fields: object) -> Any:
    return api.client.patch(path, data=fields, content_type="application/json")


def names_the_field(answer: Any) -> bool:
    """Return whether it is a 400 that names the field "name"."""
    return bool(answer.status_code == 400 and answer.json()["error"].startswith("name: "))


def create_with_old_name(vm_id: str = "vm-1", name: str = OLD) -> None:
    """Create a VM, in tree and registry, from before such names were refused."""
    api = Api()
    assert api.post(TREE, {"name": "x", "category": "agent_vm", "vmId": vm_id}).status_code == 201
    assert api.post(REGISTRY, registration("x", vm_id)).status_code == 201
    Node.objects.filter(vm_id=vm_id).update(name=name)
    VM.objects.filter(pk=vm_id).update(name=name)


@pytest.mark.parametrize("sign", HIDDEN, ids=ascii)
def test_new_names_with_hidden_characters_are_rejected(api: Api, sign: str) -> None:
    name = f"a{sign}b"
    create_with_old_name("known", "known")

    assert names_the_field(api.post(TREE, {"name": name, "category": "agent_vm"}))
    assert names_the_field(api.post(REGISTRY, registration(name)))
    assert names_the_field(patch(api, f"{TREE}/known", name=name))
    assert names_the_field(patch(api, f"{REGISTRY}/known", name=name))
    assert names_the_field(api.post(REGISTRY, registration(name, "known")))
    body = {"name": name, "role": "r", "local": True}
    assert names_the_field(api.post("/lieutenant/lieutenants", body))
    body_with_name = {"vmId": "new", "name": name, "type": "lightweight"}
    assert names_the_field(api.post("/bootloader/generate", body_with_name))
    assert not Node.objects.filter(name=name).exists()
    assert not VM.objects.filter(name=name).exists()


def test_ids_with_hidden_characters_are_rejected(api: Api) -> None:
    answer = api.post(REGISTRY, registration("a", "vm\u202e1"))

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("id: ")


@pytest.mark.parametrize("name", ["größer", "名前", "Ада", "שלום", "emoji 😀", "a b", "‘quoted’"])
def test_names_in_any_language_are_accepted(api: Api, name: str) -> None:
    assert api.post(TREE, {"name": name, "category": "agent_vm"}).status_code == 201
    assert api.post(REGISTRY, registration(name)).status_code == 201


def test_vms_with_an_old_name_can_be_updated(api: Api) -> None:
    create_with_old_name()

    assert api.post(REGISTRY, registration(OLD)).status_code == 201
    assert patch(api, f"{REGISTRY}/vm-1", name=OLD, status="running").status_code == 200
    assert patch(api, f"{TREE}/vm-1", name=OLD, category="swarm_vm").status_code == 200
    assert patch(api, f"{TREE}/vm-1", name="good").status_code == 200


def test_pages_mark_hidden_characters_in_old_names(api: Api, operator: Client) -> None:
    create_with_old_name()
    api.post(REGISTRY, registration("x", "loose"))
    VM.objects.filter(pk="loose").update(name=OLD)
    key = Node.objects.get(vm_id="vm-1").pk

    for path in (
        *(
            "/fleet/",
            f"/fleet/{key}/",
            f"/fleet/{key}/_facts",
            "/fleet/picture/",
            "/fleet/picture/_drawing",
        ),
        *("/fleet/registered/?vm=loose", "/fleet/registered/_facts?vm=loose", "/config/?vm=vm-1"),
        *("/registry/_panel", "/vm-tree/_panel", "/admin/vmtree/node/", "/admin/registry/vm/"),
        f"/admin/vmtree/node/{key}/history/",
    ):
        client = api.client if path.endswith("_panel") else operator
        answer = client.get(path)
        assert answer.status_code == 200, path
        html = answer.content.decode()
        assert "\u202e" not in html, path
        assert "\u200b" not in html, path
        assert "evil[U+202E]" in html, path


def test_only_hidden_characters_are_marked() -> None:
    assert names.marked(OLD) == SHOWN
    assert names.marked("größer 名前 שלום 😀\u00a0x") == "größer 名前 שלום 😀\u00a0x"


def test_vm_ids_with_the_prefix_of_lieutenants_are_rejected(api: Api) -> None:
    """Otherwise a VM could receive a lieutenant's config or children."""
    vm = {"id": "local-ada", "name": "x", "role": "worker", "address": "a", "registeredBy": "me"}
    for path, body in (
        ("/registry/vms", vm),
        ("/vm-tree/vms", {"vmId": "local-ada", "name": "x", "category": "swarm_vm"}),
    ):
        answer = api.post(path, body)
        assert answer.status_code == 400
        assert "must not begin with local-" in answer.json()["error"]
