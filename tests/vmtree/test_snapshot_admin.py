"""Snapshots in the admin: taken, looked through, compared, restored only after a look."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.accounts.signin_links import make_operator
from tests.vmtree.conftest import Make
from vmtree import services
from vmtree.services import NodeChange
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import files

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/vmtree/snapshot/"


@pytest.fixture
def browser() -> Client:
    client = Client()
    client.force_login(make_operator())
    return client


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer
    return str(answer.content.decode())


def take(browser: Client) -> Snapshot:
    assert "saved" in text_of(browser.post(f"{LIST}take/", follow=True))
    newest = Snapshot.objects.first()
    assert newest
    return newest


def run_action(browser: Client, action: str, *rows: Snapshot) -> str:
    form = {"action": action, "_selected_action": [row.pk for row in rows]}
    return text_of(browser.post(LIST, form, follow=True))


def test_snapshots_are_taken_listed_found_and_downloaded(browser: Client, make: Make) -> None:
    make("ada")
    assert "Snapshot now" in text_of(browser.get(LIST))
    snapshot = take(browser)
    listed = text_of(browser.get(LIST))
    assert f"{snapshot.at:%Y-%m-%d %H:%M:%S}" in listed
    assert snapshot.file in text_of(browser.get(f"{LIST}{snapshot.pk}/change/"))
    words = f"q={snapshot.sha256[:12]}&state__exact=ready&why__exact=asked"
    found = text_of(browser.get(f"{LIST}?{words}"))
    assert "restore …" in found
    assert "restore …" not in text_of(browser.get(f"{LIST}?q=nothing"))
    answer: Any = browser.get(f"{LIST}{snapshot.pk}/download/")
    assert b"".join(answer).startswith(b"SQLite format 3")


def test_snapshots_are_pinned_and_verified(browser: Client, make: Make) -> None:
    make("ada")
    snapshot = take(browser)
    assert "is pinned" in run_action(browser, "pin", snapshot)
    assert Snapshot.objects.get().pinned
    assert "is no longer pinned" in run_action(browser, "unpin", snapshot)
    assert not Snapshot.objects.get().pinned
    assert "is intact" in run_action(browser, "verify", snapshot)
    with files.path_of(snapshot.file).open("r+b") as file:
        file.truncate(5000)
    assert "was cut off" in run_action(browser, "verify", snapshot)
    assert "was cut off" in text_of(browser.get(f"{LIST}{snapshot.pk}/download/", follow=True))
    assert "restore …" not in text_of(browser.get(LIST))


def test_snapshots_are_compared_with_the_tree_and_each_other(browser: Client, make: Make) -> None:
    make("ada")
    old = take(browser)
    make("bob", under="ada")
    new = take(browser)
    services.remove("bob", by="tests")
    assert "New" in run_action(browser, "compare", new, old)
    with_now = run_action(browser, "compare", new)
    assert "Removed" in with_now
    assert "bob" in with_now
    assert "No difference" in run_action(browser, "compare", old)
    assert "Choose one or two" in run_action(browser, "compare", old, new, take(browser))
    for words in ("", "?from=77", "?from=x", f"?from={old.pk}&to=0x1"):
        answer = browser.get(f"{LIST}compare/{words}", follow=True)
        assert "errorlist" in text_of(answer) or 'class="error"' in text_of(answer)


def test_restore_asks_for_confirmation(browser: Client, make: Make) -> None:
    ada = make("ada", organs=("store",))
    snapshot = take(browser)
    services.change("ada", NodeChange(dna={"organs": ["cron"], "capabilities": []}), by="tests")
    path = f"{LIST}{snapshot.pk}/restore/"
    asked = text_of(browser.get(path))
    assert "+store −cron" in asked
    found = re.search(r'name="confirm" value="([^"]+)"', asked)
    assert found
    assert "look at the comparison" in text_of(browser.post(path, follow=True))
    make("bob")
    assert "has changed since" in text_of(browser.post(path, {"confirm": found[1]}, follow=True))
    ada.refresh_from_db()
    assert ada.organs == ["cron"]

    services.remove("bob", by="tests")
    assert "Restored the tree from" in text_of(
        browser.post(path, {"confirm": found[1]}, follow=True)
    )
    ada.refresh_from_db()
    assert ada.organs == ["store"]
    assert Snapshot.objects.filter(why="change").count() == 1


def test_read_only_account_cannot_change_snapshots(
    client: Client, browser: Client, make: Make
) -> None:
    make("ada")
    snapshot = take(browser)
    looker = User.objects.create_user("looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename="view_snapshot"))
    client.force_login(looker)
    listed = text_of(client.get(LIST))
    assert "Snapshot now" not in listed
    assert "Verify selected" not in listed
    assert client.post(f"{LIST}take/").status_code == 403
    assert client.get(f"{LIST}{snapshot.pk}/restore/").status_code == 403
    assert client.post(f"{LIST}{snapshot.pk}/restore/", {"confirm": "x"}).status_code == 403
    assert client.get(f"{LIST}take/").status_code == 405
    assert "No difference" in text_of(client.get(f"{LIST}compare/?from={snapshot.pk}"))
    client.force_login(User.objects.create_user("nobody", is_staff=True))
    assert client.get(f"{LIST}{snapshot.pk}/download/").status_code == 403
    assert client.get(f"{LIST}compare/?from={snapshot.pk}").status_code == 403


def test_number_of_queries_does_not_grow_with_the_rows(browser: Client, make: Make) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            text_of(browser.get(LIST))
        return len(asked)

    take(browser)
    few = queries()
    for _ in range(4):
        take(browser)
    assert queries() == few
