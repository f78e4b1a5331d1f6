"""The pages: sources side by side, the question before a change, history, the test button."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from lieutenants import membership
from lieutenants.states import Status
from reef_site.accounts.signin_links import make_operator
from reef_site.lists.models import BulkRun
from tests.lieutenants.rows import enlist
from tests.versconfig.conftest import plant, write
from versconfig import checks
from versconfig.checks import Finding
from versconfig.models import Scope, Setting, Version
from versconfig.services import Target, build_change, put
from vmtree import services as tree
from vmtree.models import Category, Node

SECRET = "sk-test-0123456789-abcdefghij"
MODEL = "REEF_AGENT_MODEL"


@pytest.fixture
def client(db: None) -> Client:
    client = Client()
    client.force_login(make_operator())
    return client


def store(name: str, text: str, scope: str = "fleet", node: Node | None = None) -> Version:
    made = put(build_change(name, text, Target(Scope(scope), node)), by="ada")
    assert made is not None
    return made


def text_of(answer: Any) -> str:
    """Return the text of a page without its tags."""
    assert answer.status_code < 500
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def fields(answer: Any) -> dict[str, str]:
    """Return the hidden fields of the last form of a page's own part."""
    form = answer.content.decode().partition("</main>")[0].rpartition("<form")[2]
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
    return {name: html.unescape(value) for name, value in found}


def test_anonymous_users_are_redirected_to_sign_in(db: None) -> None:
    for path in ("/config/", "/config/history/", f"/config/{MODEL}/"):
        assert Client().get(path).status_code == 302
    assert Client().post(f"/config/{MODEL}/save", {"scope": "fleet"}).status_code == 302


def test_overview_shows_all_sources(
    client: Client, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERS_API_KEY", SECRET)
    store("VERS_API_KEY", "sk-stored-0123456789-abcdefg")
    write(home, "keys.json", {"keys": {"VERS_API_KEY": "sk-filed-0123456789-abcdefg"}})
    write(home, "config.json", "{broken")

    answer = client.get("/config/")
    text = text_of(answer)

    assert "sk-test..." in text
    assert "sk-stor..." in text
    assert "sk-fil..." in text
    assert "stored, but overridden" in text
    assert "~/.vers/config.json: is not JSON" in text
    for secret in (SECRET, "sk-stored", "sk-filed"):
        assert secret not in answer.content.decode()
    assert answer.headers["Cache-Control"].startswith("max-age=0")


def test_target_is_chosen_by_id_or_name(client: Client) -> None:
    plant("web-1")
    plant("web-2")
    assert "of web-1 (swarm VM)" in text_of(client.get("/config/?vm=web-1"))
    both = text_of(client.get("/config/?vm=WEB"))
    assert "Several match: web-1 web-1 · swarm VM web-2" in both
    assert "There is no VM or lieutenant “nobody”" in text_of(client.get("/config/?vm=nobody"))


def test_page_of_a_key_shows_all_layers(client: Client) -> None:
    plant("root")
    ada = plant("ada", "root", Category.LIEUTENANT)
    store(MODEL, "p/fleet")
    store(MODEL, "p/root", "subtree", tree.find("root"))

    text = text_of(client.get(f"/config/{MODEL}/?vm={ada.vm_id}"))

    assert "subtree of root p/root in effect" in text
    assert "the fleet p/fleet overridden by store, subtree of root" in text
    assert "lieutenant ada nothing" in text
    assert "the lieutenant ada alone" in text


def test_page_of_a_key_shortens_a_long_list_of_ancestors(client: Client) -> None:
    for number in range(30):
        plant(f"v{number}", f"v{number - 1}" if number else "")
    store(MODEL, "p/top", "subtree", tree.find("v0"))

    text = text_of(client.get(f"/config/{MODEL}/?vm=v29"))

    assert "subtree of v0 p/top in effect" in text
    assert "subtree of v22 nothing" in text
    assert "subtree of v21" not in text
    assert "21 more subtrees above have no value." in text


def test_change_is_previewed(client: Client) -> None:
    plant("root")
    plant("low", "root")
    store(MODEL, "p/low", "vm", tree.find("low"))

    question = client.post(
        f"/config/{MODEL}/preview", {"value": "p/new", "scope": "subtree", "vm": "root"}
    )
    text = text_of(question)
    assert f"Set {MODEL} for subtree of root?" in text
    assert "1 of the existing VMs and lieutenants: root." in text
    assert "1 below keeps its own nearer value." in text
    assert "No running agent is affected." in text
    assert Setting.objects.count() == 1

    answer = client.post(f"/config/{MODEL}/save", fields(question))
    assert answer.headers["Location"] == f"/config/{MODEL}/?vm=root"
    assert Setting.objects.get(scope="subtree").clear == "p/new"
    assert Version.objects.latest("id").actor == "admin"
    assert f"{MODEL} set for subtree of root." in text_of(client.get("/config/"))


def test_needed_restarts_can_be_planned_with_the_change(client: Client) -> None:
    ada, bob = enlist("ada"), enlist("bob", Status.PAUSED)
    for each in (ada, bob):
        membership.register(each, actor="tests")
    question = client.post(f"/config/{MODEL}/preview", {"value": "p/new", "scope": "fleet"})
    text = text_of(question)
    assert "Restart these to apply it: ada ." in text
    assert "Save and plan 1 restart…" in text

    given = {**fields(question), "then": "lieutenants"}
    answer = client.post(f"/config/{MODEL}/save", given)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/lists/plan/lieutenants/")
    assert Setting.objects.get().clear == "p/new"
    # The browser sends the same fields there.
    assert client.post(answer.headers["Location"], given).status_code == 302
    run = BulkRun.objects.get()
    assert (run.action, run.items.get().target, run.state) == ("restart", ada.pk, "planned")

    other = client.post(f"/config/{MODEL}/preview", {"remove": "yes", "scope": "fleet"})
    given = {**fields(other), "then": "no/such"}
    assert client.post(f"/config/{MODEL}/save", given).status_code == 302


def test_secret_is_encrypted_in_the_preview_form(client: Client) -> None:
    question = client.post("/config/VERS_API_KEY/preview", {"value": SECRET, "scope": "fleet"})
    assert SECRET not in question.content.decode()
    assert "Then sk-test..." in text_of(question)
    given = fields(question)
    # The encrypted value is valid for this key only.
    other = client.post("/config/OPENAI_API_KEY/save", given)
    assert other.status_code == 409

    client.post("/config/VERS_API_KEY/save", given)

    assert Setting.objects.get().text() == SECRET
    for path in ("/config/", "/config/VERS_API_KEY/", "/config/history/"):
        assert SECRET not in client.get(path).content.decode(), path
    assert "sk-test" not in client.get("/config/history/").content.decode()


def test_conflicting_change_is_rejected(client: Client) -> None:
    question = client.post(f"/config/{MODEL}/preview", {"value": "p/mine", "scope": "fleet"})
    store(MODEL, "p/quicker")

    answer = client.post(f"/config/{MODEL}/save", fields(question))

    assert answer.status_code == 409
    assert "was changed by ada meanwhile" in text_of(answer)
    assert Setting.objects.get().clear == "p/quicker"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plenty", "must be a whole number from 1 to 256"),
        ("", "value: is empty; to take a stored value away, use Remove"),
    ],
)
def test_form_shows_errors_of_bad_values(client: Client, value: str, text: str) -> None:
    answer = client.post("/config/REEF_VM_VCPUS/preview", {"value": value, "scope": "fleet"})
    assert answer.status_code == 400
    assert text in text_of(answer)
    assert f'value="{value}"' in answer.content.decode()
    refused = client.post(
        "/config/VERS_API_KEY/preview", {"value": f"{SECRET}\0", "scope": "fleet"}
    )
    assert refused.status_code == 400
    assert SECRET not in refused.content.decode()


def test_settings_can_be_removed_undone_and_restored(client: Client) -> None:
    plant("low")
    store(MODEL, "p/fleet")
    made = store(MODEL, "p/low", "vm", tree.find("low"))

    question = client.post(
        f"/config/{MODEL}/preview", {"remove": "yes", "scope": "vm", "target": "low"}
    )
    assert "Remove REEF_AGENT_MODEL of VM low? Now p/low Then p/fleet" in text_of(question)
    client.post(f"/config/{MODEL}/save", fields(question))
    assert Setting.objects.count() == 1

    removed = Version.objects.latest("id")
    assert "Undo the change by admin" in text_of(client.get(f"/config/history/{removed.pk}/undo"))
    client.post(f"/config/history/{removed.pk}/undo")
    assert Setting.objects.get(node__isnull=False).clear == "p/low"
    store(MODEL, "p/other", "vm", tree.find("low"))
    assert client.post(f"/config/history/{removed.pk}/undo").status_code == 409
    client.post(f"/config/history/{made.pk}/put-back")
    assert Setting.objects.get(node__isnull=False).clear == "p/low"
    assert client.get("/config/history/99999/undo").status_code == 404


def test_settings_of_a_removed_vm_can_be_removed(client: Client) -> None:
    plant("gone")
    store("OPENAI_API_KEY", SECRET, "vm", tree.find("gone"))
    tree.remove("gone", by="tests")
    assert "VM gone (removed)" in text_of(client.get("/config/OPENAI_API_KEY/"))

    question = client.post(
        "/config/OPENAI_API_KEY/preview", {"remove": "yes", "scope": "vm", "target": "gone"}
    )
    client.post("/config/OPENAI_API_KEY/save", fields(question))

    assert not Setting.objects.exists()
    newest = Version.objects.latest("id")
    assert client.post(f"/config/history/{newest.pk}/undo").status_code == 409


def test_button_checks_a_key(client: Client) -> None:
    refusal = Finding(False, "The provider refuses it.")
    with checks.key_checks.changed({"VERS_API_KEY": lambda _: refusal}):
        assert "/test" not in client.get("/config/VERS_API_KEY/").content.decode()
        store("VERS_API_KEY", SECRET)
        assert "/test" in client.get("/config/VERS_API_KEY/").content.decode()

        answer = client.post("/config/VERS_API_KEY/test", {"from": "index"}, follow=True)

    assert "VERS_API_KEY: The provider refuses it." in text_of(answer)


def test_hostile_values_are_escaped(client: Client) -> None:
    name = "<script>alert(1)</script>"
    tree.create(tree.NewNode(name, Category.SWARM_VM, vm_id="x<b>"), by="tests")
    store("VERS_AGENT_NAME", name)
    store("REEF_VM_REGION", "eu", "subtree", tree.find("x<b>"))

    for path in (
        "/config/",
        "/config/?vm=x<b>",
        "/config/REEF_VM_REGION/?vm=x<b>",
        "/config/history/",
    ):
        assert "<script>alert" not in client.get(path).content.decode()


def test_unknown_keys_and_vms_are_404(client: Client) -> None:
    assert client.get("/config/NOPE/").status_code == 404
    assert client.get(f"/config/{MODEL}/?vm=nobody").status_code == 404


@pytest.mark.parametrize("words", ["ada", "local-ada", "id-of-ada"])
def test_page_of_a_key_accepts_id_name_and_alias(client: Client, words: str) -> None:
    new = tree.NewNode("ada", Category.LIEUTENANT, vm_id="id-of-ada")
    tree.create(new, by="tests")

    page = client.get(f"/config/{MODEL}/?vm={words}")

    assert page.status_code == 200
    assert "the lieutenant ada alone" in text_of(page)


def test_bad_value_of_the_environment_is_shown_as_invalid(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_VM_VCPUS", "plenty")

    one = text_of(client.get("/config/REEF_VM_VCPUS/"))
    both = text_of(client.get("/config/"))

    assert "must be a whole number from 1 to 256 first, but invalid" in one
    assert "REEF_VM_VCPUS invalid" in both
    assert "REEF_VM_VCPUS (the environment): must be a whole number from 1 to 256" in both
