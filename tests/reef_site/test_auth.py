"""Authentication: tokens, sessions, sign-in links, and the order of checks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from lieutenants.models import Lieutenant
from reef_site.accounts import signin_links
from tests.conftest import Api

LIEUTENANTS = "/lieutenant/lieutenants"
MISSING = {"error": "Unauthorized — missing Authorization header"}
WRONG = {"error": "Unauthorized — invalid token"}


def ask(authorization: str | None, path: str = LIEUTENANTS, method: str = "GET") -> Any:
    headers = {} if authorization is None else {"authorization": authorization}
    return Client().generic(method, path, headers=headers)


# -- tokens ------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {}", "Bearer {} "])
def test_root_token_is_accepted(form: str) -> None:
    assert ask(form.format(settings.ROOT_TOKEN)).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize(
    "form", ["Bearer {}x", "Bearer x{}", "Basic {}", "{}", "Bearer", "Bearer ", "", "Bearer é", "x"]
)
def test_other_tokens_are_rejected(form: str) -> None:
    answer = ask(form.format(settings.ROOT_TOKEN))

    assert (answer.status_code, answer.json()) == (401, WRONG)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.django_db
def test_missing_header_has_its_own_error() -> None:
    answer = ask(None)

    assert (answer.status_code, answer.json()) == (401, MISSING)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert b"missing Authorization header" in answer.content


@pytest.mark.django_db
def test_wrong_token_is_rejected_despite_session() -> None:
    client = Client()
    client.force_login(signin_links.make_operator())

    assert client.get(LIEUTENANTS).status_code == 200
    wrong = client.get(LIEUTENANTS, headers={"authorization": "Bearer wrong-token"})
    assert (wrong.status_code, wrong.json()) == (401, WRONG)


# -- order -------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/nope", "/nope/x", "/Lieutenant/lieutenants", "/lieutenantx"])
def test_unknown_service_is_reported_before_the_token(path: str) -> None:
    for authorization in (None, "Bearer wrong", f"Bearer {settings.ROOT_TOKEN}"):
        answer = ask(authorization, path)
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/lieutenant", 404),
        ("GET", "/lieutenant/", 404),
        ("GET", "/lieutenant/nope", 404),
        ("POST", f"{LIEUTENANTS}/x/nope", 404),
        ("PUT", LIEUTENANTS, 405),
        ("PUT", f"{LIEUTENANTS}/x", 405),
        ("GET", f"{LIEUTENANTS}/x/send", 405),
        ("DELETE", f"{LIEUTENANTS}/x/read", 405),
        ("GET", f"{LIEUTENANTS}/destroy-all", 405),
        ("OPTIONS", LIEUTENANTS, 405),
        ("POST", "/lieutenant/_panel", 405),
    ],
)
def test_token_is_checked_before_the_route(method: str, path: str, status: int) -> None:
    assert ask(None, path, method).json() == MISSING
    assert ask("Bearer wrong", path, method).json() == WRONG

    answer = ask(f"Bearer {settings.ROOT_TOKEN}", path, method)

    text = "not found" if status == 404 else "method not allowed"
    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert answer.headers["Content-Type"] == "application/json"


# -- operators ---------------------------------------------------------------------------------


@pytest.mark.django_db
def test_operators_need_a_csrf_token_to_write() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(signin_links.make_operator())
    path = f"{LIEUTENANTS}/destroy-all"

    refused = client.post(path, {}, content_type="application/json")
    assert refused.status_code == 403
    assert "CSRF" in refused.json()["error"]

    client.get("/signin/")
    token = client.get("/").cookies[settings.CSRF_COOKIE_NAME].value
    allowed = client.post(path, {}, content_type="application/json", headers={"x-csrftoken": token})
    assert (allowed.status_code, allowed.json()) == (200, {"results": []})


@pytest.mark.django_db
def test_agents_need_no_csrf_token() -> None:
    client = Client(
        enforce_csrf_checks=True, headers={"authorization": f"Bearer {settings.ROOT_TOKEN}"}
    )

    assert client.post(f"{LIEUTENANTS}/destroy-all").status_code == 200


@pytest.mark.django_db
def test_deactivated_account_is_rejected() -> None:
    client = Client()
    operator = signin_links.make_operator()
    client.force_login(operator)
    User.objects.filter(pk=operator.pk).update(is_active=False)

    assert client.get(LIEUTENANTS).status_code == 401


@pytest.mark.django_db
def test_token_does_not_authorize_pages() -> None:
    for path in ("/", "/lieutenants/", "/admin/"):
        answer = ask(f"Bearer {settings.ROOT_TOKEN}", path)
        assert answer.status_code == 302
        assert "/signin/" in answer.headers["Location"] or "/login/" in answer.headers["Location"]


@pytest.mark.django_db
def test_transition_records_its_author(settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    client = Client()
    client.force_login(signin_links.make_operator())
    client.post(
        LIEUTENANTS, {"name": "hers", "role": "r", "local": True}, content_type="application/json"
    )
    Api().post(LIEUTENANTS, {"name": "its", "role": "r", "local": True})

    actors = {each.name: each.moves.get().actor for each in Lieutenant.objects.all()}
    assert actors == {"hers": "admin", "its": "root token"}


# -- links -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_signin_link_works_once() -> None:
    link = signin_links.make_signin_link("http://reef.example/")
    assert link.startswith("http://reef.example/signin/")
    path = link.removeprefix("http://reef.example")
    first, second = Client(), Client()

    assert first.get(path).status_code == 302
    assert first.get("/").status_code == 200
    assert second.get(path).status_code == 410
    assert second.get("/").status_code == 302
    # The session of the first use stays valid.
    assert first.get("/").status_code == 200


@pytest.mark.django_db
def test_signin_link_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    path = signin_links.make_signin_link("")
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))

    assert Client().get(path).status_code == 410


@pytest.mark.django_db
def test_signin_link_is_stored_hashed_and_is_not_a_session() -> None:
    secret = signin_links.make_signin_link("").rpartition("/")[2]
    kept = Session.objects.get()
    thief = Client()

    assert secret not in kept.session_key
    thief.cookies[settings.SESSION_COOKIE_NAME] = kept.session_key
    assert thief.get("/").status_code == 302


@pytest.mark.django_db
def test_wrong_signin_links_are_rejected() -> None:
    signin_links.make_signin_link("")

    for secret in ("x", "l", "é", "a" * 5000):
        assert Client().get(f"/signin/{secret}").status_code == 410
    assert Session.objects.count() == 1


@pytest.mark.django_db
def test_session_key_is_not_a_signin_link() -> None:
    client = Client()
    client.force_login(signin_links.make_operator())

    assert signin_links.use_signin_link(client.cookies[settings.SESSION_COOKIE_NAME].value) is None


@pytest.mark.django_db
def test_operator_has_no_password_unless_one_was_set() -> None:
    operator = signin_links.make_operator()
    assert (operator.username, operator.is_superuser) == ("admin", True)
    assert not operator.has_usable_password()
    operator.set_password("a good one")
    operator.save()

    assert signin_links.make_operator().check_password("a good one")
