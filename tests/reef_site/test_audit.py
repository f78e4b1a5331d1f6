"""The audit log: changes, sign-ins, secrets and refusals."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from reef_site.accounts import signin_links
from reef_site.audit import edge_refusals, refusals, retention
from reef_site.audit.edge_refusals import EdgeRefusals, Refused
from reef_site.audit.models import Action, ActorKind, AppendOnly, Record
from tests.conftest import Api
from vmtree import services, tokens
from vmtree.models import Category
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
LIEUTENANTS = "/lieutenant/lieutenants"


@pytest.fixture(autouse=True)
def no_agents(settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def ada() -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def operator(ada: User) -> Client:
    client = Client(headers={"x-forwarded-for": "10.0.0.1", "accept": "text/html"})
    client.force_login(ada)
    Record.objects.all().delete()
    return client


@pytest.fixture
def node() -> Client:
    made = services.create(NewNode("far", Category.SWARM_VM, vm_id="far-1"), by="tests")
    token = tokens.issue(made, made_by="tests")
    return Client(headers={"authorization": f"Bearer {token}", "x-forwarded-for": "10.0.0.9"})


def records() -> list[Record]:
    refusals.write()
    return list(Record.objects.order_by("id"))


def only_record() -> Record:
    (row,) = records()
    return row


# -- what is recorded --------------------------------------------------------------------------


def test_sign_in_and_out_are_recorded(ada: User) -> None:
    client = Client(headers={"x-forwarded-for": "10.0.0.1"})
    form = {"username": "ada", "password": PASSWORD}
    client.post("/signin/", {**form, "password": "wrong guess"})
    client.post("/signin/", form)
    client.post("/signout/")
    client.get(signin_links.make_signin_link(""))
    client.get("/signin/no-such-link")

    assert [(row.action, row.actor, row.reason, row.status) for row in records()] == [
        ("sign-in-failed", "ada", "wrong name or password", 401),
        ("sign-in", "ada", "by password", 200),
        ("sign-out", "ada", "", 200),
        ("sign-in", "admin", "by link", 200),
        ("sign-in-failed", "", "this link does not work, or no longer", 410),
    ]
    assert {row.address for row in records()} == {"10.0.0.1"}
    assert "no-such-link" not in str([vars(row) for row in records()])


def test_changes_by_people_are_recorded(operator: Client) -> None:
    body = {"name": "hers", "role": "secret words", "local": True}
    operator.post(f"{LIEUTENANTS}?wait=37", body, content_type="application/json")

    row = only_record()
    assert (row.action, row.actor, row.actor_kind) == (Action.CHANGE, "ada", ActorKind.ACCOUNT)
    assert (row.address, row.method, row.route) == ("10.0.0.1", "POST", LIEUTENANTS)
    assert (row.target, row.status, row.count) == ("hers", 201, 1)
    assert "secret words" not in str(vars(row))
    assert "wait=37" not in str(vars(row))


def test_changes_by_root_token_are_recorded(api: Api) -> None:
    api.post("/vm-tree/vms", {"name": "one", "category": "swarm_vm"})

    assert (only_record().actor, only_record().actor_kind, only_record().target) == (
        "root token",
        "root",
        "one",
    )


def test_changes_and_refusals_of_nodes_are_recorded(node: Client) -> None:
    made = {"name": "below", "category": "swarm_vm", "parentVmId": "far-1"}
    node.post("/vm-tree/vms", made, content_type="application/json")
    node.post(f"{LIEUTENANTS}/destroy-all")
    node.get("/vers-config/resolve/VERS_API_KEY")

    change, *refused = records()
    assert (change.actor, change.actor_kind, change.status) == ("node far-1", "node", 201)
    assert {row.action for row in refused} <= {Action.REFUSED, Action.CHANGE}
    secret = refused[-1]
    assert (secret.action, secret.status, secret.actor) == (Action.REFUSED, 403, "node far-1")
    assert secret.reason.startswith("rule: ")
    assert secret.address == "10.0.0.9"


def test_admin_actions_record_their_targets(operator: Client) -> None:
    operator.post("/admin/vmtree/node/", {"action": "pause_subtree", "_selected_action": ["7"]})

    assert only_record().target == "pause_subtree 7"
    assert only_record().route == "/admin/vmtree/node/"


def test_reading_a_secret_is_recorded(operator: Client) -> None:
    operator.get("/vers-config/resolve/VERS_API_KEY")

    row = only_record()
    assert (row.action, row.target, row.method) == (Action.SECRET, "VERS_API_KEY", "GET")


def test_conditional_reading_of_a_secret_is_recorded(operator: Client) -> None:
    path = "/vers-config/resolve/VERS_API_KEY"
    found = operator.get(path, headers={"if-none-match": "*"})

    assert found.status_code == 200
    assert only_record().action == Action.SECRET


def test_mcp_request_of_a_foreign_page_is_recorded(node: Client) -> None:
    headers = {"origin": "https://evil.example"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    refused = node.post("/mcp", message, content_type="application/json", headers=headers)

    assert refused.status_code == 403
    row = only_record()
    assert (row.action, row.status) == (Action.REFUSED, 403)
    assert row.reason.startswith("origin: https://evil.example ")


def test_wrong_tokens_are_recorded(settings: Any) -> None:
    headers = {"authorization": "Bearer wrong-token", "x-forwarded-for": "10.0.0.3"}
    Client(headers=headers).get(LIEUTENANTS)

    row = only_record()
    assert (row.action, row.actor_kind, row.status) == (Action.REFUSED, ActorKind.NOBODY, 401)
    assert row.reason == "Unauthorized — invalid token"
    assert "wrong-token" not in str(vars(row))


def test_refusals_of_pages_have_a_reason(ada: User) -> None:
    viewer = Client(enforce_csrf_checks=True)
    viewer.force_login(User.objects.create_user("viewer"))
    Record.objects.all().delete()
    viewer.post("/lieutenants/ada/pause")
    viewer.handler.enforce_csrf_checks = False
    viewer.post("/lieutenants/ada/pause")

    reasons = [row.reason for row in records()]
    assert reasons[0].startswith("CSRF: ")
    assert records()[-1].count + len(reasons) == 3


def test_high_volume_requests_are_not_recorded(api: Api, node: Client) -> None:
    body = {"id": "far-1", "name": "far", "role": "worker", "address": "a", "registeredBy": "x"}
    api.post("/registry/vms", body)
    for path in ("/registry/vms/far-1/heartbeat", "/registry/heartbeats", "/bootloader/report"):
        node.post(path, {}, content_type="application/json")
    api.client.patch("/registry/vms/far-1", {"name": "x"}, content_type="application/json")

    assert [row for row in records() if row.action == Action.CHANGE] == []


@pytest.mark.parametrize("path", ["/", "/lieutenants/", "/health", "/config/", "/audit/"])
def test_reads_are_not_recorded(operator: Client, path: str) -> None:
    operator.get(path)

    assert records() == []


def test_forged_address_is_ignored() -> None:
    Client(headers={"x-forwarded-for": "nonsense"}).get(LIEUTENANTS)

    assert only_record().address == ""


def test_control_characters_are_escaped(operator: Client) -> None:
    operator.post("/lieutenants/a\u202eb/pause")

    assert only_record().target == "a\\u202eb pause"


# -- repeated refusals -------------------------------------------------------------------------


def freeze_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now().replace(second=10)
    monkeypatch.setattr(timezone, "now", lambda: now)


def test_repeated_refusals_of_a_minute_share_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    freeze_minute(monkeypatch)
    client = Client(headers={"x-forwarded-for": "10.0.0.3"})
    for number in range(200):
        client.get(f"{LIEUTENANTS}/ada-{number}")

    assert (only_record().count, only_record().status) == (200, 401)
    Client(headers={"x-forwarded-for": "10.0.0.4"}).get(f"{LIEUTENANTS}/ada")
    assert [row.count for row in records()] == [200, 1]


def test_processes_share_the_row_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    freeze_minute(monkeypatch)
    for _ in range(3):
        Client().get(LIEUTENANTS)
        refusals.write()
        refusals.forget()

    assert only_record().count == 3


def test_each_minute_has_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    for minute in range(3):
        monkeypatch.setattr(timezone, "now", lambda m=minute: now + timedelta(minutes=m))
        Client().get(LIEUTENANTS)

    assert [row.count for row in records()] == [1, 1, 1]


def test_unknown_names_share_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    freeze_minute(monkeypatch)
    client = Client(headers={"x-forwarded-for": "10.0.0.3"})
    for number in range(20):
        client.post("/signin/", {"username": f"name-{number}", "password": "x"})

    assert [(row.actor, row.count) for row in records()] == [("(unknown name)", 20)]


# -- append-only, and retention ----------------------------------------------------------------


def test_rows_are_append_only(operator: Client) -> None:
    operator.post("/lieutenants/ada/pause")
    row = only_record()
    row.actor = "somebody else"

    with pytest.raises(AppendOnly):
        row.save()
    with pytest.raises(AppendOnly):
        row.delete()


def test_admin_is_read_only(operator: Client) -> None:
    operator.post("/lieutenants/ada/pause")
    pk = only_record().pk

    assert operator.get("/admin/audit/record/").status_code == 200
    assert operator.get(f"/admin/audit/record/{pk}/change/").status_code == 200
    for path in (f"{pk}/delete/", "add/"):
        assert operator.post(f"/admin/audit/record/{path}", {"post": "yes"}).status_code == 403
    assert Record.objects.filter(pk=pk).exists()


def make(count: int, **values: Any) -> None:
    now = timezone.now()
    facts = {"at": now, "last_at": now, "action": Action.CHANGE, "actor": "ada", **values}
    Record.objects.bulk_create(
        Record(**facts, actor_kind=ActorKind.ACCOUNT, target=f"target-{number}")
        for number in range(count)
    )


def test_old_and_surplus_rows_are_deleted(settings: Any) -> None:
    make(5, at=timezone.now() - timedelta(days=91))
    make(30)
    retention.prune()
    assert Record.objects.count() == 30

    settings.AUDIT_ROWS = 10
    retention.prune()

    assert [row.target for row in records()] == [f"target-{number}" for number in range(20, 30)]


# -- the page ----------------------------------------------------------------------------------


def page(client: Client, query: str = "") -> str:
    answer = client.get(f"/audit/{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_page_is_for_operators_only(operator: Client) -> None:
    viewer = Client()
    viewer.force_login(User.objects.create_user("viewer", is_staff=True))

    assert viewer.get("/audit/").status_code == 403
    assert viewer.get("/admin/audit/record/").status_code == 403
    assert 'href="/audit/"' not in viewer.get("/").content.decode()
    assert Client().get("/audit/")["Location"] == "/signin/?next=/audit/"
    assert 'href="/audit/"' in page(operator)


def test_filters_narrow_the_list(operator: Client) -> None:
    make(1, actor="grace", address="10.9.9.9")
    make(1, actor="eve", action=Action.REFUSED, reason="rule: not hers")
    make(1, actor="old", at=timezone.now() - timedelta(days=3))
    Record.objects.filter(actor="old").update(last_at=timezone.now() - timedelta(days=3))
    yesterday = (timezone.now() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")

    def shown(query: str) -> set[str]:
        html = page(operator, query)
        return {name for name in ("grace", "eve", "old") if f">{name}</a>" in html}

    assert shown("") == {"grace", "eve", "old"}
    assert shown("?actor=grace") == {"grace"}
    assert shown("?address=10.9.9.9") == {"grace"}
    assert shown("?refused=on") == {"eve"}
    assert shown("?action=refused") == {"eve"}
    assert shown(f"?since={yesterday}") == {"grace", "eve"}
    assert shown(f"?until={yesterday}") == {"old"}
    assert "rule: not hers" in page(operator, "?refused=on")
    assert "No records match" in page(operator, "?actor=nobody")
    assert "Enter a valid date" in page(operator, "?since=soon")


def test_list_is_paginated(operator: Client) -> None:
    make(250)
    seen: list[str] = []
    query = "?actor=ada"
    while query:
        html = page(operator, query)
        seen += [f"target-{n}" for n in range(249, -1, -1) if re.search(rf"\btarget-{n}\b", html)]
        older = html.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
        query = older.replace("&amp;", "&") if 'rel="next"' in html else ""

    assert seen == [f"target-{number}" for number in range(249, -1, -1)]
    assert "No records" in page(operator, "?before=1")
    assert page(operator, "?before=nonsense")


def test_page_escapes_records(operator: Client) -> None:
    make(1, actor="<script>alert(1)</script>")

    assert "<script>alert" not in page(operator)


# -- refusals of the edge ----------------------------------------------------------------------


def test_refusals_of_the_edge_are_counted_in_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freeze_minute(monkeypatch)
    wrong: dict[str, Any] = {
        "address": "10.0.0.3",
        "method": "POST",
        "status": 401,
        "reason": "invalid token",
    }
    counts = Counter(
        {Refused(path=f"/registry/vms/vm-{n}/heartbeat", **wrong): 5 for n in range(4)}
    )

    edge_refusals.record(counts)
    edge_refusals.record(Counter({Refused(path="/registry/vms/vm-9/heartbeat", **wrong): 2}))

    row = only_record()
    assert (row.count, row.route) == (22, "/registry/vms/<vm_id>/heartbeat")
    assert (row.address, row.target, row.status) == ("10.0.0.3", "vm-0", 401)


def test_edge_limits_distinct_refusals() -> None:
    async def send_many() -> Counter[Refused]:
        edge = EdgeRefusals()
        for number in range(3000):
            edge.note("10.0.0.3", "POST", f"/registry/vms/{number}", 401, "invalid token")
        counts, edge._counts = edge._counts, Counter()
        await edge.close()
        return counts

    counts = asyncio.run(send_many())

    assert len(counts) == edge_refusals.MAX_DIFFERENT + 1
    assert counts.total() == 3000
