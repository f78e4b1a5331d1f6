"""The page of the door, and the admin: who was turned away and why, tokens that can be voided."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from bootloader.models import BootReport, JoinRefusal, JoinToken
from reef_site.accounts.signin_links import make_operator
from tests.bootloader.join_clients import BearerClient, issue_join_token

pytestmark = pytest.mark.django_db
PAGE = "/provisioning/door/"


@pytest.fixture
def operator() -> Client:
    client = Client(headers={"accept": "text/html"})
    client.force_login(make_operator())
    return client


def text_of_page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.content.decode()))


def test_rejected_joins_are_listed(operator: Client) -> None:
    token = issue_join_token("vm-1", name="<b>one</b>")
    BearerClient(token).join()
    for _ in range(2):
        BearerClient(token).join()
    BearerClient("reefjoin_" + "x" * 40).join()

    words = text_of_page(operator, PAGE)

    assert "used token" in words
    assert "this join token was used at 20" in words
    assert "unknown token" in words
    assert "unknown" in words
    assert "127.0.0.1" in words
    assert b"&lt;b&gt;one&lt;/b&gt;" in operator.get(PAGE).content


def test_tokens_are_listed_and_revoked(operator: Client) -> None:
    token = issue_join_token("vm-1")
    words = text_of_page(operator, PAGE)
    assert "name of vm-1 vm-1 open until" in words
    assert token not in words

    row = JoinToken.objects.get()
    answer = operator.post(f"{PAGE}{row.pk}/void", follow=True)

    assert "was revoked" in answer.content.decode()
    assert BearerClient(token).join().status_code == 401
    assert JoinRefusal.objects.get().why == "voided"
    again = operator.post(f"{PAGE}{row.pk}/void", follow=True)
    assert "is no longer valid" in again.content.decode()


def test_list_is_filtered_by_vm(operator: Client) -> None:
    issue_join_token("vm-1")
    issue_join_token("vm-2")

    words = text_of_page(operator, f"{PAGE}?vm=vm-2")

    assert "name of vm-2" in words
    assert "name of vm-1" not in words


def test_revoking_needs_permission() -> None:
    issue_join_token("vm-1")
    row = JoinToken.objects.get()
    guest = Client()
    assert guest.get(PAGE).status_code == 302
    guest.force_login(User.objects.create_user("guest"))

    assert guest.get(PAGE).status_code == 200
    assert b"Void</button>" not in guest.get(PAGE).content
    assert guest.post(f"{PAGE}{row.pk}/void").status_code == 403
    assert JoinToken.objects.get().voided_at is None


def test_join_token_does_not_open_pages() -> None:
    answer = BearerClient(issue_join_token("vm-1")).get(PAGE)

    assert answer.status_code == 302
    assert answer["Location"].startswith("/signin/")


def test_admin_lists_tokens_rejections_and_reports(operator: Client) -> None:
    token = issue_join_token("vm-1")
    BearerClient(token).report(step="packages", status="failed", output="<script>boo</script>")
    BearerClient(token).join(vmId="vm-2")
    for model in ("jointoken", "joinrefusal", "bootreport"):
        answer = operator.get(f"/admin/bootloader/{model}/")
        assert answer.status_code == 200
        assert b"vm-1" in answer.content
    shown = operator.get(f"/admin/bootloader/bootreport/{BootReport.objects.get().pk}/change/")
    assert b"&lt;script&gt;boo" in shown.content

    wish = {"action": "void", "_selected_action": [str(JoinToken.objects.get().pk)]}
    operator.post("/admin/bootloader/jointoken/", wish)
    assert BearerClient(token).join().status_code == 401
