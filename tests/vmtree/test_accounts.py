"""Accounts that are not operators are read-only: neither pages nor the API change anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLResolver, get_resolver

from reef_site.accounts.signin_links import make_operator
from registry.models import VM
from tests.conftest import Api
from vmtree.models import Node
from vmtree.snapshot_models import Snapshot

pytestmark = pytest.mark.django_db(transaction=True)

JSON = {"content_type": "application/json"}


@pytest.fixture
def fleet(api: Api) -> Snapshot:
    """Create a VM in tree and registry, and a snapshot."""
    api.post("/vm-tree/vms", {"vmId": "one", "name": "one", "category": "agent_vm"})
    api.post(
        "/registry/vms",
        {"id": "one", "name": "one", "role": "worker", "address": "a", "registeredBy": "tests"},
    )
    assert api.post("/vm-tree/snapshot").status_code == 200
    return Snapshot.objects.get()


CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("patch", "/vm-tree/vms/one", {"name": "other"}),
    ("delete", "/vm-tree/vms/one", {}),
    ("post", "/vm-tree/vms", {"name": "x", "category": "agent_vm"}),
    ("post", "/vm-tree/vms/one/destroy", {"dryRun": True}),
    ("post", "/vm-tree/vms/one/token", {}),
    ("post", "/vm-tree/snapshot", {}),
    ("patch", "/registry/vms/one", {"name": "other"}),
    ("delete", "/registry/vms/one", {}),
    ("post", "/registry/vms/one/heartbeat", {}),
    ("post", "/lieutenant/lieutenants", {"name": "x", "role": "tests", "local": True}),
    ("post", "/registry/rules", {"name": "x", "event": "vm-late", "action": "note"}),
    ("put", "/vers-config/REEF_AGENT_MODEL", {"value": "a/b"}),
    ("post", "/bootloader/reconcile", {}),
    ("post", "/bootloader/provision", {"name": "x", "type": "swarm"}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("staff", [False, True])
def test_read_only_account_cannot_change_anything(
    fleet: Snapshot, method: str, path: str, body: dict[str, Any], staff: bool
) -> None:
    client = Client()
    client.force_login(User.objects.create_user("joe", is_staff=staff))

    answer = getattr(client, method)(path, body, **JSON)

    assert answer.status_code == 403, answer.content
    assert "operators" in answer.json()["error"]
    assert list(Node.objects.values_list("vm_id", "name", "removed_at")) == [("one", "one", None)]
    assert VM.objects.get().name == "one"


def test_read_only_account_reads_everything_except_secrets(fleet: Snapshot) -> None:
    client = Client()
    client.force_login(User.objects.create_user("joe"))

    assert client.get("/vm-tree/vms").json()["count"] == 1
    assert client.get("/fleet/").status_code == 200
    for path in ("/vers-config/resolve/VERS_API_KEY", "/registry/rules", "/registry/firings"):
        assert client.get(path).status_code == 403, path


def test_snapshot_pages_respect_permissions(fleet: Snapshot) -> None:
    client = Client()
    client.force_login(User.objects.create_user("joe"))

    html = client.get("/fleet/snapshots/").content.decode()

    assert "Take snapshot" not in html
    assert "/restore" not in html
    assert client.post("/fleet/snapshots/take").status_code in (403, 404, 405)
    assert Snapshot.objects.count() == 1
    client.force_login(make_operator())
    html = client.get("/fleet/snapshots/").content.decode()
    assert "Take snapshot" in html
    assert "/restore" in html


def pages() -> list[str]:
    """Return a path for each page route outside of admin and API."""
    samples = {"int:key": "1", "int:pk": "1", "str:name": "ada", "str:pk": "x", "str:verb": "pause"}
    found = []
    for route, callback in routes(get_resolver().url_patterns):
        if (
            route.startswith(("admin/", "signin/", "signout/"))
            or "^" in route
            or hasattr(callback, "cls")
        ):
            continue
        path = re.sub(r"<([^>]+)>", lambda part: samples.get(part[1], "1"), route)
        found.append(f"/{path}")
    return found


def routes(patterns: list[Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for each in patterns:
        route = head + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from routes(each.url_patterns, route)
        else:
            yield route, each.callback


OWN_PAGES = (
    *("/preferences/", "/notifications/", "/attention/snooze"),
    *("/lieutenants/_read", "/lieutenants/by-id/x/_read", "/lists/filters/", "/lists/presets/"),
)


def test_read_only_account_cannot_post_to_pages(fleet: Snapshot) -> None:
    client = Client()
    client.force_login(User.objects.create_user("joe", is_staff=True))
    paths = pages()
    assert len(paths) > 40

    answers = {path: client.post(path, {}).status_code for path in paths}
    # A POST for changed rows only reads; this one has an invalid body.
    assert answers.pop("/fleet/_news") == 400
    # What a person sees, is told and has read is that person's own.
    accepted = {path for path, status in answers.items() if status != 403}
    assert {path for path in accepted if not path.startswith(OWN_PAGES)} == set()

    # Signing out is allowed.
    assert client.post("/signout/").status_code == 302
