"""Operator tokens: made and revoked on a page, accepted by the API within scope and subtree."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from bootloader.models import ProvisionGrant
from lieutenants.models import Lieutenant, Message
from lieutenants.states import Status
from reef_site.accounts import proof
from reef_site.accounts.signin_links import make_operator
from reef_site.audit import refusals
from reef_site.audit.models import ActorKind, Record
from reef_site.edge import credentials, revocation
from reef_site.edge.credentials import Shown
from reef_site.edge.revocation import StreamCredentials
from registry import services as registry
from registry.bearer_tokens import parse_credentials
from registry.fast_path import parse
from registry.services import Registration
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.vmtree.conftest import NodeApi
from vmtree import operator_tokens, services, tokens
from vmtree.models import Node, OperatorToken
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db

PAGE = "/access/tokens/"
LT = "/lieutenant/lieutenants"
FORM = {"name": "ci", "scope": "read", "subtree": "", "days": "30"}


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch, settings: Any) -> dict[str, Node]:
    """roof → (ada → ada-1, bob); ada and bob are lieutenants of this host."""
    drop_tasks(monkeypatch, "")
    settings.PI_PATH = str(STANDIN)
    nodes = {}
    for vm_id, parent in (("roof", ""), ("ada", "roof"), ("ada-1", "ada"), ("bob", "roof")):
        nodes[vm_id] = services.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
    for name in ("ada", "bob"):
        registry.register(Registration(name, name, "worker", "h", registered_by="tests"))
        Lieutenant.objects.create(
            id=name,
            name=name,
            role="tests",
            folder="/",
            host=settings.HOST,
            data_folder=settings.DATA_FOLDER_ID,
            status="idle",
        )
    return nodes


@pytest.fixture
def operator() -> Client:
    client = Client(headers={"accept": "text/html"})
    client.force_login(make_operator())
    return client


def token_for(scope: str, subtree: Node | None = None, name: str = "") -> tuple[Any, NodeApi]:
    """Make a token; return its row and an API client with it."""
    made = operator_tokens.make(name or scope, scope, subtree=subtree, by=make_operator())
    return made[0], NodeApi(made[1])


# -- the page --------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_stored_as_a_hash(operator: Client) -> None:
    made = operator.post(PAGE, {**FORM, "subtree": "ada"})
    (token,) = re.findall(r'<code id="token">(reefop_[\w-]{43})</code>', made.content.decode())

    row = OperatorToken.objects.get()
    assert (row.name, row.scope, row.subtree, row.made_by) == (
        *("ci", "read", Node.objects.get(vm_id="ada")),
        str(make_operator()),
    )
    assert row.digest == tokens.digest_of(token)
    assert "no-store" in made["Cache-Control"]
    assert row.expires_at
    assert timedelta(days=29) < row.expires_at - timezone.now() < timedelta(days=31)
    assert token not in operator.get(PAGE).content.decode()
    assert token not in str(list(Record.objects.values()))
    assert Record.objects.filter(action="change", route="/access/tokens/", target="ci").exists()
    assert NodeApi(token).get("/whoami").json()["kind"] == "token-read"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "a b"}, "use 1 to 64 letters"),
        ({"name": ""}, "This field is required"),
        ({"name": "taken"}, "there is a token taken already"),
        ({"scope": "root"}, "Select a valid choice"),
        ({"subtree": "nobody"}, "There is no VM"),
        ({"days": "0"}, "greater than or equal to 1"),
    ],
)
def test_invalid_tokens_are_not_made(operator: Client, fields: dict[str, str], words: str) -> None:
    token_for("read", name="taken")

    answer = operator.post(PAGE, {**FORM, **fields})

    assert answer.status_code == 400
    assert words in answer.content.decode()
    assert OperatorToken.objects.count() == 1


def test_only_people_with_a_recent_proof_make_and_revoke_tokens(
    operator: Client, api: Api, family: dict[str, Node]
) -> None:
    row, everything = token_for("everything")
    joe = Client()
    joe.force_login(User.objects.create_user("joe"))

    for other in (api.client, everything.client):
        # A bearer token opens no page.
        assert other.post(PAGE, FORM).status_code == 302
        assert other.post(f"{PAGE}{row.pk}/revoke").status_code == 302
    assert joe.get(PAGE).status_code == joe.post(PAGE, FORM).status_code == 403
    assert joe.post(f"{PAGE}{row.pk}/revoke").status_code == 403
    for by in (api, everything, NodeApi(tokens.issue(family["ada"], made_by="tests"))):
        assert by.get("/can?action=make-tokens").json()["allowed"] is False
    session = operator.session
    session[proof.PROVED_AT] = 0
    session.save()
    assert operator.post(PAGE, FORM).status_code == 403
    row.refresh_from_db()
    assert (OperatorToken.objects.count(), row.revoked_at) == (1, None)


def test_revoked_and_expired_tokens_and_those_of_removed_subtrees_are_refused(
    operator: Client, family: dict[str, Node]
) -> None:
    revoked, first = token_for("everything", name="one")
    expired, second = token_for("everything", name="two")
    _, third = token_for("everything", family["ada-1"], name="three")
    clients = (first, second, third)
    assert [each.get("/registry/vms").status_code for each in clients] == [200] * 3

    assert operator.post(f"{PAGE}{revoked.pk}/revoke").status_code == 302
    OperatorToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    services.remove("ada-1", by="tests")

    assert [each.get("/registry/vms").status_code for each in clients] == [401] * 3
    page = operator.get(PAGE).content.decode()
    assert page.count('<span class="soft">revoked') == 2
    assert "expired" in page
    assert operator.post(f"{PAGE}99999/revoke").status_code == 404
    again = operator.post(PAGE, {**FORM, "name": "one"})
    assert again.status_code == 400
    assert "token one was revoked; its name is never given again" in again.content.decode()


def test_last_use_is_written_once_a_minute(operator: Client) -> None:
    row, client = token_for("read")

    def used_from(address: str) -> OperatorToken:
        client.client.get("/registry/vms", headers={"x-forwarded-for": address})
        return OperatorToken.objects.get(pk=row.pk)

    first = used_from("10.0.0.7")
    assert (first.last_address, bool(first.last_used_at)) == ("10.0.0.7", True)
    assert used_from("10.0.0.8").last_address == "10.0.0.7"
    OperatorToken.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    assert used_from("10.0.0.8").last_address == "10.0.0.8"
    assert "10.0.0.8" in operator.get(PAGE).content.decode()


# -- scopes ----------------------------------------------------------------------------------------


def requests_of(by: NodeApi, name: str) -> dict[str, int]:
    """Send one request of each kind about a lieutenant; return their statuses."""
    return {
        "read": by.get(f"{LT}/{name}/transcript").status_code,
        "config": by.get(f"/vers-config/explain/OPENAI_API_KEY?vm={name}").status_code,
        "send": by.post(f"{LT}/{name}/send", {"message": "x"}).status_code,
        "write": by.client.patch(
            f"/vm-tree/vms/{name}", {"name": "x"}, content_type="application/json"
        ).status_code,
        "abort": by.post(f"{LT}/{name}/abort").status_code,
        "heartbeat": by.post(f"/registry/vms/{name}/heartbeat").status_code,
        "register": by.post(
            "/registry/vms",
            {"id": name, "name": "x", "role": "worker", "address": "h", "registeredBy": "x"},
        ).status_code,
        "token": by.post(f"/vm-tree/vms/{name}/token").status_code,
        "create": by.post(
            LT, {"name": f"new-{name}", "role": "r", "local": True, "parentVmId": name}
        ).status_code,
    }


def test_a_token_for_reading_reads(family: dict[str, Node]) -> None:
    found = requests_of(token_for("read")[1], "ada")

    assert {name for name, status in found.items() if status < 300} == {"read", "config"}
    assert {status for status in found.values() if status >= 300} == {403}
    assert not Message.objects.exists()


def test_a_token_for_messages_reads_and_sends(family: dict[str, Node]) -> None:
    found = requests_of(token_for("messages")[1], "ada")

    assert {name for name, status in found.items() if status < 300} == {"read", "config", "send"}
    assert {status for status in found.values() if status >= 300} == {403}
    message = Message.objects.get()
    assert message.actor == "token messages"


def test_a_token_for_everything_acts_like_the_root_token(family: dict[str, Node]) -> None:
    _, by = token_for("everything")
    found = requests_of(by, "ada")

    assert not {name for name, status in found.items() if status >= 300}
    assert by.get("/vm-tree/snapshots").status_code == 200
    assert by.get("/registry/rules").status_code == 200
    assert (
        by.client.put(
            "/bootloader/grants/bob", {"vms": 1}, content_type="application/json"
        ).status_code
        == 200
    )
    assert by.post("/bootloader/provision", {"name": "p", "type": "swarm"}).status_code == 202


def test_a_subtree_limits_a_token(family: dict[str, Node]) -> None:
    _, by = token_for("everything", family["ada"])
    inside, outside = requests_of(by, "ada"), requests_of(by, "bob")

    assert not {name for name, status in inside.items() if status >= 300}
    assert set(outside.values()) == {403}
    assert by.get("/vm-tree/vms/bob").status_code == 200, "registry and tree are for all"
    assert by.get("/vm-tree/snapshots").status_code == 403
    assert by.post("/bootloader/provision", {"name": "p", "type": "swarm"}).status_code == 403
    ProvisionGrant.objects.create(node=family["ada"], vms=1)
    assert by.post("/bootloader/provision", {"name": "p", "type": "swarm"}).status_code == 202
    beside = {"name": "q", "type": "swarm", "parentVmId": "bob"}
    assert by.post("/bootloader/provision", beside).status_code == 403
    saved = {"name": "q", "type": "swarm", "commitId": "somebody-elses"}
    assert by.post("/bootloader/provision", saved).status_code == 403
    made = by.post(LT, {"name": "fresh", "role": "r", "local": True})
    assert made.status_code == 201
    assert Node.objects.get(vm_id=Lieutenant.objects.get(name="fresh").pk).parent == family["ada"]
    assert by.post(f"{LT}/destroy-all").status_code == 200
    alive = Lieutenant.objects.active().values_list("name", flat=True)
    assert list(alive) == ["bob"]


def test_limits_on_lieutenants_bind_a_token_with_a_subtree(family: dict[str, Node]) -> None:
    _, by = token_for("everything", family["ada-1"])
    grant = ProvisionGrant.objects.create(node=family["ada"], vms=0, lieutenants=1)
    new = {"role": "r", "local": True, "name": "one"}

    assert [each["vmId"] for each in by.get("/whoami").json()["limits"]] == ["ada"]
    assert by.get("/can?action=start-below&target=ada-1").json()["allowed"] is True
    assert by.post(LT, new).status_code == 201
    grant.refresh_from_db()
    assert grant.lieutenants == 0
    assert by.get("/can?action=start-below&target=ada-1").json()["allowed"] is False
    assert by.post(LT, {**new, "name": "two"}).status_code == 403


def test_actions_of_a_token_are_recorded_under_its_name(family: dict[str, Node]) -> None:
    _, by = token_for("messages")
    Record.objects.all().delete()
    by.post(f"{LT}/ada/send", {"message": "x"})
    by.post(f"{LT}/ada/abort")
    refusals.write()

    rows = list(Record.objects.order_by("id"))
    assert [(row.actor, row.actor_kind) for row in rows] == [
        ("token messages", ActorKind.TOKEN)
    ] * 2
    assert (rows[1].permission, rows[1].target) == ("command", "ada")


def tools_of(by: NodeApi) -> set[str]:
    return {each["name"] for each in by.get("/tools").json()["tools"]}


def test_tools_are_limited_by_scope_and_subtree(family: dict[str, Node]) -> None:
    reading, messages = token_for("read")[1], token_for("messages")[1]
    below = token_for("everything", family["ada"], name="below")[1]
    everything = token_for("everything")[1]

    assert tools_of(reading) < tools_of(messages) < tools_of(below) < tools_of(everything)
    assert tools_of(messages) - tools_of(reading) >= {"reef_lt_send"}
    assert "reef_lt_discover" not in tools_of(below)
    answer = reading.post("/tools/reef_lt_send", {"name": "ada", "message": "x"})
    assert answer.status_code == 403
    for by, name, refused in ((below, "ada", False), (below, "bob", True)):
        found = by.post("/tools/reef_lt_send", {"name": name, "message": "x"}).json()
        assert found["isError"] is refused, found
    made = below.post("/tools/vm_tree_register", {"name": "new", "category": "agent_vm"}).json()
    assert made["details"]["vm"]["parentVmId"] == "ada", made
    refusals.write()
    row = Record.objects.get(permission="send", actor="token below")
    assert (row.target, row.status) == ("reef_lt_send bob", 403)


def test_events_are_limited_by_scope_and_subtree(family: dict[str, Node]) -> None:
    Lieutenant.objects.get(pk="bob").move(Status.WORKING, reason="printed")
    Lieutenant.objects.get(pk="ada").move(Status.WORKING, reason="printed")

    def seen(by: NodeApi) -> dict[str, str]:
        found = by.get("/events?kind=lieutenant.working").json()["events"]
        return {each["vmId"]: str(each) for each in found}

    below = seen(token_for("read", family["ada"])[1])
    assert set(below) == set(seen(token_for("messages")[1])) == {"ada", "bob"}
    assert ("printed" in below["ada"], "printed" in below["bob"]) == (True, False)


# -- the edge --------------------------------------------------------------------------------------


def digest_of(by: NodeApi) -> str:
    header = by.client.defaults["HTTP_AUTHORIZATION"].encode()
    plausible, digest = parse_credentials(header)
    assert plausible
    assert digest
    # The fast path leaves such tokens to Django.
    headers = {b"authorization": header, b"host": b"localhost"}
    assert parse(("beat", "ada"), headers, b"{}") is None
    return digest


def test_the_edge_accepts_valid_tokens_only(family: dict[str, Node]) -> None:
    row, by = token_for("messages")
    node = tokens.digest_of(tokens.issue(family["bob"], made_by="tests"))
    shown = [Shown(digest_of(by), ""), Shown(node, ""), Shown("0" * 64, "")]

    assert credentials.look_up(shown) == [True, True, False]
    operator_tokens.revoke(row.pk, by=make_operator())
    assert credentials.look_up(shown) == [False, True, False]


def test_streams_end_with_the_token_or_when_the_lieutenant_leaves_its_subtree(
    family: dict[str, Node],
) -> None:
    row, by = token_for("read", family["ada"])
    digest = digest_of(by)
    listing, own, other = (StreamCredentials(digest, vm_id=vm_id) for vm_id in ("", "ada-1", "bob"))

    def good() -> list[bool]:
        found = revocation.look_up([listing, own, other])
        return [each.is_good(found) for each in (listing, own, other)]

    assert good() == [True, True, False]
    services.change("ada-1", services.NodeChange(parent_vm_id="bob"), by="tests")
    assert good() == [True, False, False]
    operator_tokens.revoke(row.pk, by=make_operator())
    assert good() == [False, False, False]
