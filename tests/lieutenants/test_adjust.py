"""Another model and other limits for a lieutenant that there is: through the API and the page."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from lieutenants import membership
from lieutenants.models import AgentModels, Lieutenant
from lieutenants.states import Status
from reef_site.common.eventlog.models import Event
from registry.models import VM
from tests.conftest import Api
from tests.lieutenants.rows import enlist, page, process_of
from vmtree import services as tree
from vmtree import tokens
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db
PATH = "/lieutenant/lieutenants/ada"


def patch(client: Client, body: object) -> Any:
    return client.patch(PATH, data=body, content_type="application/json")


@pytest.fixture
def root(api: Api, operator: Client) -> Client:
    """The API with the root token; an agent is on this host."""
    return api.client


def test_a_model_counts_from_the_next_start(root: Client) -> None:
    ada = enlist(model="old/one", model_in_use="old/one")
    answer = patch(root, {"model": "new/one", "idleLimitMinutes": 30, "stallLimitSeconds": 0})
    assert answer.status_code == 200
    facts = answer.json()
    assert (facts["model"], facts["modelInUse"]) == ("new/one", "old/one")
    assert (facts["idleLimitMinutes"], facts["stallLimitSeconds"]) == (30, 0)
    ada.refresh_from_db()
    assert (ada.model, ada.status) == ("new/one", "idle")
    assert not ada.moves.exists()


def test_it_may_start_with_it_now(root: Client) -> None:
    ada = enlist(model="old/one")
    assert patch(root, {"model": "new/one", "restart": True}).json()["status"] == "starting"
    ada.refresh_from_db()
    assert (ada.model, ada.status) == ("new/one", "starting")


@pytest.mark.parametrize("status", ["paused", "starting"])
def test_one_that_does_not_run_is_only_told(root: Client, status: str) -> None:
    enlist(status=status)
    assert patch(root, {"model": "new/one", "restart": True}).json()["status"] == status


def test_omitted_fields_stay_and_null_removes_a_limit(root: Client) -> None:
    enlist(
        model="old/one", idle_limit_minutes=5, stall_limit_seconds=7, restart_policy="on-failure"
    )
    patch(root, {"idleLimitMinutes": None, "stallLimitSeconds": None})
    ada = Lieutenant.objects.get()
    assert (ada.model, ada.restart_policy) == ("old/one", "on-failure")
    assert (ada.idle_limit_minutes, ada.stall_limit_seconds) == (None, settings.STALL_SECONDS)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "must have one of model, restartPolicy"),
        ({"status": "idle"}, "status: not known; this route takes model, restartPolicy"),
        ({"restart": True}, "POST …/restart"),
        ({"model": 7}, "model: must be a string"),
        ({"model": "--help"}, "model: must not start with a dash"),
        ({"model": "x" * 201}, "model: at most 200"),
        ({"model": "a\0b"}, "model: has characters"),
        ({"restartPolicy": "always"}, "restartPolicy: must be one of"),
        ({"idleLimitMinutes": 0}, "idleLimitMinutes: must be a whole number"),
        ({"model": "a/b", "restart": "yes"}, "restart: must be true or false"),
    ],
)
def test_invalid_changes_are_rejected(root: Client, body: dict[str, object], words: str) -> None:
    enlist(model="old/one")
    answer = patch(root, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert Lieutenant.objects.get().model == "old/one"


def test_changes_need_command_permission(root: Client) -> None:
    assert patch(root, {"model": "a/b"}).status_code == 404
    ada = enlist(model="old/one")
    for vm_id, parent in (("boss", ""), (ada.pk, "boss"), ("stranger", "")):
        tree.create(NewNode(vm_id, "lieutenant", vm_id, parent), by="tests")
    for vm_id, status in (("stranger", 403), (ada.pk, 403), ("boss", 200)):
        token = tokens.issue(tree.find(vm_id), made_by="tests")
        node = Client(headers={"authorization": f"Bearer {token}"})
        assert patch(node, {"model": "new/one"}).status_code == status, vm_id
    assert patch(Client(), {"model": "a/b"}).status_code == 401


def test_the_page_changes_them(operator: Client) -> None:
    enlist(model="old/one", model_in_use="old/one", idle_limit_minutes=9)
    path = "/lieutenants/ada/settings"
    assert f'href="{path}"' in operator.get("/lieutenants/ada/").content.decode()
    shown = operator.get(path).content.decode()
    assert 'value="old/one"' in shown
    assert 'value="9"' in shown
    form = {
        "role": "tests",
        "model": "new/one",
        "restart_policy": "never",
        "stall_limit_seconds": "60",
    }
    answer = operator.post(path, form, follow=True)
    html = answer.content.decode()
    assert "settings saved" in html
    assert "requested: new/one" in html
    ada = Lieutenant.objects.get()
    assert (ada.model, ada.idle_limit_minutes, ada.stall_limit_seconds) == ("new/one", None, 60)
    assert ada.status == "idle"

    operator.post(path, {**form, "restart": "on"})
    assert Lieutenant.objects.get().status == "starting"
    refused = operator.post(path, {**form, "model": "-x"})
    assert refused.status_code == 400
    assert "must not start with a dash" in refused.content.decode()
    assert operator.get("/lieutenants/nobody/settings").status_code == 404


def test_a_model_that_stays_is_not_looked_for(root: Client) -> None:
    ada = enlist(model="gone/model")
    AgentModels.objects.create(
        lieutenant=ada, names=["there/model"], process=process_of(ada, state={})
    )

    assert patch(root, {"model": "gone/model", "idleLimitMinutes": 9}).status_code == 200
    refused = patch(root, {"model": "no/such"})
    assert refused.status_code == 400
    assert refused.json()["error"] == "model: the agent has no 'no/such'; these are: there/model"
    assert Lieutenant.objects.get().model == "gone/model"


# -- role and directive ------------------------------------------------------------------------


def test_role_and_directive_count_from_the_next_start(operator: Client, root: Client) -> None:
    ada = enlist("ada", role="write tests", system_prompt="old", folder="/srv/shop")
    membership.register(ada, actor="test")
    html = page(operator, "/lieutenants/ada/settings")
    assert "/srv/shop" in html
    form = {"role": "review\r\nchanges", "directive": "Be brief.", "restart_policy": "never"}
    assert operator.post("/lieutenants/ada/settings", form).status_code == 302

    ada.refresh_from_db()
    assert (ada.role, ada.directive) == ("review\nchanges", "Be brief.")
    assert "Your role: review\nchanges\n" in ada.system_prompt
    assert ada.system_prompt.endswith("Be brief.\n")
    assert ada.status == Status.IDLE
    metadata = VM.objects.get(pk=ada.pk).metadata
    assert metadata
    assert metadata["role"] == "review\nchanges"
    event = Event.objects.get(kind="lieutenant.changed")
    assert event.detail["role"] == "review\nchanges"
    assert "system_prompt" not in event.detail

    # The same texts change nothing.
    operator.post("/lieutenants/ada/settings", form)
    assert Event.objects.filter(kind="lieutenant.changed", detail__has_key="role").count() == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"role": " "}, "role is required"),
        ({"role": "r" * 4001}, "role: at most 4000 characters"),
        ({"directive": "d" * 20_001}, "directive: at most 20000 characters"),
        ({"directive": "\x00"}, "directive: has characters that are no text"),
    ],
)
def test_wrong_texts_are_refused(root: Client, body: dict[str, object], words: str) -> None:
    ada = enlist("ada", system_prompt="old")
    answer = patch(root, body)

    assert answer.status_code == 400
    assert words in answer.json()["error"]
    ada.refresh_from_db()
    assert ada.system_prompt == "old"


def test_secrets_in_texts_are_covered(root: Client) -> None:
    ada = enlist("ada")
    assert patch(root, {"directive": f"use {settings.ROOT_TOKEN} for it"}).status_code == 200

    ada.refresh_from_db()
    assert settings.ROOT_TOKEN not in ada.directive + ada.system_prompt
