"""The palette's entries, and what makes the pages an installable application."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from lieutenants.states import Status
from reef_site.accounts import signin_links
from reef_site.common.palette import Entry, palette_sources
from tests.lieutenants.rows import enlist
from vmtree.models import Node

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(signin_links.make_operator())
    return client


def find(client: Client, words: str) -> dict[str, list[str]]:
    """Return the labels of each group of matches."""
    answer = client.get("/palette/", {"q": words})
    assert answer.status_code == 200
    return {
        group["title"]: [entry["label"] for entry in group["entries"]]
        for group in answer.json()["groups"]
    }


def test_lieutenants_vms_and_pages_are_found(operator: Client) -> None:
    enlist("ada", role="refactors payments")
    enlist("gone", Status.DESTROYED)
    Node.objects.create(vm_id="box-7", name="payments box", category="agent_vm")
    found = find(operator, "paym")
    assert found["Lieutenants"] == ["ada"]
    assert found["VMs"] == ["payments box"]
    assert find(operator, "box-7")["VMs"] == ["payments box"]
    assert find(operator, "snap")["Pages"] == ["Snapshots"]
    assert find(operator, "budget")["Pages"] == ["Usage"]
    assert find(operator, "gone") == {}
    assert "Home" in find(operator, "")["Pages"]


def test_actions_lead_to_pages_that_ask_and_dangerous_ones_are_apart(operator: Client) -> None:
    enlist("ada")
    Node.objects.create(vm_id="box-7", name="box", category="agent_vm")
    found = find(operator, "ada")
    assert found["Actions"] == ["Pause ada…", "Restart ada…"]
    assert found["Dangerous"] == ["Destroy ada…"]
    assert find(operator, "pause ada")["Actions"] == ["Pause ada…"]
    assert find(operator, "destroy box")["Dangerous"] == ["Destroy box and all below…"]
    for words in ("ada", "pause box"):
        for group in operator.get("/palette/", {"q": words}).json()["groups"]:
            for entry in group["entries"]:
                assert operator.get(entry["url"]).status_code == 200, entry
    assert enlist("bob").status == "idle"


def test_an_action_on_one_lieutenant_is_before_that_on_its_subtree(operator: Client) -> None:
    Node.objects.create(vm_id="ada", name="ada", category="agent_vm")
    enlist("ada")
    enlist("ada-2")
    both = ["Pause ada…", "Pause ada and all below…"]
    labels = find(operator, "Pause ada")["Actions"]
    assert [each for each in labels if each in both] == both
    assert labels[0] == "Pause ada…"
    assert find(operator, "destroy ada")["Dangerous"][0] == "Destroy ada…"
    assert find(operator, "ada")["Lieutenants"][0] == "ada"


def test_read_only_accounts_get_no_actions() -> None:
    client = Client()
    client.force_login(User.objects.create_user("viola"))
    enlist("ada")
    Node.objects.create(vm_id="ada-box", category="agent_vm")
    assert set(find(client, "ada")) == {"Lieutenants", "VMs"}
    assert set(find(client, "pause ada")) <= {"Lieutenants", "VMs"}
    assert "Audit" not in find(client, "")["Pages"]


def test_palette_needs_a_sign_in_and_shows_a_page_once(client: Client, operator: Client) -> None:
    assert client.get("/palette/").status_code == 302
    double = [Entry("Pages", "Tides", "/tides/"), Entry("Pages", "Tides", "/tides/")]
    with palette_sources.changed({"tides": lambda _user, _words: double}):
        assert find(operator, "tide")["Pages"] == ["Tides"]


def test_number_of_statements_does_not_grow(operator: Client) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as seen:
            find(operator, "a")
        return len(seen)

    enlist("a0", Status.ERROR)
    enlist("a1", Status.ERROR)
    few = statements()
    for number in range(30):
        enlist(f"aa{number}", Status.ERROR)
        Node.objects.create(vm_id=f"a-{number}", category="agent_vm")
    assert statements() == few


def test_app_can_be_installed(client: Client, settings: Any) -> None:
    manifest = client.get("/manifest.webmanifest")
    assert manifest["Content-Type"] == "application/manifest+json"
    body = manifest.json()
    assert (body["start_url"], body["display"]) == ("/", "standalone")
    assert {icon["sizes"] for icon in body["icons"]} == {"192x192", "512x512"}
    worker = client.get("/service-worker.js")
    assert worker["Content-Type"] == "text/javascript"
    assert '"/offline/"' in worker.content.decode().replace("\\u002D", "-").replace("\\/", "/")
    page = client.get("/offline/")
    assert page.status_code == 200
    assert "reef cannot be reached" in page.content.decode()
    assert "manifest-src 'self'" in page["Content-Security-Policy"]


def test_pages_of_an_organ_that_is_off_are_not_offered(operator: Client, settings: Any) -> None:
    settings.ORGANS = settings.ORGANS - {"lieutenant"}
    found = find(operator, "")
    assert "Home" in found["Pages"]
    assert "Rules" not in found["Pages"]
    assert "Lieutenants" not in found["Pages"]
