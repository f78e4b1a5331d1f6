"""`/whoami`, `/can`, the page "What may this agent do", and the audit of refusals."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from bootloader.grants import services as grants
from bootloader.grants.services import Limits
from bootloader.join import tokens as join_tokens
from lieutenants.models import Lieutenant
from reef_site.accounts.signin_links import make_operator
from reef_site.audit import refusals
from reef_site.audit.models import Record
from tests.conftest import Api
from tests.vmtree.conftest import NodeApi
from vmtree import operator_tokens, permissions, services, tokens
from vmtree.models import Node
from vmtree.permissions import Action
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db

LT = "/lieutenant/lieutenants"


@pytest.fixture(autouse=True)
def family() -> dict[str, Node]:
    """roof → (ada, a lieutenant of this host → ada-1, bob)."""
    places = [("roof", ""), ("ada", "roof"), ("ada-1", "ada"), ("bob", "roof")]
    nodes = {
        vm_id: services.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
        for vm_id, parent in places
    }
    Lieutenant.objects.create(
        id="ada",
        name="ada",
        role="tests",
        folder="/",
        host=settings.HOST,
        data_folder=settings.DATA_FOLDER_ID,
        status="idle",
    )
    return nodes


@pytest.fixture
def ada(family: dict[str, Node]) -> NodeApi:
    return NodeApi(tokens.issue(family["ada"], made_by="tests"))


@pytest.fixture
def operator() -> Client:
    client = Client(headers={"accept": "text/html"})
    client.force_login(make_operator())
    return client


def session_of(user: User) -> Api:
    api = Api()
    del api.client.defaults["HTTP_AUTHORIZATION"]
    api.client.force_login(user)
    return api


def may(by: Api, action: str, target: str = "") -> Any:
    answer = by.get(f"/can?action={action}" + (f"&target={target}" if target else ""))
    assert answer.status_code == 200, answer.content
    return answer.json()


# -- whoami ----------------------------------------------------------------------------------------


def test_each_kind_of_caller_learns_who_it_is(family: dict[str, Node], api: Api) -> None:
    row, token = operator_tokens.make("ci", "messages", subtree=family["ada"], by=make_operator())
    joiner = join_tokens.issue(
        vm_id="new",
        name="new",
        profile="swarm",
        category="swarm_vm",
        role="worker",
        parent_vm_id=None,
        by="tests",
    )
    callers = {
        "root": api,
        "operator": session_of(make_operator()),
        "account": session_of(User.objects.create_user("joe")),
        "local-agent": NodeApi(tokens.issue(family["ada"], made_by="tests")),
        "vm": NodeApi(tokens.issue(family["bob"], made_by="tests")),
        "token-messages": NodeApi(token),
        "stranger": NodeApi(joiner),
    }
    for kind, by in callers.items():
        found = by.get("/whoami")
        assert (found.status_code, found.json()["kind"]) == (200, kind), found.content
        rights = {each["action"]: each["to"] for each in found.json()["rights"]}
        for action in Action:
            decision = may(by, action.slug)
            assert decision["allowed"] == ("fleet" in rights.get(action.slug, [])), (kind, action)
            assert decision["rule"]
    found = callers["token-messages"].get("/whoami").json()
    assert found["subtree"]["vmId"] == "ada"
    assert (found["node"], found["name"]) == (None, str(row))
    assert callers["stranger"].get("/whoami").json()["expiresAt"]
    assert Client().get("/whoami").status_code == 401
    assert NodeApi("reefjoin_nothing").get("/whoami").status_code == 401


def test_a_node_learns_its_node_its_grant_and_its_limits(
    ada: NodeApi, family: dict[str, Node]
) -> None:
    grants.set_grant("ada", Limits(vms=2, levels=3), by="tests")
    grants.set_grant("roof", Limits(lieutenants=4), by="tests")

    found = ada.get("/whoami").json()

    assert found["node"] == {"vmId": "ada", "name": "ada", "category": "agent_vm"}
    assert found["grant"]["vms"] == 2
    assert [each["vmId"] for each in found["limits"]] == ["roof"]
    rights = {each["action"]: each for each in found["rights"]}
    assert rights["command"]["to"] == ["descendant"]
    assert rights["write"]["to"] == ["descendant", "self"]
    assert "its descendants" in rights["command"]["rule"]
    assert "read-secrets" not in rights


# -- can -------------------------------------------------------------------------------------------


def test_can_names_relation_and_rule(ada: NodeApi) -> None:
    below = may(ada, "command", "ada-1")
    beside = may(ada, "command", "bob")

    assert (below["allowed"], below["relation"], below["target"]) == (True, "descendant", "ada-1")
    assert below["rule"].endswith("may command its descendants")
    assert (beside["allowed"], beside["relation"]) == (False, "other")
    assert beside["rule"] == permissions.RULE
    assert may(ada, "read", "roof")["relation"] == "ancestor"
    assert may(ada, "read", "nobody")["relation"] == "fleet"
    Node.objects.filter(vm_id="bob").update(name="robert")
    assert (may(ada, "read", "robert")["target"], beside["target"]) == ("bob", "bob")
    assert may(ada, "read", "local-ada")["relation"] == "self"
    assert may(ada, "start-below")["relation"] == "fleet"


def test_join_token_learns_no_ids(family: dict[str, Node]) -> None:
    Node.objects.filter(vm_id="bob").update(name="robert")
    joiner = join_tokens.issue(
        vm_id="new",
        name="new",
        profile="swarm",
        category="swarm_vm",
        role="worker",
        parent_vm_id=None,
        by="tests",
    )
    decision = may(NodeApi(joiner), "read", "robert")
    assert (decision["allowed"], decision["target"]) == (False, "robert")
    Node.objects.filter(vm_id="ada-1").update(name="robert")
    assert may(NodeApi(joiner), "read", "robert") == decision, "nor that there are two"


def test_can_knows_grants(ada: NodeApi) -> None:
    assert may(ada, "provision", "ada")["rule"] == grants.RULE
    grants.set_grant("ada", Limits(vms=1), by="tests")
    assert may(ada, "provision", "ada")["allowed"] is True
    assert may(ada, "provision", "ada-1")["allowed"] is False, "it is too deep"
    assert may(ada, "start-below", "ada")["allowed"] is True
    grants.set_grant("roof", Limits(lieutenants=0), by="tests")
    assert may(ada, "start-below", "ada")["rule"] == grants.LIEUTENANTS_RULE


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "action is required"),
        ("?action=fly", "action: must be one of read, "),
        ("?action=read&targets=x", "targets: not known; did you mean target?"),
    ],
)
def test_invalid_questions_are_rejected(ada: NodeApi, query: str, words: str) -> None:
    answer = ada.get(f"/can{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(words)


# -- the page --------------------------------------------------------------------------------------


def test_page_shows_rights_rules_and_grant(operator: Client, family: dict[str, Node]) -> None:
    grants.set_grant("roof", Limits(lieutenants=3), by="tests")
    page = operator.get(f"/access/nodes/{family['ada'].pk}/").content.decode()

    for right in Action:
        assert right in page
    assert "a lieutenant that runs on a host of reef may command its descendants" in page
    assert "3 more" in page
    assert "There is no limit of money." in page
    assert operator.get("/access/nodes/?vm=ada")["Location"].endswith(f"/{family['ada'].pk}/")
    assert (
        f"/access/nodes/{family['ada'].pk}/"
        in operator.get(f"/fleet/{family['ada'].pk}/").content.decode()
    )
    assert "/access/nodes/?vm=ada" in operator.get("/lieutenants/ada/").content.decode()


def test_operators_set_and_remove_the_grant_on_the_page(
    operator: Client, family: dict[str, Node]
) -> None:
    path = f"/access/nodes/{family['ada'].pk}/grant"
    form = {"vms": 3, "levels": 2, "profiles": ["swarm"], "lieutenants": 5, "lieutenant_levels": ""}

    assert operator.post(path, {**form, "vms": -1}).status_code == 400
    assert operator.post(path, form).status_code == 302
    grant = grants.find("ada", by="tests")
    assert (grant.vms, grant.levels, grant.profiles) == (3, 2, ["swarm"])
    assert (grant.lieutenants, grant.lieutenant_levels) == (5, None)
    page = operator.get(f"/access/nodes/{family['ada'].pk}/").content.decode()
    assert 'name="lieutenants" value="5"' in page
    assert operator.post(path, {**form, "dollars": "-1"}).status_code == 400
    assert operator.post(path, {**form, "dollars": "2.50"}).status_code == 302
    page = operator.get(f"/access/nodes/{family['ada'].pk}/").content.decode()
    assert 'name="dollars" value="2.5"' in page
    page = " ".join(operator.get(f"/access/nodes/{family['ada-1'].pk}/").content.decode().split())
    assert "and below it may cost $2.50 since" in page
    assert "$0 spent, $2.50 left" in page
    assert operator.post(path, {"remove": "yes"}).status_code == 302
    assert operator.post(path, {"remove": "yes"}).status_code == 404
    joe = Client()
    joe.force_login(User.objects.create_user("joe"))
    assert joe.post(path, form).status_code == 403
    assert joe.get(f"/access/nodes/{family['ada'].pk}/").status_code == 200


# -- refusals --------------------------------------------------------------------------------------


def test_refusals_are_recorded_with_actor_action_target_and_rule(
    ada: NodeApi, operator: Client
) -> None:
    Record.objects.all().delete()
    for number in range(30):
        path = f"/vm-tree/vms/{('bob', 'roof')[number % 2]}"
        refused = ada.client.patch(path, {"name": "x"}, content_type="application/json")
        assert refused.status_code == 403
    assert ada.post("/bootloader/provision", {"name": "p", "type": "swarm"}).status_code == 403
    refusals.write()

    # Refusals of all targets share a row, so that a flood stays small.
    first, second = Record.objects.order_by("id")
    assert (first.actor, first.permission, first.target) == ("node ada", "write", "bob")
    assert (first.reason, first.count) == (f"rule: {permissions.RULE}", 30)
    assert (second.permission, second.target, second.reason) == (
        "provision",
        "ada",
        f"rule: {grants.RULE}",
    )
    page = operator.get("/audit/?permission=provision").content.decode()
    assert "was refused: provision" in page
    assert "was refused: write" not in page
