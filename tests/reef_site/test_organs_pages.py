"""Pages of a reef without some organs: none of them is broken."""

from __future__ import annotations

import html
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import clear_url_caches

from lieutenants.models import Lieutenant
from reef_site import apps, urls
from vmtree import organs
from vmtree import services as tree
from vmtree.models import Category, Node

ALONE: list[Any] = [(organ,) for organ in organs.MODULES]
WITHOUT = [
    # Each run tests every organ alone; only thorough runs test leaving one out.
    pytest.param(
        tuple(each for each in organs.KNOWN if each != organ),
        marks=pytest.mark.thorough if number % 3 else (),
    )
    for number, organ in enumerate(organs.MODULES)
]
HTML = {"accept": "text/html"}


@pytest.fixture(
    params=[*ALONE, *WITHOUT, ("registry", "store")],
    ids=lambda configured_organs: "+".join(configured_organs),
)
def configured_organs(request: pytest.FixtureRequest, settings: Any) -> Iterator[tuple[str, ...]]:
    """Configure these organs, with routes and admin as after a new start."""
    kept = dict(admin.site._registry)
    whole = settings.ORGANS
    settings.ORGANS = organs.enabled_modules(request.param)
    apps._set_up_admin()
    _routes_anew()
    yield request.param
    settings.ORGANS = whole
    admin.site._registry.clear()
    admin.site._registry.update(kept)
    _routes_anew()


def _routes_anew() -> None:
    importlib.reload(urls)
    clear_url_caches()


@pytest.fixture
def person(db: None) -> Client:
    client = Client(headers=HTML, raise_request_exception=False)
    client.force_login(User.objects.create_superuser("op"))
    return client


@pytest.fixture
def fleet(configured_organs: tuple[str, ...], db: None, settings: Any) -> list[Node]:
    """Create nested VMs, a lieutenant's, a removed one, and an unplaced one."""

    def plant(vm_id: str, **more: Any) -> Node:
        category = more.pop("category", Category.SWARM_VM)
        return tree.create(tree.NewNode(vm_id, category, vm_id=vm_id, **more), by="tests")

    ada = Lieutenant.objects.create(name="ada", role="tests", host=settings.HOST)
    nodes = [
        plant("top", category=Category.INFRA_VM),
        plant("below", parent_vm_id="top"),
        plant(f"local-{ada.name}", category=Category.LIEUTENANT, parent_vm_id="top"),
        plant("gone"),
    ]
    tree.remove("gone", by="tests")
    return nodes


def paths_of(page: str) -> set[str]:
    """Return the internal links of a page, and the URLs that its scripts fetch."""
    found = re.findall(r'(?:href|hx-get|data-beside)="(/[^"#]*)', page)
    return {html.unescape(path) for path in found if not path.startswith(("/static/", "/signout"))}


def text_of(answer: Any) -> str:
    """Return the whole text of a response, also of a streamed one."""
    return (b"".join(answer) if answer.streaming else answer.content).decode()


@pytest.mark.rotated
def test_all_pages_render(
    person: Client, fleet: list[Node], configured_organs: tuple[str, ...]
) -> None:
    has_tree = "vm-tree" in organs.enabled_modules(configured_organs)
    waiting = ["/", "/admin/", "/parts/"]
    waiting += [f"/fleet/{node.pk}/" for node in fleet if has_tree]
    waiting += ["/fleet/registered/?vm=below"] if has_tree else []
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        kind = re.sub(r"[0-9]+|\?(?!format=).*", "…", path)
        if kind in seen and not re.fullmatch(r"/fleet/[0-9]+/", path):
            continue
        seen.update({kind, path})
        answer = person.get(path)
        assert answer.status_code < 500, (configured_organs, path)
        if answer.headers.get("content-type", "").startswith("text/html"):
            waiting += paths_of(text_of(answer)) - seen
    assert ("/fleet/" in seen) == has_tree


def test_fleet_page_shows_only_available_organs(
    person: Client, fleet: list[Node], configured_organs: tuple[str, ...]
) -> None:
    here = organs.enabled_modules(configured_organs)
    if "vm-tree" not in here:
        assert person.get(f"/fleet/{fleet[0].pk}/").status_code == 404
        return
    page = person.get(f"/fleet/{fleet[0].pk}/").content.decode()
    assert ("destroy…" in page) == ("lieutenant" in here)
    actions = person.get("/admin/vmtree/node/").content.decode()
    assert ("pause_subtree" in actions) == ("lieutenant" in here)
