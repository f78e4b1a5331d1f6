"""Destroying, revoking and showing secrets needs a recent proof of identity."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from lieutenants.models import Lieutenant
from reef_site.accounts import proof, signin_links
from reef_site.audit.models import Action, Record
from reef_site.audit.routes import readable
from tests.conftest import Api

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
OLD = 31 * 60

# One request for each entry of `proof.SENSITIVE`.
EXAMPLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/lieutenants/ada/destroy", {"sure": "yes"}),
    ("POST", "/lists/runs/destroy/x/start", {"count": "12"}),
    ("POST", "/fleet/snapshots/1/restore", {"confirm": "x"}),
    ("POST", "/provisioning/door/1/void", {}),
    ("POST", "/provisioning/findings/all/", {"kind": "vanished"}),
    ("POST", "/provisioning/findings/1/", {"do": "delete"}),
    ("POST", "/provisioning/x/cancel/", {"machine": "delete"}),
    ("POST", "/admin/auth/user/1/delete/", {"post": "yes"}),
    ("POST", "/admin/rules/rule/1/delete/", {"post": "yes"}),
    ("POST", "/admin/vmtree/nodetoken/", {"action": "revoke"}),
    ("POST", "/access/tokens/", {"name": "ci", "scope": "read"}),
    ("POST", "/access/tokens/1/revoke", {}),
    ("POST", "/event-log/subscribers/1/delete/", {}),
    ("POST", "/event-log/subscribers/", {"name": "hook", "channel": "webhook"}),
    ("POST", "/notifications/1/delete/", {}),
    ("POST", "/notifications/", {"by": "slack"}),
    ("POST", "/rules/1/delete/", {}),
    ("POST", "/rules/new/", {"name": "r", "event": "vm-silent"}),
    ("POST", "/rules/1/", {"name": "r"}),
    ("POST", "/rules/1/on/", {"list": "1"}),
    ("POST", "/provisioning/commands/", {"command": "uptime"}),
    ("POST", "/admin/bootloader/jointoken/", {"action": "void"}),
    ("POST", "/admin/lieutenants/lieutenant/", {"action": ["destroy_selected", "x"], "index": "0"}),
    ("POST", "/admin/vmtree/snapshot/1/restore/", {"confirm": "x"}),
    ("POST", "/admin/operations/job/plan/destroy/", {}),
    ("POST", "/admin/auth/user/add/", {"username": "mallory"}),
    ("POST", "/admin/auth/user/1/password/", {}),
    ("POST", "/admin/password_change/", {}),
)
API_EXAMPLES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/lieutenant/lieutenants/destroy-all", {}),
    ("DELETE", "/lieutenant/lieutenants/ada", None),
    ("POST", "/vm-tree/vms/x/destroy", {}),
    ("POST", "/vm-tree/vms/x/destroy?dryRun=false", {"dryRun": False}),
    ("DELETE", "/vm-tree/vms/x", None),
    ("DELETE", "/vm-tree/vms/x/token", None),
    ("POST", "/vm-tree/vms/x/token", {}),
    ("POST", "/vm-tree/snapshots/1/restore", {"confirm": "x"}),
    ("DELETE", "/registry/vms/x", None),
    ("DELETE", "/registry/rules/1", None),
    ("POST", "/registry/rules", {"name": "r"}),
    ("PATCH", "/registry/rules/1", {"enabled": True}),
    ("POST", "/bootloader/commands", {"command": "uptime"}),
    ("DELETE", "/events/subscribers/1", None),
    ("POST", "/events/subscribers", {"name": "hook", "channel": "webhook"}),
    ("GET", "/vers-config/resolve/VERS_API_KEY", None),
    ("HEAD", "/vers-config/resolve/VERS_API_KEY", None),
    ("POST", "/bootloader/generate", {"vmId": "x", "name": "x", "type": "full"}),
    ("POST", "/bootloader/cloud-init", {}),
    ("POST", "/bootloader/provisionings/x/cancel", {"machine": "delete"}),
    ("POST", "/bootloader/findings/act", {"ids": [1]}),
    ("POST", "/bootloader/findings/1/act", {}),
    ("POST", "/tools/reef_lt_destroy", {"name": "ada"}),
    ("POST", "/tools/reef_lt_destroy/?dryRun=true", {"name": "ada"}),
    ("POST", "/tools/vm_tree_operate", {"vmId": "x", "operation": "destroy"}),
    ("POST", "/tools/reef_boot_generate", {"vmId": "x", "name": "x", "type": "full"}),
)


@pytest.fixture
def ada() -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def expired_proof(ada: User) -> Client:
    """Return a client whose last proof is old."""
    client = Client(headers={"accept": "text/html"})
    client.force_login(ada)
    age_proof(client)
    return client


def age_proof(client: Client) -> None:
    session = client.session
    session[proof.PROVED_AT] = time.time() - OLD
    session.save()


def ask(client: Client, method: str, path: str, body: Any = None) -> Any:
    if method in ("GET", "HEAD"):
        return client.generic(method, path)
    return client.generic(
        method, path, "" if body is None else json.dumps(body), "application/json"
    )


# -- which requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "form"), EXAMPLES)
def test_pages_ask_for_a_proof(
    expired_proof: Client, method: str, path: str, form: dict[str, Any]
) -> None:
    answer = expired_proof.post(path, form)

    assert answer.status_code == 403, answer.content
    html = answer.content.decode()
    assert "Confirm it is you" in html
    for name, values in form.items():
        for value in values if isinstance(values, list) else [values]:
            assert f'<input type="hidden" name="{name}" value="{value}">' in html


@pytest.mark.parametrize(("method", "path", "body"), API_EXAMPLES)
def test_api_response_names_the_remedy(
    expired_proof: Client, method: str, path: str, body: Any
) -> None:
    answer = ask(expired_proof, method, path, body)

    assert answer.status_code == 403
    if method != "HEAD":
        assert answer.json() == {"error": proof.REFUSAL}
        assert "/signin/again/" in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "body"), API_EXAMPLES)
def test_tokens_need_no_proof(api: Api, method: str, path: str, body: Any) -> None:
    answer = ask(api.client, method, path, body)

    assert answer.status_code != 403


def test_each_entry_of_the_list_is_a_route_with_an_example() -> None:
    examples = [(method, path.partition("?")[0]) for method, path, _ in (*EXAMPLES, *API_EXAMPLES)]
    for entry in proof.SENSITIVE:
        fitting = [
            path
            for method, path in examples
            if method == entry.method and re.fullmatch(entry.path, path)
        ]
        assert fitting, entry
        for path in fitting:
            assert resolve(path)


def test_no_destructive_route_is_missing() -> None:
    """Routes and views with destructive words are in the list, or known to be harmless."""
    words = re.compile(r"destroy|delete|remove|revoke|void|restore|token|resolve|purge|forget")
    harmless = {
        # A node changes its own token, and has no session.
        "/bootloader/token",
        "/bootloader/token/confirm",
        # A filter can be saved again.
        "/lists/filters/<filter_id>/delete",
    }
    missing = []
    for _, route in patterns():
        # Names of models in the admin do not show what a page does.
        about = "/".join(route.split("/")[4:]) if route.startswith("/admin/") else route
        if words.search(about) and route not in harmless:
            path = re.sub(r"<\w+>", "1", route)
            if not any(re.fullmatch(entry.path, path) for entry in proof.SENSITIVE):
                missing.append(route)

    assert missing == []


def test_every_action_of_the_admin_is_in_the_list_or_harmless() -> None:
    harmless = {
        *("provision_below", "pause_subtree", "resume_subtree", "put_into_tree"),
        *("verify", "pin", "unpin", "compare", "undo", "put_back", "log_in", "forget_host_keys"),
        *("put_in_service", "take_out_of_service", "retry", "cancel_keep", "dismiss", "cancel"),
        *("abort_selected", "resume_selected", "pause_selected", "restart_selected"),
        # Sends a message.
        "retry_selected",
        *("switch_on", "switch_off", "grant_provisioning"),
        # Both keep the earlier session file.
        *("new-session_selected", "rewind_selected"),
    }
    found = {
        getattr(action, "__name__", action)
        for model_admin in admin.site._registry.values()
        for action in model_admin.actions or ()
    }

    assert found - harmless <= proof.ADMIN_ACTIONS


def test_every_delete_of_the_api_is_in_the_list() -> None:
    harmless = {
        # Settings keep their history, and pins of snapshots can be set again.
        "/vers-config/<name>",
        "/vm-tree/snapshots/<snapshot_id>/pin",
        # A message that is withdrawn can be sent again.
        "/lieutenant/lieutenants/<name>/messages/<message_id>",
        # So can a question be asked again.
        "/lieutenant/questions/<question_id>",
        # And so can a sign be declared.
        "/lieutenant/lieutenants/<name>/next-sign",
        # A grant can be given again.
        "/bootloader/grants/<vm_id>",
    }
    missing = []
    for pattern, route in patterns():
        view = getattr(pattern.callback, "cls", None)
        actions = getattr(pattern.callback, "actions", None) or {}
        deletes = "delete" in actions or (not actions and hasattr(view, "delete"))
        if not deletes or (view and view.__name__ == "UnknownPath") or route in harmless:
            continue
        path = re.sub(r"<\w+>", "1", route)
        if not any(e.method == "DELETE" and re.fullmatch(e.path, path) for e in proof.SENSITIVE):
            missing.append(route)

    assert missing == []


def patterns(found: list[Any] | None = None, before: str = "") -> Iterator[tuple[URLPattern, str]]:
    for each in get_resolver().url_patterns if found is None else found:
        route = before + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from patterns(each.url_patterns, route)
        else:
            yield each, readable(route)


# -- requests without a proof ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/vm-tree/vms/x/destroy", {"dryRun": True}),
        ("POST", "/vm-tree/vms/x/destroy?dryRun=true", {}),
        ("POST", "/vm-tree/snapshots/1/restore", {}),
        ("POST", "/vm-tree/snapshots/1/restore", None),
        ("POST", "/vm-tree/vms/x/pause", {}),
        ("POST", "/tools/vm_tree_operate", {"vmId": "x", "operation": "pause", "dryRun": True}),
        ("POST", "/tools/reef_lt_pause", {"name": "ada"}),
        ("POST", "/tools/none", {}),
        ("GET", "/lieutenant/lieutenants", None),
    ],
)
def test_plans_and_other_requests_need_no_proof(
    expired_proof: Client, method: str, path: str, body: Any
) -> None:
    assert ask(expired_proof, method, path, body).status_code != 403


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        # As forms these would be harmless, but the API parses JSON for any content type.
        ("/vm-tree/snapshots/1/restore", '{"confirm": "x"}', "application/x-www-form-urlencoded"),
        (
            "/bootloader/provisionings/x/cancel",
            '{"machine": "delete", "x": "&machine=keep&"}',
            "application/x-www-form-urlencoded",
        ),
        ("/vm-tree/snapshots/1/restore", '{"confirm": "x"' + " " * 70_000 + "}", "text/plain"),
    ],
)
def test_malformed_body_does_not_avoid_proof(
    expired_proof: Client, path: str, body: str, content_type: str
) -> None:
    assert expired_proof.generic("POST", path, body, content_type).status_code == 403


def test_recent_sign_in_is_a_proof(ada: User) -> None:
    client = Client()
    client.force_login(ada)

    answer = ask(client, "POST", "/lieutenant/lieutenants/destroy-all", {})

    assert answer.status_code == 200


def test_future_proof_is_invalid(expired_proof: Client) -> None:
    session = expired_proof.session
    session[proof.PROVED_AT] = time.time() + 3600
    session.save()

    assert ask(expired_proof, "POST", "/lieutenant/lieutenants/destroy-all", {}).status_code == 403


# -- continuing --------------------------------------------------------------------------------


def lieutenant(name: str) -> Lieutenant:
    return Lieutenant.objects.create(name=name, role="tests", host="h", status="paused")


def test_password_continues_the_request(expired_proof: Client) -> None:
    made = lieutenant("doomed")
    form = {"lieutenant": made.pk, "sure": "yes"}

    wrong = expired_proof.post("/lieutenants/doomed/destroy", {**form, "proof_password": "x"})
    assert wrong.status_code == 403
    assert "The password is wrong." in wrong.content.decode()
    assert f'value="{made.pk}"' in wrong.content.decode()
    assert Lieutenant.objects.get().status == "paused"

    right = expired_proof.post("/lieutenants/doomed/destroy", {**form, "proof_password": PASSWORD})
    assert right.status_code == 302
    assert Lieutenant.objects.get().status in ("stopping", "destroyed")
    assert PASSWORD not in expired_proof.get("/lieutenants/").content.decode()
    assert Record.objects.get(action=Action.PROOF).actor == "ada"


def test_guesses_on_the_proof_page_are_throttled(expired_proof: Client) -> None:
    answers = [
        expired_proof.post("/lieutenants/doomed/destroy", {"proof_password": f"guess {number}"})
        for number in range(16)
    ]

    assert [answer.status_code for answer in answers] == [403] * 15 + [429]
    assert answers[-1]["Retry-After"]


def test_link_continues_the_request_without_password() -> None:
    client = Client(enforce_csrf_checks=True, headers={"accept": "text/html"})
    client.get(signin_links.make_signin_link(""))
    age_proof(client)
    made = lieutenant("doomed")
    shown = client.get("/lieutenants/doomed/destroy").content.decode()
    form = {"lieutenant": made.pk, "sure": "yes", "csrfmiddlewaretoken": csrf_of(shown)}

    asked = client.post("/lieutenants/doomed/destroy", form)
    assert "manage.py signin" in asked.content.decode()
    form["csrfmiddlewaretoken"] = csrf_of(asked.content.decode())
    early = client.post("/lieutenants/doomed/destroy", {**form, "proof_continue": "yes"})
    assert "Not confirmed yet" in early.content.decode()

    assert client.get(signin_links.make_signin_link(""))["Location"] == "/"
    done = client.post("/lieutenants/doomed/destroy", {**form, "proof_continue": "yes"})

    assert done.status_code == 302
    assert Lieutenant.objects.get().status in ("stopping", "destroyed")


def csrf_of(html: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', html)
    assert found
    return found[1]


def test_scripts_get_an_error_sentence(expired_proof: Client) -> None:
    answer = expired_proof.post("/lieutenants/ada/destroy", {}, headers={"reef-script": "1"})

    assert (answer.status_code, answer.content.decode()) == (403, proof.REFUSAL)
    assert answer["Content-Type"].startswith("text/plain")


def test_proof_page_for_refused_api_users(expired_proof: Client) -> None:
    assert "Confirm it is you" in expired_proof.get("/signin/again/?next=/config/").content.decode()
    wrong = expired_proof.post("/signin/again/?next=/config/", {"proof_password": "x"})
    assert wrong.status_code == 200

    right = expired_proof.post("/signin/again/?next=/config/", {"proof_password": PASSWORD})

    assert right["Location"] == "/config/"
    assert ask(expired_proof, "POST", "/lieutenant/lieutenants/destroy-all", {}).status_code == 200
    elsewhere = expired_proof.post(
        "/signin/again/?next=//evil.example/", {"proof_password": PASSWORD}
    )
    assert elsewhere["Location"] == "/"


def test_read_only_accounts_can_give_proof() -> None:
    client = Client()
    client.force_login(User.objects.create_user("viewer", password=PASSWORD))
    age_proof(client)

    assert client.post("/signin/again/", {"proof_password": PASSWORD})["Location"] == "/"


def test_age_of_a_proof_is_a_setting() -> None:
    assert settings.PROOF_MINUTES == 30
