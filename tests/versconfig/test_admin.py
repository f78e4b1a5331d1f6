"""Settings and versions in the admin: changed by the service, secrets never shown."""

from __future__ import annotations

import pytest
from django.test import Client

from reef_site.accounts.signin_links import make_operator
from tests.versconfig.conftest import plant
from versconfig.models import Setting, Version
from versconfig.services import build_change, config, put

SECRET = "sk-test-0123456789-abcdefghij"
ADD = "/admin/versconfig/setting/add/"
SETTINGS = "/admin/versconfig/setting/"
VERSIONS = "/admin/versconfig/version/"


@pytest.fixture
def operator(db: None) -> Client:
    client = Client()
    client.force_login(make_operator())
    return client


def add(operator: Client, **fields: object) -> str:
    form = {"key": "REEF_VM_VCPUS", "scope": "fleet", "node": "", "value": "4", **fields}
    answer = operator.post(ADD, form, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_setting_is_added_changed_and_deleted(operator: Client) -> None:
    add(operator)
    row = Setting.objects.get()
    assert (row.clear, row.actor) == ("4", "admin")

    page = f"{SETTINGS}{row.pk}/change/"
    assert ">4</textarea>" in operator.get(page).content.decode().replace("\n4", "4")
    operator.post(page, {"value": "8"})
    assert config.integer("REEF_VM_VCPUS") == 8

    operator.post(f"{SETTINGS}{row.pk}/delete/", {"post": "yes"})
    assert not Setting.objects.exists()
    words = Version.objects.order_by("id").values_list("what", "actor")
    assert list(words) == [("set", "admin"), ("set", "admin"), ("removed", "admin")]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"value": "0"}, "must be a whole number from 1 to 256"),
        ({"value": ""}, "Enter a value."),
        ({"scope": "vm"}, "Choose a VM, except for the fleet."),
        ({"scope": "lieutenant", "node": "web"}, "This VM is not a lieutenant."),
        ({"key": "REEF_MAX_VMS", "scope": "vm", "node": "web"}, "holds for the whole fleet"),
        ({"key": "NOPE"}, "Select a valid choice"),
    ],
)
def test_form_rejects_invalid_values(
    operator: Client, fields: dict[str, object], said: str
) -> None:
    web = plant("web")
    fields = {name: web.pk if value == "web" else value for name, value in fields.items()}
    assert said in add(operator, **fields)
    assert not Setting.objects.exists()


def test_existing_setting_is_not_added_again(operator: Client) -> None:
    web = plant("web")
    add(operator)
    add(operator, node=web.pk, scope="vm")

    for place, who in (({}, "the fleet"), ({"node": web.pk, "scope": "vm"}, "VM web")):
        said = add(operator, value="8", **place)
        assert f"REEF_VM_VCPUS is already set for {who}; edit that setting." in said
    assert {row.clear for row in Setting.objects.all()} == {"4"}
    Setting.objects.all().delete()
    # A removed setting can be added again.
    add(operator, value="16")
    assert config.integer("REEF_VM_VCPUS") == 16


def test_secrets_are_never_shown(operator: Client) -> None:
    assert SECRET not in add(operator, key="VERS_API_KEY", value=f"{SECRET}\0")
    assert SECRET not in add(operator, key="VERS_API_KEY", value=SECRET)
    row = Setting.objects.get()
    assert row.text() == SECRET
    for path in (SETTINGS, f"{SETTINGS}{row.pk}/change/", VERSIONS, f"{SETTINGS}{row.pk}/history/"):
        content = operator.get(path).content.decode()
        assert "sk-test" not in content, path
        assert row.sealed not in content, path
    # An empty value does not change a secret.
    operator.post(f"{SETTINGS}{row.pk}/change/", {"value": ""})
    assert Setting.objects.get().text() == SECRET


def test_versions_are_shown_and_undone(operator: Client) -> None:
    for text in ("2", "4"):
        put(build_change("REEF_VM_VCPUS", text), by="tests")
    first, second = Version.objects.order_by("id")
    assert operator.get(f"{VERSIONS}{second.pk}/change/").status_code == 200
    assert operator.get(f"{VERSIONS}add/").status_code == 403
    assert operator.post(f"{VERSIONS}{second.pk}/delete/", {"post": "yes"}).status_code == 403

    operator.post(VERSIONS, {"action": "undo", "_selected_action": [second.pk]})
    assert config.integer("REEF_VM_VCPUS") == 2
    said = operator.post(
        VERSIONS, {"action": "undo", "_selected_action": [first.pk]}, follow=True
    ).content.decode()
    assert "meanwhile" in said
    operator.post(VERSIONS, {"action": "put_back", "_selected_action": [second.pk]})
    assert config.integer("REEF_VM_VCPUS") == 4
