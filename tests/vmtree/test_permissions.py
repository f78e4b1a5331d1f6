"""Permissions by generation: random trees, all pairs, all actions, against a model of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction

from bootloader.join.api import JoinTokenCaller
from bootloader.models import ProvisionGrant
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.accounts.signin_links import make_operator
from reef_site.api.authentication import Caller
from reef_site.common.errors import Forbidden
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.vmtree.conftest import NodeApi
from tests.vmtree.permission_model import READS, caller_of, plant
from vmtree import permissions, services, tokens
from vmtree.models import Node
from vmtree.permissions import Action, Relation
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(2, 6))]
)
def test_permissions_follow_the_model(seed: int) -> None:
    tree = plant(seed, 14)
    targets: list[Node | str | None] = [*Node.objects.all(), *tree.parents, None, "unknown"]
    wrong = []
    for vm_id in tree.parents:
        caller = caller_of(vm_id)
        for action in Action:
            for target in targets:
                name = target.vm_id if isinstance(target, Node) else target or ""
                expected = tree.allows(vm_id, action.name, name)
                if permissions.may(caller, action, target) != expected:
                    wrong.append((vm_id, action.name, name, expected))
    assert not wrong


@pytest.mark.parametrize("seed", range(3))
def test_relations_and_lists_follow_the_model(seed: int) -> None:
    tree = plant(seed, 14)
    for vm_id in tree.parents:
        node = Node.objects.get(vm_id=vm_id)
        own = {other for other in tree.parents if vm_id in tree.with_ancestors(other)}
        seen = permissions.readable_among(caller_of(vm_id), Action.READ_TRANSCRIPT, tree.parents)
        assert seen == own
        for other in tree.parents:
            above = other in tree.with_ancestors(vm_id)
            expected = (
                Relation.SELF
                if other == vm_id
                else Relation.DESCENDANT
                if other in own
                else Relation.ANCESTOR
                if above
                else Relation.OTHER
            )
            assert permissions.relation_of(node, other) == expected, (vm_id, other)


def test_root_and_operators_have_all_permissions_and_accounts_only_read() -> None:
    plant(0, 4)
    everything = {action.name for action in Action} - {"MAKE_TOKENS"}
    callers: list[tuple[object, set[str]]] = [
        (None, everything),
        ("a part of reef", everything),
        (Caller("root token"), everything),
        (make_operator(), everything | {"MAKE_TOKENS"}),
        (User.objects.create_user("joe"), READS),
        (User.objects.create_user("staff", is_staff=True), READS),
        (AnonymousUser(), READS),
        (JoinTokenCaller("reefjoin_x"), set()),
        (object(), set()),
    ]
    for caller, expected in callers:
        for target in (None, "n1", "unknown", Node.objects.get(vm_id="n2")):
            found = {each.name for each in Action if permissions.may(caller, each, target)}
            assert found == expected, (caller, target)
        assert (permissions.readable(caller, Action.READ_CONFIG) is None) == bool(expected)


def test_refusal_names_rule_caller_action_and_target() -> None:
    tree = plant(1, 8)
    for vm_id in tree.parents:
        with pytest.raises(Forbidden) as caught:
            permissions.check(caller_of(vm_id), Action.MANAGE_RULES, None)
        end = f"{vm_id} may not manage the rules of the whole fleet"
        assert str(caught.value) == f"rule: {permissions.RULE}. {end}"
    services.create(NewNode("vm", "agent_vm", "vm"), by="tests")
    with pytest.raises(Forbidden, match=permissions.ON_THIS_HOST):
        permissions.check(caller_of("vm"), Action.START_BELOW, "vm")


def test_vm_cannot_run_code_in_an_agent_of_an_unknown_data_folder() -> None:
    """After the upgrade of a shared database, rows have no data folder until a follower claims
    them.
    """
    services.create(NewNode("vm", "agent_vm", "vm"), by="tests")
    for name, host in (("ada", "box1"), ("bob", "box2")):
        services.create(NewNode(name, "lieutenant", name, "vm"), by="tests")
        fields = {"role": "tests", "folder": "/", "host": host, "data_folder": ""}
        Lieutenant.objects.create(id=name, name=name, status=Status.IDLE, **fields)
    for action in permissions.DIRECTS_PROCESS:
        assert not permissions.may(caller_of("vm"), action, "ada"), action
    assert permissions.kind_of(caller_of("ada")) is permissions.CallerKind.LOCAL_AGENT
    assert permissions.host_of("ada") != permissions.host_of("bob")
    assert not permissions.may(caller_of("ada"), Action.START_BELOW, "ada")


# -- the same at the API ---------------------------------------------------------------------------

LT = "/lieutenant/lieutenants"


def _make(api: Api, target: str) -> Any:
    return api.post(LT, {"name": "new", "role": "r", "local": True, "parentVmId": target})


def _provision(api: Api, target: str) -> Any:
    return api.post("/bootloader/provision", {"name": "p", "type": "swarm", "parentVmId": target})


def _rename(api: Api, target: str) -> Any:
    return api.client.patch(
        f"/vm-tree/vms/{target}", {"name": "x"}, content_type="application/json"
    )


# (action, whether only lieutenants can be the target, request)
ENTRANCES: dict[str, tuple[str, bool, Callable[[Api, str], Any]]] = {
    "starts a process here": ("START_BELOW", False, _make),
    "reads a transcript": (
        "READ_TRANSCRIPT",
        True,
        lambda api, target: api.get(f"{LT}/{target}/transcript"),
    ),
    "reads the running answer": (
        "READ_TRANSCRIPT",
        True,
        lambda api, target: api.get(f"{LT}/{target}/read"),
    ),
    "reads config": (
        "READ_CONFIG",
        False,
        lambda api, target: api.get(f"/vers-config/explain/OPENAI_API_KEY?vm={target}"),
    ),
    "provisions": ("PROVISION", False, _provision),
    "writes": ("WRITE", False, _rename),
    "sends": ("SEND", True, lambda api, target: api.post(f"{LT}/{target}/send", {"message": "x"})),
    "pauses": ("COMMAND", True, lambda api, target: api.post(f"{LT}/{target}/pause")),
    "restarts": ("START", True, lambda api, target: api.post(f"{LT}/{target}/restart")),
    "destroys": ("DESTROY", True, lambda api, target: api.delete(f"{LT}/{target}")),
    "issues a token": (
        "ISSUE_TOKENS",
        False,
        lambda api, target: api.post(f"/vm-tree/vms/{target}/token"),
    ),
    "plans to destroy": (
        "COMMAND",
        False,
        lambda api, target: api.post(f"/vm-tree/vms/{target}/destroy", {"dryRun": True}),
    ),
    "reads snapshots": ("READ_SNAPSHOTS", False, lambda api, _: api.get("/vm-tree/snapshots")),
}


@pytest.mark.rotated
@pytest.mark.parametrize("seed", [11, pytest.param(12, marks=pytest.mark.thorough)])
def test_api_follows_the_model(seed: int, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PI_PATH = str(STANDIN)
    drop_tasks(monkeypatch, "lieutenants.settle")
    drop_tasks(monkeypatch, "bootloader.")
    tree = plant(seed, 9)
    living = set(Lieutenant.objects.active().values_list("pk", flat=True))
    for node in Node.objects.all():
        ProvisionGrant.objects.create(node=node, vms=9, levels=9)
    wrong = []
    for caller in tree.parents:
        api = NodeApi(tokens.issue(Node.objects.get(vm_id=caller), made_by="tests"))
        for name, (action, lieutenants_only, ask) in ENTRANCES.items():
            for target in tree.parents:
                if lieutenants_only and target not in living:
                    continue
                with transaction.atomic():
                    status = ask(api, target).status_code
                    transaction.set_rollback(True)
                expected = tree.allows(caller, action, target)
                if (status < 300) != expected or (not expected and status != 403):
                    wrong.append((caller, name, target, status))
    assert not wrong
