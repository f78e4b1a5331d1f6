"""VMs that are registered and have no place in the tree: seen there all the same, and put there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.dashboard import root_row, unplaced
from reef_site.dashboard.tree_rows import Moment
from registry.models import VM
from tests.conftest import Api
from tests.lieutenants.conftest import operator
from tests.registry.conftest import age
from tests.vmtree.planted import set_long_uptime
from vmtree import services
from vmtree.models import Node
from vmtree.services import NewNode

__all__ = ["operator"]

pytestmark = pytest.mark.django_db
GROUP = "/fleet/_children/registered"


@pytest.fixture(autouse=True)
def _long_uptime(db: None) -> None:
    set_long_uptime()


def register(api: Api, vm_id: str, parent: str | None = None, **more: Any) -> None:
    body: dict[str, Any] = {
        "id": vm_id,
        "name": f"name of {vm_id}",
        "role": "worker",
        "address": "10.0.0.1",
    }
    body |= {"role": "worker", "registeredBy": "tests", "parentVmId": parent, **more}
    assert api.post("/registry/vms", body).status_code == 201


def plant(vm_id: str, under: str = "") -> Node:
    return services.create(NewNode(vm_id, "swarm_vm", vm_id, under), by="tests")


def page(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.content
    return " ".join(answer.content.decode().split())


def unplaced_group(html: str) -> str:
    found = re.search(r'<div role="treeitem"[^>]*id="nregistered".*?</div>', html, re.DOTALL)
    return found[0] if found else ""


def test_unplaced_vms_are_in_a_group_below_the_root(operator: Client, api: Api) -> None:
    plant("known")
    register(api, "known")
    assert not unplaced_group(page(operator, "/fleet/"))
    register(api, "a")
    register(api, "b", parent="nobody")
    age("b", minutes=30)

    html = page(operator, "/fleet/")
    assert ">2<" in unplaced_group(html)
    assert "is-silent" in unplaced_group(html)
    assert "1 VM, 2 not in the tree" in " ".join(html.split())
    for path in ("/", "/fleet/_children/0"):
        assert unplaced_group(page(operator, path)), path
    for path in ("/fleet/?q=known", "/fleet/?under=known", "/fleet/_children/0?after=1&place=1"):
        assert not unplaced_group(page(operator, path)) or "after" in path
    rows = page(operator, f"{GROUP}?level=3")
    assert re.findall(r'data-vm="([^"]+)"', rows) == ["a", "b"]
    assert "reports parent nobody" in rows
    assert 'is-silent">silent' in rows


def test_search_finds_unplaced_vms_in_their_group(operator: Client, api: Api) -> None:
    plant("known")
    for vm_id in ("known", "a-1", "a-2", "b-1"):
        register(api, vm_id)
    age("a-2", minutes=30)
    for words, found in (
        ("a-", ["a-1", "a-2"]),
        ("A- silent", ["a-2"]),
        ("id:b-1 Running", ["b-1"]),
        ("live", ["known", "a-1", "b-1"]),
        ("status:paused", []),
        ("cap:ssh", []),
    ):
        html = " ".join(operator.get("/fleet/_tree", {"q": words}).content.decode().split())
        assert re.findall(r'data-vm="([^"]+)"', html) == found, words
        loose = [vm_id for vm_id in found if vm_id != "known"]
        assert bool(unplaced_group(html)) == bool(loose), words
        assert f"{len(loose)} not in the tree" in " ".join(html.split()) or not loose
    assert "1 VM found" in page(operator, "/fleet/?q=live")


def test_found_vms_beyond_the_page_are_counted(
    operator: Client, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unplaced, "PAGE", 2)
    for vm_id in ("a-1", "a-2", "a-3"):
        register(api, vm_id)
    html = page(operator, "/fleet/?q=a-")
    assert "3 not in the tree, the first 2 of them shown" in " ".join(html.split())
    assert "a-3" not in html


def test_unplaced_vms_are_shown_without_a_tree(operator: Client, api: Api) -> None:
    register(api, "a")
    html = page(operator, "/fleet/")
    assert "No VM has a place" not in html
    assert 'aria-expanded="true"' in html


def test_group_is_paginated(operator: Client, api: Api) -> None:
    for number in range(5):
        register(api, f"vm-{number}")
    first = page(operator, f"{GROUP}?limit=3")
    assert re.findall(r'aria-posinset="(\d)"', first) == ["1", "2", "3", "5"]
    assert "(2 not shown)" in first
    more = re.search(r'data-after="([^"]+)" data-place="(\d)"', first)
    assert more
    second = page(operator, f"{GROUP}?limit=3&after={more[1]}&place={more[2]}")
    assert re.findall(r'data-vm="([^"]+)"', second) == ["vm-3", "vm-4"]
    assert "not shown" not in second


def test_side_panel_shows_an_unplaced_vm(operator: Client, api: Api) -> None:
    register(api, "lonely", parent="known", services=[{"name": "ssh", "port": 22}])
    plant("known")
    for path in ("/fleet/registered/_facts?vm=lonely", "/fleet/registered/?vm=lonely"):
        html = page(operator, path)
        assert "not in the tree" in " ".join(html.split())
        assert 'name="under" value="known"' in html
        assert '<option value="agent_vm" selected>' in " ".join(html.split())
        assert "port 22" in html
    assert operator.get("/fleet/vm?vm=lonely")["Location"] == "/fleet/registered/?vm=lonely"
    page(operator, "/fleet/registered/?vm=nobody", 404)
    page(operator, "/fleet/vm?vm=nobody", 404)


def test_unplaced_vm_is_added_to_the_tree(operator: Client, api: Api) -> None:
    plant("known")
    register(api, "lonely", reefConfig={"organs": ["store"], "capabilities": []})
    form = {"vm": "lonely", "under": "known", "category": "swarm_vm"}
    answer = operator.post("/fleet/registered/place", form, follow=True)
    assert "was added to the tree under known" in answer.content.decode()

    node = Node.objects.get(vm_id="lonely")
    assert (node.parent_vm_id, node.category, node.organs) == ("known", "swarm_vm", ["store"])
    assert node.revisions.get().actor == "admin"
    assert not unplaced_group(page(operator, "/fleet/"))
    page(operator, "/fleet/registered/_facts?vm=lonely")
    moved = operator.get("/fleet/registered/?vm=lonely")
    assert moved["Location"] == f"/fleet/{node.pk}/"


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"vm": "lonely", "under": "nobody", "category": "swarm_vm"}, 400, "nobody"),
        ({"vm": "lonely", "category": "boat"}, 400, "category: must be one of"),
        ({"vm": "nobody", "category": "swarm_vm"}, 404, "not found"),
        ({"vm": "gone", "category": "swarm_vm"}, 409, "never given again"),
    ],
)
def test_invalid_placement_is_refused_with_a_reason(
    operator: Client, api: Api, form: dict[str, str], status: int, words: str
) -> None:
    for vm_id in ("lonely", "gone"):
        register(api, vm_id)
    plant("gone")
    services.remove("gone", by="tests")
    assert "cannot be used again" in page(operator, "/fleet/registered/_facts?vm=gone")
    answer = operator.post("/fleet/registered/place", form)
    assert answer.status_code == status
    assert words in answer.content.decode()
    assert not Node.objects.active().exists()


def test_updates_add_and_remove_the_group(operator: Client, api: Api) -> None:
    request_body = {"shown": [0], "also": [0]}
    answer = operator.post("/fleet/_news", request_body, content_type="application/json")
    assert 'data-gone="registered"' in answer.content.decode()
    before = re.search(r'data-shape="([^"]+)"', answer.content.decode())
    register(api, "lonely")
    answer = operator.post("/fleet/_news", request_body, content_type="application/json")
    after = re.search(r'data-shape="([^"]+)"', answer.content.decode())
    assert unplaced_group(answer.content.decode())
    assert before
    assert after
    assert before[1] != after[1]


def test_admin_filters_and_places_unplaced_vms(operator: Client, api: Api) -> None:
    # In the order of ids, the parent comes last.
    register(api, "a-child", parent="z-parent")
    register(api, "z-parent", parent="known")
    plant("known")
    register(api, "known")
    register(api, "boss", role="lieutenant")
    register(api, "orphan", parent="nobody")
    path = "/admin/registry/vm/"
    shown = page(operator, f"{path}?place=none")
    assert re.findall(r"/vm/([^/]+)/change/", shown) == ["a-child", "boss", "orphan", "z-parent"]
    form = {"action": "put_into_tree", "select_across": "1", "_selected_action": ["boss"]}
    html = operator.post(f"{path}?place=none", form, follow=True).content.decode()
    assert "Placed 3 VMs in the tree" in html
    assert "orphan" in html
    places = Node.objects.values_list("vm_id", "parent__vm_id", "category")
    assert set(places) == {
        ("known", None, "swarm_vm"),
        ("z-parent", "known", "agent_vm"),
        ("a-child", "z-parent", "agent_vm"),
        ("boss", None, "lieutenant"),
    }


def test_cycle_of_parents_is_refused(operator: Client, api: Api) -> None:
    register(api, "a")
    register(api, "b", parent="a")
    VM.objects.filter(pk="a").update(parent_vm_id="b")
    form = {"action": "put_into_tree", "_selected_action": ["a", "b"]}
    operator.post("/admin/registry/vm/", form)
    assert not Node.objects.exists()


def test_removed_vm_that_is_still_registered_is_unplaced(operator: Client, api: Api) -> None:
    for vm_id in ("kept", "gone", "lonely"):
        register(api, vm_id)
    plant("kept")
    plant("gone")
    services.remove("gone", by="tests")
    assert root_row.counted(Moment.now()).loose.count == VM.objects.without_place().count() == 2


def test_summary_of_a_large_fleet_is_cached(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_row, "LARGE_FLEET", 2)
    monkeypatch.setattr(root_row, "CACHE_FACTOR", 1e9)
    monkeypatch.setattr(root_row, "_kept", root_row._Kept())
    plant("a")
    assert root_row.root_summary(Moment.now()).again_ms == 0
    plant("b")
    assert root_row.root_summary(Moment.now()).total == 2
    plant("c")
    moment = Moment.now()
    with CaptureQueriesContext(connection) as request_body:
        kept = root_row.root_summary(moment)
    assert (len(request_body), kept.total) == (0, 2)
    assert 4_000 < kept.again_ms <= 5_001
    assert f'data-again="{str(kept.again_ms)[0]}' in page(operator, "/fleet/")
    root_row.forget()
    assert root_row.root_summary(Moment.now()).total == 3
