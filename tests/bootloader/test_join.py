"""Join tokens: one VM, one use, a short life; whoever is turned away is told why and seen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings

from bootloader.join import tokens as join_tokens
from bootloader.models import JoinRefusal, JoinToken, Machine
from reef_site.common import clock
from reef_site.common.errors import BadInput
from registry.models import VM
from tests.bootloader.join_clients import DNA, BearerClient, issue_join_token
from tests.conftest import Api
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node, NodeToken

pytestmark = pytest.mark.django_db


def refusals() -> list[tuple[str, int]]:
    return list(JoinRefusal.objects.order_by("id").values_list("why", "count"))


def the_error(answer: Any) -> str:
    text: str = answer.json()["error"]
    return text


def test_a_vm_joins_tree_and_registry() -> None:
    tree.create(tree.NewNode("roof", "infra_vm", vm_id="roof"), by="tests")
    token = issue_join_token(parent_vm_id="roof", address="vm-1.vm.example")

    answer = BearerClient(token).join(agentVersion="1")

    assert answer.status_code == 200, answer.content
    said = answer.json()
    assert {"vmId", "name", "token", "infraUrl", "nextBeatInMs"} <= said.keys()
    assert (said["vmId"], said["name"], said["profile"]) == ("vm-1", "name of vm-1", "swarm")
    assert said["infraUrl"] == "http://testserver"
    assert said["nextBeatInMs"] > 1000
    assert answer["Cache-Control"] == "no-store"
    node = Node.objects.get(vm_id="vm-1")
    assert (node.category, node.parent_vm_id, node.reef_config) == ("swarm_vm", "roof", DNA)
    vm = VM.objects.get(pk="vm-1")
    assert (vm.role, vm.address, vm.parent_vm_id) == ("worker", "vm-1.vm.example", "roof")
    assert (vm.reef_config, vm.registered_by) == (DNA, "bootloader")
    assert vm.metadata is not None
    assert vm.metadata["hostname"] == "box"


def test_issued_token_is_a_node_token() -> None:
    own = BearerClient(issue_join_token()).join().json()["token"]

    assert BearerClient(own).post("/registry/vms/vm-1/heartbeat").status_code == 200
    assert BearerClient(own).get("/vm-tree/vms/vm-1").status_code == 200
    assert (
        BearerClient(own).post("/vm-tree/vms", {"name": "x", "category": "agent_vm"}).status_code
        == 403
    )


def test_only_hashes_are_stored() -> None:
    token = issue_join_token()
    own = BearerClient(token).join(nonce="a-word-of-the-vm").json()["token"]

    row = str(JoinToken.objects.values().get())
    assert token not in row
    assert own not in row
    assert "a-word-of-the-vm" not in row
    assert own not in str(NodeToken.objects.values())
    assert token not in repr(join_tokens.JoinFacts(nonce=token))


def test_join_token_works_once() -> None:
    token = issue_join_token()
    assert BearerClient(token).join(nonce="mine").status_code == 200

    answer = BearerClient(token).join(nonce="another's")

    assert answer.status_code == 401
    assert the_error(answer).startswith("Unauthorized — this join token was used at 20")
    assert answer["WWW-Authenticate"] == "Bearer"
    assert BearerClient(token).join().status_code == 401
    assert refusals() == [("used", 2)]


def test_vm_that_lost_the_response_repeats_its_join() -> None:
    token = issue_join_token()
    first = BearerClient(token).join(nonce="mine").json()["token"]

    again = BearerClient(token).join(nonce="mine")

    assert again.status_code == 200
    assert again.json()["vmId"] == "vm-1"
    assert again.json()["token"] != first
    assert BearerClient(first).get("/vm-tree/vms/vm-1").status_code == 401
    assert BearerClient(again.json()["token"]).get("/vm-tree/vms/vm-1").status_code == 200
    assert refusals() == []


def test_join_can_be_repeated_for_some_minutes_only() -> None:
    token = issue_join_token()
    BearerClient(token).join(nonce="mine")
    JoinToken.objects.update(used_at=clock.now() - join_tokens.REPEAT_WINDOW - timedelta(seconds=1))

    assert BearerClient(token).join(nonce="mine").status_code == 401
    assert refusals() == [("used", 1)]


def test_repeated_join_does_not_restore_a_revoked_token(api: Api) -> None:
    token = issue_join_token()
    BearerClient(token).join(nonce="mine")
    assert api.delete("/vm-tree/vms/vm-1/token").status_code == 200

    assert BearerClient(token).join(nonce="mine").status_code == 401
    assert not NodeToken.objects.good().exists()


def test_expired_token_is_rejected() -> None:
    token = issue_join_token(minutes=1)
    now = clock.now()
    JoinToken.objects.update(
        made_at=now - timedelta(minutes=2), expires_at=now - timedelta(minutes=1)
    )

    for answer in (
        BearerClient(token).join(),
        BearerClient(token).report(),
        BearerClient(token).get("/bootloader/dist/"),
    ):
        assert answer.status_code == 401
        assert the_error(answer).startswith("Unauthorized — this join token expired at 20")
    assert not Node.objects.exists()
    assert refusals() == [("expired", 3)]
    assert JoinToken.objects.get().state(clock.now()) == "expired"


def test_newer_token_revokes_the_older() -> None:
    old, new = issue_join_token(), issue_join_token()

    answer = BearerClient(old).join()

    assert answer.status_code == 401
    assert "this join token was voided at 20" in the_error(answer)
    assert BearerClient(new).join().status_code == 200
    assert refusals() == [("voided", 1)]


def test_token_of_another_vm_is_rejected() -> None:
    answer = BearerClient(issue_join_token("vm-1")).join(vmId="vm-2")

    assert answer.status_code == 403
    assert "another VM than 'vm-2'" in the_error(answer)
    assert refusals() == [("foreign", 1)]
    assert JoinToken.objects.get().used_at is None


def test_unknown_token_is_rejected_and_counted() -> None:
    for _ in range(3):
        answer = BearerClient("reefjoin_" + "x" * 43).join()
        assert answer.status_code == 401
        assert "not known here" in the_error(answer)

    assert refusals() == [("unknown", 3)]


def test_other_tokens_do_not_join() -> None:
    own = BearerClient(issue_join_token()).join().json()["token"]

    for token in (own, settings.ROOT_TOKEN):
        answer = BearerClient(token).join()
        assert answer.status_code == 403
        assert "needs a join token" in the_error(answer)
    assert BearerClient("nonsense").join().status_code == 401
    answer = BearerClient(None).join()
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/vm-tree/vms"),
        ("get", "/registry/vms"),
        ("post", "/registry/vms"),
        ("post", "/registry/vms/vm-1/heartbeat"),
        ("get", "/lieutenant/lieutenants"),
        ("get", "/events"),
        ("post", "/vm-tree/snapshot"),
        ("get", "/vers-config/"),
    ],
)
def test_join_token_is_rejected_by_other_services(method: str, path: str) -> None:
    answer = getattr(BearerClient(issue_join_token()), method)(path)

    assert answer.status_code == 401


def test_join_token_is_rejected_by_other_routes() -> None:
    door = BearerClient(issue_join_token())

    assert door.get("/bootloader/reports/vm-1").status_code == 403
    assert door.post("/bootloader/token").status_code == 403


def test_missing_parent_is_reported_and_token_stays_valid(api: Api) -> None:
    tree.create(tree.NewNode("roof", "infra_vm", vm_id="roof"), by="tests")
    token = issue_join_token(parent_vm_id="roof")
    tree.remove("roof", by="tests")

    answer = BearerClient(token).join()

    assert answer.status_code == 409
    assert "'vm-1' cannot join: parent VM 'roof' not found" in the_error(answer)
    assert refusals() == [("clash", 1)]
    assert JoinToken.objects.get().used_at is None


def test_removed_id_cannot_join_again() -> None:
    tree.create(tree.NewNode("old", "swarm_vm", vm_id="vm-1"), by="tests")
    tree.remove("vm-1", by="tests")

    answer = BearerClient(issue_join_token()).join()

    assert answer.status_code == 409
    assert "its id is never given again" in the_error(answer)
    assert not VM.objects.exists()


def test_member_may_join_again() -> None:
    first = BearerClient(issue_join_token()).join().json()["token"]
    second = BearerClient(issue_join_token()).join().json()["token"]

    assert BearerClient(first).get("/vm-tree/vms/vm-1").status_code == 401
    assert BearerClient(second).get("/vm-tree/vms/vm-1").status_code == 200
    assert Node.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"hostname": 7}, "hostname"),
        ({"hostname": "x" * 256}, "hostname"),
        ({"address": "a\nb"}, "address"),
        ({"nonce": ["x"]}, "nonce"),
        ({"agentVersion": "\0"}, "agentVersion"),
    ],
)
def test_invalid_values_are_rejected_with_their_field(body: dict[str, object], field: str) -> None:
    answer = BearerClient(issue_join_token()).join(**body)

    assert answer.status_code == 400
    assert the_error(answer).startswith(f"{field}: ")
    assert JoinToken.objects.get().used_at is None


@pytest.mark.parametrize("minutes", [0, -1, join_tokens.MAX_MINUTES + 1])
def test_invalid_token_lifetimes_are_rejected(minutes: int) -> None:
    with pytest.raises(BadInput):
        issue_join_token(minutes=minutes)


def test_old_tokens_are_deleted() -> None:
    BearerClient(issue_join_token("old")).join()
    issue_join_token("new")
    long_ago = clock.now() - timedelta(days=settings.BOOT_DAYS + 1)
    JoinToken.objects.filter(vm_id="old").update(
        made_at=long_ago - timedelta(hours=1), expires_at=long_ago
    )

    join_tokens.sweep()

    assert list(JoinToken.objects.values_list("vm_id", flat=True)) == ["new"]


# -- node tokens ---------------------------------------------------------------------------------


def test_token_is_renewed_in_two_requests() -> None:
    old = BearerClient(issue_join_token()).join().json()["token"]

    new = BearerClient(old).post("/bootloader/token").json()["token"]

    # The old token stays valid until the new one is used: the response may be lost.
    assert BearerClient(old).get("/vm-tree/vms/vm-1").status_code == 200
    done = BearerClient(new).post("/bootloader/token/confirm")
    assert (done.status_code, done.json()) == (200, {"vmId": "vm-1", "revoked": 1})
    assert BearerClient(old).get("/vm-tree/vms/vm-1").status_code == 401
    assert BearerClient(new).get("/vm-tree/vms/vm-1").status_code == 200


def test_lost_responses_leave_no_tokens() -> None:
    old = BearerClient(issue_join_token()).join().json()["token"]
    for _ in range(5):
        last = BearerClient(old).post("/bootloader/token").json()["token"]

    good = set(NodeToken.objects.good().values_list("digest", flat=True))
    assert good == {tokens.digest_of(old), tokens.digest_of(last)}


def test_root_cannot_renew_a_token(api: Api) -> None:
    assert api.post("/bootloader/token").status_code == 403


MACHINE = "0b5c9a52-6a3c-4f0e-9d59-0f5d6f0b7c11"


# -- addresses -------------------------------------------------------------------------------------


def generate_script(api: Api, **more: str) -> Any:
    body = {"vmId": "vm-1", "name": "one", "type": "lightweight", **more}
    return api.post("/bootloader/generate", body)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("10.0.0.9, 2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", "box"),
        ("", "box"),
    ],
)
def test_own_vm_is_registered_with_its_request_address(api: Api, remote: str, address: str) -> None:
    made = generate_script(api).json()
    assert "vm.vers.sh" not in made["script"].partition("SSH_DOMAIN=")[0]
    door = BearerClient(made["joinToken"])
    headers = {"x-forwarded-for": remote} if remote else {}
    body = {"hostname": "box"}
    answer = door.client.post(
        "/bootloader/join", body, content_type="application/json", headers=headers
    )
    assert answer.status_code == 200, answer.content
    assert VM.objects.get(pk="vm-1").address == address


def test_given_address_is_stored(api: Api) -> None:
    made = generate_script(api, address="build-7.example.org").json()
    assert "ADDRESS='build-7.example.org'" in made["script"]
    BearerClient(made["joinToken"]).join()
    assert VM.objects.get(pk="vm-1").address == "build-7.example.org"


@pytest.mark.parametrize("address", ["a host", "x'; touch y", "é.example", "-o", "http://x/"])
def test_invalid_address_is_rejected(api: Api, address: str) -> None:
    answer = generate_script(api, address=address)
    assert answer.status_code == 400
    assert answer.json()["error"] == "address: must be a host name or an IP address"


def test_platform_vm_is_registered_with_its_platform_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_SSH_DOMAIN", "vm.test")
    Machine.objects.create(provider="vers", machine_id=MACHINE, vm_id="vm-1")
    BearerClient(generate_script(api).json()["joinToken"]).join()
    assert VM.objects.get(pk="vm-1").address == f"{MACHINE}.vm.test"
