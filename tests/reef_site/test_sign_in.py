"""Sign-in: throttling, cookies and sessions."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client, RequestFactory
from django.utils import timezone

from reef_site import tasks
from reef_site.accounts import signin_links, throttle
from reef_site.accounts.models import AttemptCount
from reef_site.accounts.sessions import row_key

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
HTML = {"accept": "text/html,application/xhtml+xml"}
CHROME = {**HTML, "user-agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36"}
SAFARI = {**HTML, "user-agent": "Mozilla/5.0 (Macintosh) Version/18.0 Safari/605.1.15"}


@pytest.fixture
def freeze_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock, so that attempts follow each other at once on slow machines."""
    now = timezone.now()
    monkeypatch.setattr(throttle, "timezone", SimpleNamespace(now=lambda: now))


@pytest.fixture(autouse=True)
def fast_hashes(settings: Any) -> None:
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.MD5PasswordHasher",
        "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    ]


@pytest.fixture
def ada() -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


def attempt(client: Client, password: str, name: str = "ada", address: str = "10.0.0.1") -> Any:
    form = {"username": name, "password": password}
    return client.post("/signin/", form, headers={"x-forwarded-for": address})


# -- the page ----------------------------------------------------------------------------------


def test_admin_has_no_separate_sign_in_page() -> None:
    client = Client()

    answer = client.get("/admin/lieutenants/")
    assert answer["Location"] == "/admin/login/?next=/admin/lieutenants/"
    assert client.get(answer["Location"])["Location"] == "/signin/?next=%2Fadmin%2Flieutenants%2F"
    posted = client.post("/admin/login/", {"username": "ada", "password": "x"})
    assert posted["Location"] == "/signin/?next=%2Fadmin%2F"


def test_account_without_admin_access_gets_a_message() -> None:
    client = Client()
    client.force_login(User.objects.create_user("viewer", password=PASSWORD))

    answer = client.get("/admin/", follow=True)

    assert answer.status_code == 403
    assert "no access to the admin" in answer.content.decode()
    assert 'type="password"' not in answer.content.decode()


def test_admin_sign_in_does_not_redirect_elsewhere() -> None:
    client = Client()

    answer = client.get("/admin/login/?next=https://evil.example/")

    assert answer["Location"] == "/signin/?next=%2Fadmin%2F"


def test_used_link_redirects_signed_in_user_to_overview() -> None:
    path = signin_links.make_signin_link("")
    client = Client()
    client.get(path)

    assert client.get(path)["Location"] == "/"
    assert Client().get(path).status_code == 410


# -- throttling --------------------------------------------------------------------------------


def test_guesses_are_throttled_without_checking_passwords(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check = User.check_password

    def spy(user: User, password: str) -> bool:
        checked.append(password)
        return check(user, password)

    monkeypatch.setattr(User, "check_password", spy)
    client = Client()
    statuses = [attempt(client, f"guess {number}").status_code for number in range(5)]
    assert statuses == [200] * 5

    throttled = attempt(client, PASSWORD)

    assert throttled.status_code == 429
    assert int(throttled["Retry-After"]) >= 1
    assert "sign-in link" in throttled.content.decode()
    assert checked == [f"guess {number}" for number in range(5)]
    AttemptCount.objects.update(blocked_until=None)
    assert attempt(client, PASSWORD).status_code == 302


def test_pauses_grow_up_to_a_limit() -> None:
    bucket = throttle.Bucket("key", free=5, max_seconds=60)

    pauses = [bucket.block_seconds(failures) for failures in range(12)]

    assert pauses == [0, 0, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60]
    assert bucket.block_seconds(10_000) == 60


def test_one_address_cannot_try_many_accounts(ada: User) -> None:
    client = Client()
    statuses = [attempt(client, "x", name=f"name-{n}").status_code for n in range(40)]

    assert statuses.count(200) == 30
    assert attempt(client, PASSWORD, address="10.0.0.2").status_code == 302


@pytest.mark.usefixtures("freeze_time")
def test_many_addresses_cannot_guess_one_account(ada: User) -> None:
    answers = [attempt(Client(), "x", address=f"10.0.1.{n}").status_code for n in range(30)]

    assert answers.count(200) == 15
    soon = timezone.now() + timedelta(seconds=60)
    assert not AttemptCount.objects.filter(blocked_until__gt=soon).exists()


@pytest.mark.usefixtures("freeze_time")
def test_guesses_of_others_do_not_delay_a_known_browser(ada: User) -> None:
    mine = Client()
    assert attempt(mine, PASSWORD).status_code == 302
    mine.post("/signout/")
    for number in range(20):
        attempt(Client(), "x", address=f"10.0.1.{number}")

    assert attempt(Client(), PASSWORD, address="10.0.3.1").status_code == 429
    assert attempt(mine, PASSWORD).status_code == 302


@pytest.mark.usefixtures("freeze_time")
def test_a_known_browser_is_throttled_too(ada: User) -> None:
    mine = Client()
    attempt(mine, PASSWORD)
    mine.post("/signout/")

    statuses = [attempt(mine, "x", address=f"10.0.4.{n}").status_code for n in range(8)]

    assert statuses == [200] * 5 + [429] * 3


def test_clients_of_an_unknown_proxy_do_not_share_an_address(ada: User) -> None:
    for number in range(40):
        attempt(Client(), "x", name=f"name-{number}", address="127.0.0.1")

    assert attempt(Client(), PASSWORD, address="127.0.0.1").status_code == 302


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.8.9.1"])
def test_guesses_through_an_unknown_proxy_block_an_account_for_a_minute(
    ada: User, address: str
) -> None:
    for _ in range(30):
        AttemptCount.objects.update(blocked_until=None)
        attempt(Client(), "x", address=address)

    soon = timezone.now() + timedelta(seconds=60)
    assert AttemptCount.objects.filter(blocked_until__gt=timezone.now()).exists()
    assert not AttemptCount.objects.filter(blocked_until__gt=soon).exists()


def test_successful_sign_in_blocks_nobody(ada: User) -> None:
    for number in range(35):
        AttemptCount.objects.update(blocked_until=None)
        attempt(Client(), "x", name=f"name-{number}")
    AttemptCount.objects.update(blocked_until=None)

    assert attempt(Client(), PASSWORD).status_code == 302

    assert not AttemptCount.objects.filter(blocked_until__gt=timezone.now()).exists()
    assert attempt(Client(), "x", name="another").status_code == 200


def test_successful_sign_in_keeps_later_block(ada: User) -> None:
    request = RequestFactory().post("/signin/", headers={"x-forwarded-for": "10.0.0.1"})
    for number in range(28):
        throttle.begin(request, f"name-{number}")
    good = throttle.begin(request, "ada")
    throttle.begin(request, "bob")

    throttle.succeeded(good)

    assert throttle.begin(request, "carol").wait_seconds > 0


def test_links_work_while_the_account_is_throttled() -> None:
    operator = signin_links.make_operator()
    operator.set_password(PASSWORD)
    operator.save()
    for number in range(20):
        attempt(Client(), "x", name="admin", address=f"10.0.1.{number}")
    client = Client()

    assert attempt(client, PASSWORD, name="admin").status_code == 429
    assert client.get(signin_links.make_signin_link(""))["Location"] == "/"


def test_failures_expire_after_an_hour(ada: User) -> None:
    for _ in range(5):
        attempt(Client(), "x")
    AttemptCount.objects.update(
        updated_at=timezone.now() - timedelta(minutes=61),
        blocked_until=timezone.now() + timedelta(hours=1),
    )

    assert attempt(Client(), PASSWORD).status_code == 302
    tasks.clean_up()
    assert AttemptCount.objects.count() == 1  # the entry of the address


def test_names_are_not_stored_in_clear(ada: User) -> None:
    attempt(Client(), "x", name="my password by mistake")

    assert not [row for row in AttemptCount.objects.all() if "mistake" in row.key]


def test_each_failure_is_logged_escaped_and_without_the_password(
    ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    attempt(Client(), "a secret guess", name="ada\u202e\x1b[31m")

    said = [record.getMessage() for record in caplog.records if record.name == "reef.audit"]
    assert said == [
        "Sign-in failed: account ada\\u202e\\x1b[31m from 10.0.0.1: wrong name or password"
    ]
    assert "a secret guess" not in caplog.text


# -- cookies -----------------------------------------------------------------------------------


def test_cookie_names_are_specific_to_this_reef(ada: User) -> None:
    answer = attempt(Client(), PASSWORD)

    assert {name[: name.rindex("-")] for name in answer.cookies} == {
        "reef-session",
        "reef-csrf",
        "reef-browser",
    }
    for cookie in answer.cookies.values():
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert not cookie["secure"]


def test_cookies_over_tls_are_for_tls_only(ada: User) -> None:
    client = Client(headers={"x-forwarded-proto": "https"})
    answer = attempt(client, PASSWORD)

    assert answer.cookies
    assert all(cookie["secure"] for cookie in answer.cookies.values())
    assert answer["Strict-Transport-Security"] == "max-age=2592000"
    assert "Strict-Transport-Security" not in Client().get("/signin/")


# -- sessions ----------------------------------------------------------------------------------


def test_session_ids_are_not_stored_in_clear(ada: User) -> None:
    client = Client()
    client.force_login(ada)
    session_id = client.cookies[settings.SESSION_COOKIE_NAME].value
    row = Session.objects.get()

    assert row.session_key == row_key(session_id)
    assert session_id not in row.session_key
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = row.session_key
    assert thief.get("/").status_code == 302
    assert client.get("/").status_code == 200


def set_session(client: Client, **values: float) -> None:
    session = client.session
    session.update(values)
    session.save()


def test_session_in_use_is_extended(ada: User) -> None:
    client = Client()
    client.force_login(ada)
    Session.objects.update(expire_date=timezone.now() + timedelta(hours=1))
    client.get("/")
    assert Session.objects.get().expire_date < timezone.now() + timedelta(hours=2)

    set_session(client, used_at=time.time() - 3600)
    Session.objects.update(expire_date=timezone.now() + timedelta(hours=1))
    answer = client.get("/")

    assert Session.objects.get().expire_date > timezone.now() + timedelta(hours=11)
    assert settings.SESSION_COOKIE_NAME in answer.cookies


def test_no_session_outlives_the_absolute_limit(ada: User) -> None:
    client = Client()
    client.force_login(ada)
    almost = time.time() - settings.SESSION_ABSOLUTE_AGE + 600
    set_session(client, signed_in_at=almost, used_at=0)

    client.get("/")

    assert Session.objects.get().expire_date < timezone.now() + timedelta(seconds=610)
    set_session(client, signed_in_at=almost - 700, used_at=0)
    assert client.get("/").status_code == 302


def test_expired_sessions_and_links_are_deleted(ada: User) -> None:
    client = Client()
    client.force_login(ada)
    signin_links.make_signin_link("")
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    other = Client()
    other.force_login(ada)

    tasks.clean_up()

    assert Session.objects.count() == 1
    assert other.get("/").status_code == 200


# -- reef's own host name ----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "[::1]:3000"])
def test_browsers_are_sent_to_reefs_own_host_name(host: str) -> None:
    answer = Client(headers={**CHROME, "host": host}).get("/lieutenants/?q=a")

    assert answer.status_code == 302
    assert answer["Location"] == "http://reef.localhost:3000/lieutenants/?q=a"
    assert not answer.cookies


def test_redirect_does_not_consume_link() -> None:
    path = signin_links.make_signin_link("")
    client = Client(headers={**CHROME, "host": "127.0.0.1:3000"})

    assert client.get(path)["Location"] == f"http://reef.localhost:3000{path}"
    there = Client(headers={**CHROME, "host": "reef.localhost:3000"})
    assert there.get(path)["Location"] == "/"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/health", CHROME),
        ("/lieutenant/lieutenants", CHROME),
        ("/events", CHROME),
        ("/signin/", SAFARI),
        ("/signin/", {"accept": "*/*", "user-agent": "curl/8"}),
        ("/signin/", {**CHROME, "host": "reef.localhost:3000"}),
        ("/signin/", {**CHROME, "host": "192.168.0.5:3000"}),
    ],
)
def test_other_clients_are_not_redirected(
    path: str, headers: dict[str, str], settings: Any
) -> None:
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "192.168.0.5"]
    answer = Client(headers={"host": "127.0.0.1:3000", **headers}).get(path)

    assert answer.status_code in (200, 401)


def test_signed_in_user_is_not_redirected(ada: User) -> None:
    client = Client(headers={**CHROME, "host": "127.0.0.1:3000"})
    client.force_login(ada)

    assert client.get("/").status_code == 200


def test_own_host_name_can_be_disabled(settings: Any) -> None:
    settings.OWN_HOST = ""

    assert Client(headers={**CHROME, "host": "127.0.0.1:3000"}).get("/signin/").status_code == 200
    assert signin_links.page_url("http://127.0.0.1:3000") == "http://127.0.0.1:3000"


def test_own_host_name_is_used_on_the_loopback_only() -> None:
    pages = {url: signin_links.page_url(url) for url in ("http://127.0.0.1:1", "http://[::1]:2")}
    assert pages == {
        "http://127.0.0.1:1": "http://reef.localhost:1",
        "http://[::1]:2": "http://reef.localhost:2",
    }
    for url in ("http://127.0.0.2:3000", "https://reef.example"):
        assert signin_links.page_url(url) == url
