"""Limits on the VMs that a node makes with its own token: number, kinds and depth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from bootloader.exceptions import NoHostFree
from bootloader.grants import services as grants
from bootloader.models import BootStep, Machine, ProvisionGrant, Provisioning, SshHost
from bootloader.providers.ssh import hosts as ssh_hosts
from bootloader.providers.ssh.this_machine import is_this_machine
from bootloader.provisioning import create_step
from bootloader.states import State, StepName, StepState
from reef_site.accounts.signin_links import make_operator
from tests.conftest import Api
from tests.dispatching import drop_tasks
from tests.vmtree.conftest import NodeApi, database
from vmtree import operator_tokens, tokens
from vmtree import services as tree
from vmtree.models import Node
from vmtree.services import NewNode

__all__ = ["database"]

REQUEST = {"name": "one", "type": "swarm"}
PATH = "/bootloader/provision"
ADA = "/bootloader/grants/ada"


@pytest.fixture(autouse=True)
def family(database: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Node]:
    """roof → (ada → ada-1 → ada-1-1, bob); no worker is told of anything."""
    drop_tasks(monkeypatch, "bootloader.")
    places = [
        ("roof", ""),
        ("ada", "roof"),
        ("ada-1", "ada"),
        ("ada-1-1", "ada-1"),
        ("bob", "roof"),
    ]
    return {
        vm_id: tree.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
        for vm_id, parent in places
    }


@pytest.fixture
def ada(family: dict[str, Node]) -> NodeApi:
    return enter(family["ada"])


def enter(node: Node) -> NodeApi:
    return NodeApi(tokens.issue(node, made_by="tests"))


def token_below(node: Node) -> NodeApi:
    """Return an API client with an operator token that is limited to the node's subtree."""
    made = operator_tokens.make("ci", "everything", subtree=node, by=make_operator())
    return NodeApi(made[1])


def put(by: Api, path: str = ADA, **body: object) -> Any:
    return by.client.put(path, data=body, content_type="application/json")


def left() -> int:
    return ProvisionGrant.objects.get().vms


def test_node_without_grant_cannot_provision(ada: NodeApi) -> None:
    for body in (REQUEST, {**REQUEST, "dryRun": True}, {**REQUEST, "count": 2}):
        answer = ada.post(PATH, body)
        assert answer.status_code == 403
        assert answer.json()["error"] == f"rule: {grants.RULE}. ada has no grant"
    assert not Provisioning.objects.exists()


def test_each_vm_is_deducted_until_the_grant_is_used_up(ada: NodeApi, api: Api) -> None:
    put(api, vms=3)

    assert ada.post(PATH, {**REQUEST, "count": 2}).status_code == 202
    assert ada.post(PATH, {**REQUEST, "count": 2}).status_code == 200, "the same request again"
    assert ada.get(ADA).json()["grant"]["vms"] == 1
    answer = ada.post(PATH, {**REQUEST, "name": "two", "count": 2})
    assert answer.status_code == 403
    assert answer.json()["error"].endswith("ada may have 1 more VMs made, not 2")
    assert ada.post(PATH, {**REQUEST, "name": "three"}).status_code == 202
    assert left() == 0
    assert Provisioning.objects.count() == 3
    assert set(Provisioning.objects.values_list("asked_by_node", flat=True)) == {True}


def test_failed_request_deducts_nothing(ada: NodeApi, api: Api) -> None:
    put(api, vms=3)
    assert api.post(PATH, REQUEST).status_code == 202

    assert ada.post(PATH, {**REQUEST, "type": "full"}).status_code == 409, "the name is taken"
    assert ada.post(PATH, {**REQUEST, "name": "two", "dryRun": True}).status_code == 200
    assert ada.post(PATH, {**REQUEST, "name": "/"}).status_code == 400
    assert left() == 3


def test_profiles_and_levels_are_enforced(ada: NodeApi, api: Api) -> None:
    put(api, vms=9, profiles=["swarm", "lightweight"], levels=2)

    def made(name: str, **fields: object) -> Any:
        return ada.post(PATH, {**REQUEST, "name": name, **fields})

    assert made("a").status_code == 202
    assert made("b", parentVmId="ada-1", type="lightweight").status_code == 202
    refused = made("c", type="full")
    assert refused.status_code == 403
    assert "may have profiles swarm, lightweight, not full" in refused.json()["error"]
    deep = made("d", parentVmId="ada-1-1")
    assert deep.status_code == 403
    assert "may go 2 levels below itself, not 3" in deep.json()["error"]
    assert made("e", parentVmId="bob").status_code == 403
    assert made("f", commitId="somebody-elses").status_code == 403
    assert left() == 7


def test_grant_applies_to_its_node_only(family: dict[str, Node], api: Api) -> None:
    put(api, vms=9, levels=9)

    assert enter(family["ada-1"]).post(PATH, REQUEST).status_code == 403
    assert enter(family["roof"]).post(PATH, {**REQUEST, "parentVmId": "ada"}).status_code == 403
    assert left() == 9


def test_concurrent_requests_never_exceed_the_grant(family: dict[str, Node], api: Api) -> None:
    put(api, vms=3)
    token = tokens.issue(family["ada"], made_by="tests")

    def ask(number: int) -> int:
        try:
            return int(NodeApi(token).post(PATH, {**REQUEST, "name": f"n{number}"}).status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(ask, range(8)))

    assert statuses == [202] * 3 + [403] * 5
    assert (left(), Provisioning.objects.count()) == (0, 3)


def test_node_retries_within_its_grant(ada: NodeApi, api: Api) -> None:
    api.post(PATH, {**REQUEST, "parentVmId": "ada"})
    row = Provisioning.objects.get()
    BootStep.objects.filter(name=StepName.RESOLVE).update(state=StepState.FAILED)
    row.move(State.RUNNING)
    row.move(State.FAILED, "it did not work")
    path = f"/bootloader/provisionings/{row.pk}/retry"

    assert ada.post(path).status_code == 403
    put(api, vms=0)
    assert ada.post(path).status_code == 202
    assert Provisioning.objects.get().asked_by_node is True


def test_token_with_a_subtree_creates_within_the_grant_of_its_node(
    family: dict[str, Node], api: Api
) -> None:
    token = token_below(family["ada"])
    refused = token.post(PATH, REQUEST)
    assert refused.status_code == 403
    assert refused.json()["error"] == f"rule: {grants.RULE}. ada has no grant"
    assert token.get("/can?action=provision&target=ada").json()["allowed"] is False

    put(api, vms=1)
    assert token.get("/can?action=provision&target=ada").json()["allowed"] is True
    assert token.get("/whoami").json()["grant"]["vms"] == 1
    assert token.post(PATH, REQUEST).status_code == 202
    assert token.post(PATH, {**REQUEST, "name": "two"}).status_code == 403
    assert left() == 0


# -- setting grants ------------------------------------------------------------------------------


def test_operators_set_grants_and_nodes_read_their_own(ada: NodeApi, api: Api) -> None:
    assert put(api, vms=2, profiles=["swarm"]).json()["grant"] == {
        "vmId": "ada",
        "vms": 2,
        "profiles": ["swarm"],
        "levels": 1,
        "lieutenants": None,
        "lieutenantLevels": None,
        "dollars": None,
        "dollarsSince": None,
    }
    put(api, "/bootloader/grants/bob", vms=5)

    assert ada.get(ADA).status_code == 200
    assert ada.get("/bootloader/grants/bob").status_code == 403
    assert [each["vmId"] for each in ada.get("/bootloader/grants").json()["grants"]] == ["ada"]
    assert api.get("/bootloader/grants").json()["count"] == 2
    assert put(ada, vms=100).status_code == 403
    assert put(ada, vms="x").status_code == 403, "the right comes before the value"
    assert put(ada, "/bootloader/grants/ada-1", vms=1).status_code == 403, "it is too deep"
    assert ada.delete(ADA).status_code == 403
    assert api.delete(ADA).status_code == 200
    assert api.delete(ADA).status_code == api.get(ADA).status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "vms: must be a whole number"),
        ({"vms": -1}, "vms: must be a whole number"),
        ({"vms": True}, "vms: must be a whole number"),
        ({"vms": 1, "levels": 0}, "levels: must be a whole number"),
        ({"vms": 1, "lieutenants": -1}, "lieutenants: must be a whole number"),
        ({"vms": 1, "lieutenantLevels": 0}, "lieutenantLevels: must be a whole number"),
        ({"vms": 1, "dollars": -0.01}, "dollars: must be a number from 0"),
        ({"vms": 1, "dollars": True}, "dollars: must be a number from 0"),
        ({"vms": 1, "dollars": "5"}, "dollars: must be a number from 0"),
        ({"vms": 1, "renewDollars": 1}, "renewDollars: must be true or false"),
        ({"vms": 1, "profiles": "swarm"}, "profiles: must be a list of text"),
        ({"vms": 1, "profiles": ["nope"]}, "profiles: Unknown VM type: nope"),
    ],
)
def test_invalid_grants_are_rejected(api: Api, body: dict[str, Any], words: str) -> None:
    answer = put(api, **body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(words)
    assert put(api, "/bootloader/grants/nobody", vms=1).status_code == 404
    assert not ProvisionGrant.objects.exists()


# -- passing on ----------------------------------------------------------------------------------

BELOW = "/bootloader/grants/ada-1"


def grants_now() -> dict[str, int]:
    return dict(ProvisionGrant.objects.values_list("node__vm_id", "vms"))


def test_a_node_passes_on_what_it_has(ada: NodeApi, api: Api) -> None:
    put(api, vms=5, levels=3, profiles=["swarm", "full"])

    assert put(ada, BELOW, vms=2, levels=2, profiles=["swarm"]).status_code == 200
    assert grants_now() == {"ada": 3, "ada-1": 2}
    assert put(ada, BELOW, vms=4, levels=1, profiles=["swarm"]).status_code == 200
    assert grants_now() == {"ada": 1, "ada-1": 4}
    # Fewer are not given back, as with VMs that are destroyed.
    assert put(ada, BELOW, vms=1, levels=1, profiles=["swarm"]).status_code == 200
    assert grants_now() == {"ada": 1, "ada-1": 1}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"vms": 6}, "it has 5 VMs left, not 6"),
        ({"vms": 1, "levels": 2}, "it may go 2 levels below itself, not 3"),
        ({"vms": 1, "profiles": []}, "it may have profiles swarm only"),
        ({"vms": 1, "profiles": ["full"]}, "it may have profiles swarm only"),
        ({"vms": 1, "lieutenants": 4}, "it may have 3 more lieutenants, not 4"),
        ({"vms": 0, "lieutenants": None}, "it may have 3 more lieutenants, not any number"),
        ({"vms": 0, "lieutenantLevels": 2}, "its lieutenants may be 2 levels below itself"),
        ({"vms": 0, "lieutenantLevels": None}, "its lieutenants may be 2 levels below itself"),
    ],
)
def test_a_node_passes_on_no_more_than_it_has(
    ada: NodeApi, api: Api, wanted: dict[str, Any], words: str
) -> None:
    put(api, vms=5, levels=2, profiles=["swarm"], lieutenants=3, lieutenantLevels=2)
    body = {"vms": 1, "profiles": ["swarm"], "lieutenants": 1, "lieutenantLevels": 1, **wanted}

    answer = put(ada, BELOW, **body)

    assert answer.status_code == 403
    assert answer.json()["error"].endswith(words)
    assert grants_now() == {"ada": 5}


def test_only_descendants_get_grants_of_a_node(
    ada: NodeApi, api: Api, family: dict[str, Node]
) -> None:
    put(api, vms=5, levels=9)

    for vm_id in ("ada", "roof", "bob", "nobody"):
        assert put(ada, f"/bootloader/grants/{vm_id}", vms=1).status_code == 403, vm_id
    assert put(ada, "/bootloader/grants/ada-1-1", vms=1).status_code == 200
    assert put(enter(family["ada-1"]), "/bootloader/grants/ada-1-1", vms=2).status_code == 403
    assert ada.delete("/bootloader/grants/ada-1-1").status_code == 403
    assert grants_now() == {"ada": 4, "ada-1-1": 1}


def test_token_with_a_subtree_passes_on_what_its_node_has(
    family: dict[str, Node], api: Api
) -> None:
    token = token_below(family["ada"])
    put(api, vms=5, levels=3)

    assert put(token, vms=100).status_code == token.delete(ADA).status_code == 403
    assert token.get("/can?action=grant&target=ada").json()["allowed"] is False
    assert put(token, BELOW, vms=6).status_code == 403
    assert put(token, BELOW, vms=2, levels=2).status_code == 200
    assert token.delete(BELOW).status_code == 403
    assert put(token, "/bootloader/grants/bob", vms=1).status_code == 403
    assert grants_now() == {"ada": 3, "ada-1": 2}


@pytest.mark.rotated
def test_grants_are_set_in_the_admin(family: dict[str, Node], admin_client: Client) -> None:
    node = family["ada"]
    page = {"action": "grant_provisioning", "_selected_action": node.pk}
    form = admin_client.post("/admin/vmtree/node/", page)["Location"]
    assert f"node={node.pk}" in form

    facts = {"node": node.pk, "vms": 4, "profiles": ["swarm"], "levels": 1}
    assert admin_client.post(form, facts).status_code == 302
    grant = ProvisionGrant.objects.get()
    assert (grant.node, grant.vms, grant.profiles) == (node, 4, ["swarm"])
    assert "swarm" in admin_client.get("/admin/bootloader/provisiongrant/").content.decode()
    change = admin_client.post("/admin/vmtree/node/", page)["Location"]
    assert admin_client.post(change, {"vms": 1, "levels": 2}).status_code == 302
    grant.refresh_from_db()
    assert (grant.vms, grant.profiles, grant.levels) == (1, [], 2)
    for dollars, renew in ((5, ""), (7, ""), (7, "on")):
        facts = {"vms": 1, "levels": 2, "dollars": dollars, "renew_dollars": renew}
        assert admin_client.post(change, facts).status_code == 302
        before = grant.dollars_since
        grant.refresh_from_db()
        assert grant.dollars == dollars
        assert (grant.dollars_since == before) is (dollars == 7 and not renew)
    assert admin_client.post(change, {"vms": 1, "levels": 2, "dollars": -1}).status_code == 200


# -- SSH hosts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "no.invalid"])
def test_address_of_this_machine_is_recognized(address: str) -> None:
    assert is_this_machine(address)


def test_other_addresses_are_other_machines() -> None:
    assert not is_this_machine("192.0.2.1")


@pytest.mark.parametrize("with_token", [False, True])
def test_node_cannot_provision_on_reefs_own_machine(
    family: dict[str, Node], api: Api, with_token: bool
) -> None:
    put(api, vms=9)
    ada = token_below(family["ada"]) if with_token else enter(family["ada"])
    here = SshHost.objects.create(name="here", address="localhost")
    assert ada.post(PATH, {**REQUEST, "provider": "ssh"}).status_code == 202
    row = Provisioning.objects.get()
    with pytest.raises(NoHostFree):
        ssh_hosts.claim(create_step.spec_of(row))

    away = SshHost.objects.create(name="zz", address="192.0.2.1")
    assert ssh_hosts.claim(create_step.spec_of(row)).host == away
    assert api.post(PATH, {**REQUEST, "name": "two", "provider": "ssh"}).status_code == 202
    asked = Provisioning.objects.get(name="two")
    assert ssh_hosts.claim(create_step.spec_of(asked)).host == here


# -- reading -------------------------------------------------------------------------------------


def test_node_reads_only_machines_and_logs_of_its_subtree(
    family: dict[str, Node], ada: NodeApi, api: Api
) -> None:
    for vm_id in ("ada-1", "bob"):
        Machine.objects.create(provider="vers", machine_id=f"m-{vm_id}", vm_id=vm_id)
        body = {**REQUEST, "name": f"new-{vm_id}", "parentVmId": vm_id}
        assert api.post(PATH, body).status_code == 202
    rows = {row.parent_vm_id: row.pk for row in Provisioning.objects.all()}

    def log(parent: str) -> int:
        return int(ada.get(f"/bootloader/provisionings/{rows[parent]}/log").status_code)

    machines = ada.get("/bootloader/machines").json()["machines"]
    assert [each["vmId"] for each in machines] == ["ada-1"]
    assert api.get("/bootloader/machines").json()["count"] == 2
    assert (log("ada-1"), log("bob")) == (200, 403)
    Provisioning.objects.update(reason="printed")
    BootStep.objects.update(reason="printed")
    paths = [
        "/bootloader/provisionings",
        *(f"/bootloader/provisionings/{rows[each]}" for each in ("ada-1", "bob")),
    ]
    assert ["printed" in ada.get(path).content.decode() for path in paths[1:]] == [True, False]
    listed = {each["parentVmId"]: str(each) for each in ada.get(paths[0]).json()["provisionings"]}
    assert ("printed" in listed["ada-1"], "printed" in listed["bob"]) == (True, False)
    assert api.get(paths[0]).content.decode().count("printed") > 10
    assert ada.get("/bootloader/reports/ada-1").status_code == 200
    assert ada.get("/bootloader/reports/bob").status_code == 403
    assert ada.get("/bootloader/findings").json()["count"] == 0


def test_script_requested_by_a_node_has_no_provider_keys(
    ada: NodeApi, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-a-very-secret-key")
    body = {"vmId": "new", "name": "new", "type": "full"}

    assert "sk-a-very-secret-key" in api.post("/bootloader/generate", body).json()["script"]
    answer = ada.post("/bootloader/generate", {**body, "parentVmId": "ada"})
    assert answer.status_code == 201
    assert "sk-a-very-secret-key" not in answer.content.decode()
    for form in ("text", "json"):
        path = f"/bootloader/cloud-init?form={form}"
        made = ada.post(path, {**body, "parentVmId": "ada"})
        assert made.status_code in (200, 201)
        assert "sk-a-very-secret-key" not in made.content.decode()
