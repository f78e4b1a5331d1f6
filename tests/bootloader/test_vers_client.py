"""The platform's client over real sockets: what it sends, and what it makes of every answer."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from bootloader import exceptions as errors
from bootloader.providers.base import MachineState, Spec
from bootloader.providers.vers import Client, http, keyring
from bootloader.providers.vers.provider import NAME_LABEL, Vers, check_key
from tests.bootloader.scripted_platform import ReceivedRequest, ScriptedPlatform, ScriptedResponse
from versconfig import checks

pytestmark = pytest.mark.django_db

OWNER = "11111111-2222-4333-8444-555555555555"
KEY = OWNER + "ab" * 32
VM = "aaaaaaaa-0000-4000-8000-000000000001"
OTHER = "aaaaaaaa-0000-4000-8000-000000000002"
COMMIT = "cccccccc-0000-4000-8000-000000000003"
SPEC = Spec(name="anna", vcpus=2, memory_mib=4096, disk_mib=8192, labels={"team": "blue"})


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedPlatform]:
    server = ScriptedPlatform()
    monkeypatch.setenv("VERS_API_KEY", KEY)
    monkeypatch.setenv("VERS_BASE_URL", server.url)
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr("bootloader.providers.vers.provider._POLL_SECONDS", 0.01)
    monkeypatch.setattr("bootloader.providers.vers.provider._CHANGE_SECONDS", 0.5)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, settings: Any) -> None:
    settings.DATA_DIR = tmp_path


def vm(vm_id: str = VM, state: str = "running", **more: object) -> dict[str, object]:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"vm_id": vm_id, "owner_id": OWNER, "created_at": at, "state": state, **more}


def error_response(status: int, text: str, **more: object) -> ScriptedResponse:
    return ScriptedResponse(status, {"error": text, "success": False, **more})


def created_response(vm_id: str = VM) -> ScriptedResponse:
    return ScriptedResponse(201, {"vm_id": vm_id})


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["", "/", "/api/v1", "/api/v1/", " "])
def test_base_url_may_include_the_api_path(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    monkeypatch.setenv("VERS_BASE_URL", platform.url + tail)
    platform.on("GET /vms", ScriptedResponse(json=[vm()]))
    assert [each.vm_id for each in Client().vms()] == [VM]


@pytest.mark.parametrize(
    "text",
    ["ftp://x", "https://", "nonsense", "https://a:99999", "https://u:p@host", "https://h?a=1"],
)
def test_invalid_base_url_is_refused(text: str) -> None:
    with pytest.raises(errors.ProviderRefused, match="VERS_BASE_URL"):
        http.base_url(text)


def test_requests_have_a_key_and_an_id_and_writes_have_a_body(
    platform: ScriptedPlatform,
) -> None:
    platform.on("GET /vms", ScriptedResponse(json=[]))
    platform.on("POST /vm/new_root", created_response())
    Client().vms()
    Client().new_root({"vcpu_count": 2, "image_name": None})
    read, write = platform.requests
    assert read.headers["authorization"] == write.headers["authorization"] == f"Bearer {KEY}"
    assert uuid.UUID(read.headers["x-request-id"]) != uuid.UUID(write.headers["x-request-id"])
    assert "content-type" not in read.headers
    assert write.headers["content-type"] == "application/json"
    assert write.body == {"vm_config": {"vcpu_count": 2}}
    assert write.query == {"wait_boot": ["false"]}


def test_key_and_address_are_read_for_each_request(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.on("GET /vms", ScriptedResponse(json=[]))
    client = Client()
    client.vms()
    monkeypatch.setenv("VERS_API_KEY", "22222222-" + KEY[9:])
    client.vms()
    assert [each.headers["authorization"][7:9] for each in platform.requests] == ["11", "22"]


def test_no_request_is_sent_without_a_key(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VERS_API_KEY")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(errors.BadProviderKey, match="No VERS_API_KEY"):
        Client().vms()
    assert not platform.requests


# -- responses -----------------------------------------------------------------------------------

REFUSALS = [
    (ScriptedResponse(403, text="403 Forbidden"), errors.BadProviderKey, "403 Forbidden"),
    (ScriptedResponse(401), errors.BadProviderKey, "no reason given"),
    (error_response(401, "expired"), errors.BadProviderKey, "expired"),
    (error_response(403, "forbidden"), errors.ProviderRefused, "forbidden"),
    (error_response(403, "vCPU limit exceeded: this VM requires 2"), errors.QuotaExceeded, "vCPU"),
    (
        ScriptedResponse(403, {"vms": [], "error": "Memory limit exceeded: this VM requires"}),
        errors.QuotaExceeded,
        "Memory",
    ),
    (
        ScriptedResponse(404, {"vms": [], "error": "parent vm not found"}),
        errors.NoSuchMachine,
        "parent",
    ),
    (error_response(404, "not found"), errors.NoSuchMachine, "not found"),
    (
        ScriptedResponse(400, text="Invalid URL: Cannot parse `vm_id`"),
        errors.ProviderRefused,
        "Invalid URL",
    ),
    (
        ScriptedResponse(
            422, text="state: unknown variant", headers={"Content-Type": "text/plain"}
        ),
        errors.ProviderRefused,
        "unknown variant",
    ),
    (error_response(409, "(node_id is null); is it sleeping?"), errors.ProviderRefused, "sleeping"),
    (error_response(402, "pay first"), errors.ProviderRefused, "pay"),
    (error_response(500, "http error: 400: disk"), errors.ProviderError, "disk"),
    (
        error_response(500, "http error: network timeout"),
        errors.OutcomeUnknown,
        "may have happened",
    ),
    (ScriptedResponse(500, text="oops"), errors.OutcomeUnknown, "oops"),
    (
        ScriptedResponse(503, text="503 Service unavailable"),
        errors.OutcomeUnknown,
        "may have happened",
    ),
    (ScriptedResponse(502, text="bad gateway"), errors.OutcomeUnknown, "bad gateway"),
    (error_response(501, "not configured"), errors.ProviderError, "not configured"),
    (
        ScriptedResponse(302, headers={"Location": "https://elsewhere"}),
        errors.ProviderRefused,
        "BASE_URL",
    ),
    (ScriptedResponse(cut=True), errors.OutcomeUnknown, "may have happened"),
    (
        ScriptedResponse(500, {"vms": [{"vm_id": OTHER}], "error": "node full"}),
        errors.PartiallyCreated,
        "node full",
    ),
    (ScriptedResponse(201, {"unexpected": 1}), errors.OutcomeUnknown, "cannot be read"),
    (ScriptedResponse(201, text="created"), errors.OutcomeUnknown, "cannot be read"),
    (
        ScriptedResponse(201, {"vms": [{"vm_id": "../../etc"}]}),
        errors.OutcomeUnknown,
        "cannot be read",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "words"), REFUSALS)
def test_write_is_sent_once_and_has_a_named_error(
    platform: ScriptedPlatform,
    answer: ScriptedResponse,
    kind: type[errors.ProviderError],
    words: str,
) -> None:
    platform.on(f"POST /vm/branch/by_vm/{VM}", answer)
    with pytest.raises(errors.ProviderError) as caught:
        Client().branch(VM)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert not caught.value.retry
    assert len(platform.requests) == 1
    number = platform.requests[0].headers["x-request-id"]
    assert number in str(caught.value), "the message contains the id of the request"
    if isinstance(caught.value, errors.PartiallyCreated):
        assert caught.value.made == (OTHER,)


@pytest.mark.parametrize(
    "temporary",
    [
        ScriptedResponse(503, text="503 Service unavailable"),
        ScriptedResponse(502),
        ScriptedResponse(504),
        error_response(500, "db error"),
        ScriptedResponse(429),
        ScriptedResponse(cut=True),
    ],
)
def test_reads_are_repeated_after_temporary_errors(
    platform: ScriptedPlatform, temporary: ScriptedResponse
) -> None:
    platform.on("GET /vms", temporary, temporary, ScriptedResponse(json=[vm(surprise={"new": 1})]))
    assert Client().vms()[0].state == "running"
    assert len(platform.requests) == 3


def test_reads_are_repeated_a_limited_number_of_times(platform: ScriptedPlatform) -> None:
    platform.on("GET /vms", ScriptedResponse(503, text="503 Service unavailable"))
    with pytest.raises(errors.ProviderUnavailable) as caught:
        Client().vms()
    assert caught.value.retry
    assert len(platform.requests) == 4


def test_reads_with_a_definite_error_are_sent_once(platform: ScriptedPlatform) -> None:
    with pytest.raises(errors.NoSuchMachine):
        Client().status(VM)
    platform.on("GET /vms", ScriptedResponse(403, text="403 Forbidden"))
    with pytest.raises(errors.BadProviderKey):
        Client().vms()
    assert len(platform.requests) == 2


def test_rate_limited_write_is_repeated_after_the_requested_pause(
    platform: ScriptedPlatform,
) -> None:
    platform.on(
        "POST /vm/new_root", ScriptedResponse(429, headers={"Retry-After": "1"}), created_response()
    )
    began = time.monotonic()
    assert Client().new_root({}) == VM
    assert time.monotonic() - began >= 1
    assert len(platform.requests) == 2


def test_long_pause_is_reported_to_the_caller(platform: ScriptedPlatform) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    platform.on("POST /vm/new_root", ScriptedResponse(429, headers={"Retry-After": at}))
    with pytest.raises(errors.RateLimited) as caught:
        Client().new_root({})
    assert caught.value.retry
    assert 80 < (caught.value.seconds or 0) <= 90
    assert len(platform.requests) == 1


def test_connection_failure_means_nothing_happened(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("VERS_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(errors.ProviderUnavailable) as caught:
            Client().new_root({})
    assert caught.value.retry
    assert not isinstance(caught.value, errors.OutcomeUnknown)


def test_only_reads_are_repeated_after_a_timeout(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "QUICK_SECONDS", 0.2)
    monkeypatch.setattr(http, "SLOW_SECONDS", 0.4)
    platform.on("GET /vms", ScriptedResponse(json=[], seconds=0.6), ScriptedResponse(json=[]))
    assert Client().vms() == []
    platform.on("POST /vm/new_root", ScriptedResponse(201, {"vm_id": VM}, seconds=0.8))
    with pytest.raises(errors.OutcomeUnknown):
        Client().new_root({})
    assert len(platform.requests) == 3


@pytest.mark.parametrize("vm_id", ["", "../vms", VM[:12], VM + "/x", "ä"])
def test_no_request_is_sent_for_invalid_ids(platform: ScriptedPlatform, vm_id: str) -> None:
    with pytest.raises(errors.NoSuchMachine):
        Client().status(vm_id)
    assert not platform.requests


def test_secrets_are_masked(platform: ScriptedPlatform, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"no such key: Bearer {KEY} or {KEY.upper()}"
    platform.on("GET /vms", error_response(400, echo))
    platform.on("POST /vm/new_root", ScriptedResponse(503, text=echo))
    platform.on(
        f"GET /vm/{VM}/ssh_key",
        ScriptedResponse(json={"ssh_private_key": "PRIVATE", "ssh_port": 1}),
    )
    messages = []
    for ask in (Client().vms, lambda: Client().new_root({})):
        with pytest.raises(errors.ProviderError) as caught:
            ask()
        messages += [str(caught.value), repr(caught.value)]
    messages += [repr(Client()), repr(http.account()), repr(Client().ssh_key(VM)), caplog.text]
    for text in messages:
        assert KEY[36:].lower() not in text.lower()
        assert "PRIVATE" not in text


# -- the provider --------------------------------------------------------------------------------


def test_vm_is_created_from_an_image(platform: ScriptedPlatform) -> None:
    platform.on("POST /vm/new_root", created_response())
    machine = Vers().create(SPEC)
    labels = {"team": "blue", NAME_LABEL: "anna"}
    assert (machine.id, machine.state, machine.labels) == (VM, MachineState.BOOTING, labels)
    assert platform.requests[0].body["vm_config"] == {
        "vcpu_count": 2,
        "mem_size_mib": 4096,
        "fs_size_mib": 8192,
        "labels": labels,
    }


@pytest.mark.parametrize(
    ("word", "body"),
    [
        (COMMIT, {"commit_id": COMMIT}),
        ("pi-agent:latest", {"ref": "pi-agent:latest"}),
        ("golden", {"tag_name": "golden"}),
    ],
)
def test_vm_is_created_from_a_commit(
    platform: ScriptedPlatform, word: str, body: dict[str, str]
) -> None:
    platform.on("POST /vm/from_commit", created_response())
    platform.on(f"PATCH /vm/{VM}/label", error_response(500, "not today"))
    machine = Vers().create(Spec(name="anna", commit=word))
    assert (machine.id, machine.state, machine.commit) == (VM, MachineState.RUNNING, word)
    assert platform.requests[0].body == body
    assert platform.requests[1].body == {"labels": {NAME_LABEL: "anna"}}


def test_lost_creation_from_an_image_is_found_by_its_labels(platform: ScriptedPlatform) -> None:
    ids = [f"aaaaaaaa-0000-4000-8000-0000000000{number:02}" for number in range(10, 17)]
    mine = {**SPEC.labels, NAME_LABEL: "anna"}
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    platform.on(
        "GET /vms",
        ScriptedResponse(
            json=[
                vm(ids[0], labels=mine),
                vm(ids[1], labels={NAME_LABEL: "bert"}),
                vm(ids[2], labels=None),
                vm(ids[3], labels=mine, owner_id=OTHER),
                vm(ids[4], labels=mine, created_at=old),
                vm(ids[5], labels=mine),
                vm(ids[6]),
            ]
        ),
    )
    platform.on(
        f"GET /vm/{ids[6]}/metadata",
        ScriptedResponse(json={"vm_id": ids[6], "parent_commit_id": COMMIT}),
    )
    found = Vers().find_created(SPEC, datetime.now(UTC), frozenset({ids[5]}))
    assert [each.id for each in found] == [ids[0]]


def test_lost_restore_is_found_by_its_commit(platform: ScriptedPlatform) -> None:
    ids = [f"aaaaaaaa-0000-4000-8000-0000000000{number:02}" for number in range(20, 25)]
    label = {NAME_LABEL: "bert"}
    rows = [*(vm(each) for each in ids[:3]), vm(ids[3], labels=label), vm(ids[4], labels={})]
    platform.on("GET /vms", ScriptedResponse(json=rows))
    platform.on("GET /repositories/pi/tags/latest", ScriptedResponse(json={"commit_id": COMMIT}))
    for vm_id, commit in ((ids[0], COMMIT), (ids[1], OTHER), (ids[4], COMMIT)):
        facts = {"vm_id": vm_id, "parent_commit_id": commit, "ip": "fd00::1"}
        platform.on(f"GET /vm/{vm_id}/metadata", ScriptedResponse(json=facts))
    spec = Spec(name="anna", commit="pi:latest")
    found = Vers().find_created(spec, datetime.now(UTC), frozenset())
    assert {each.id for each in found} == {ids[0], ids[4]}


def test_both_response_shapes_of_a_branch_are_read(platform: ScriptedPlatform) -> None:
    path = f"POST /vm/branch/by_vm/{VM}"
    platform.on(path, ScriptedResponse(201, {"vm_id": OTHER}))
    assert [each.id for each in Vers().branch(VM)] == [OTHER]
    platform.on(path, ScriptedResponse(201, {"vms": [{"vm_id": OTHER}, {"vm_id": COMMIT}]}))
    assert [each.parent_id for each in Vers().branch(VM, 2)] == [VM, VM]
    assert platform.requests[-1].query == {"count": ["2"]}
    with pytest.raises(errors.PartiallyCreated) as caught:
        Vers().branch(VM, 3)
    assert caught.value.made == (OTHER, COMMIT)


def test_commits_are_created_and_found(platform: ScriptedPlatform) -> None:
    platform.on(f"POST /vm/{VM}/commit", ScriptedResponse(201, {"commit_id": COMMIT}))
    assert Vers().commit(VM, "golden") == COMMIT
    assert platform.requests[0].body == {"name": "golden"}

    def page(request: ReceivedRequest) -> ScriptedResponse:
        rows = [
            {"commit_id": str(uuid.UUID(int=number)), "name": "x", "parent_vm_id": OTHER}
            for number in range(150)
        ]
        rows.append({"commit_id": COMMIT, "name": "golden", "parent_vm_id": VM})
        offset = int(request.query["offset"][0])
        return ScriptedResponse(json={"commits": rows[offset : offset + 100]})

    platform.on("GET /commits", page)
    assert Vers().find_commits(VM, "golden") == [COMMIT]


class VMState:
    """A VM whose state follows the requests."""

    def __init__(self, platform: ScriptedPlatform, state: str) -> None:
        self.state, self.platform = state, platform
        platform.on(f"GET /vm/{VM}/status", lambda _: ScriptedResponse(json=vm(state=self.state)))

    def change_state(self, request: ReceivedRequest) -> ScriptedResponse:
        self.state = request.body["state"].lower()
        return ScriptedResponse()


def test_pause_and_resume_wait_for_the_state(platform: ScriptedPlatform) -> None:
    vm_state = VMState(platform, "running")
    platform.on(f"PATCH /vm/{VM}/state", vm_state.change_state)
    Vers().pause(VM)
    assert vm_state.state == "paused"
    Vers().pause(VM)
    Vers().resume(VM)
    Vers().resume(VM)
    words = [request.body["state"] for request in platform.requests_to(f"PATCH /vm/{VM}/state")]
    assert words == ["Paused", "Running"]


def test_pause_uses_sleeping_if_the_platform_has_no_paused(platform: ScriptedPlatform) -> None:
    vm_state = VMState(platform, "running")
    text = "state: unknown variant `Paused`, expected `Sleeping` or `Running`"

    def change_state(request: ReceivedRequest) -> ScriptedResponse:
        return (
            ScriptedResponse(422, text=text)
            if request.body["state"] == "Paused"
            else vm_state.change_state(request)
        )

    platform.on(f"PATCH /vm/{VM}/state", change_state)
    Vers().pause(VM)
    assert vm_state.state == "sleeping"


@pytest.mark.rotated
def test_pause_that_succeeded_despite_a_503_is_recognized(platform: ScriptedPlatform) -> None:
    vm_state = VMState(platform, "running")

    def change_state(request: ReceivedRequest) -> ScriptedResponse:
        vm_state.change_state(request)
        return ScriptedResponse(503, text="503 Service unavailable")

    platform.on(f"PATCH /vm/{VM}/state", change_state)
    Vers().pause(VM)
    vm_state.state = "running"
    platform.on(f"PATCH /vm/{VM}/state", ScriptedResponse(503, text="503 Service unavailable"))
    with pytest.raises(errors.OutcomeUnknown):
        Vers().pause(VM)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("booting", MachineState.BOOTING),
        ("Running", MachineState.RUNNING),
        ("sleeping", MachineState.PAUSED),
        ("dead", MachineState.STOPPED),
        ("molten", MachineState.UNKNOWN),
    ],
)
def test_states_of_the_platform_are_mapped(
    platform: ScriptedPlatform, word: str, state: MachineState
) -> None:
    platform.on(f"GET /vm/{VM}/status", ScriptedResponse(json=vm(state=word)))
    assert Vers().state(VM).state is state


def test_sleeping_vm_is_recognized_by_a_409(platform: ScriptedPlatform) -> None:
    text = "The requested VM is not currently running (node_id is null); is it sleeping?"
    platform.on(f"GET /vm/{VM}/status", error_response(409, text))
    assert Vers().state(VM).state is MachineState.PAUSED


def test_list_contains_the_owner(platform: ScriptedPlatform) -> None:
    rows = [vm(VM, labels={NAME_LABEL: "anna"}), vm(OTHER, owner_id=COMMIT)]
    platform.on("GET /vms", ScriptedResponse(json=rows))
    first, second = Vers().list()
    assert (first.name, first.mine, second.mine) == ("anna", True, False)
    assert first.created_at is not None
    assert abs(datetime.now(UTC) - first.created_at) < timedelta(minutes=1)


def test_deleting_a_missing_vm_succeeds(platform: ScriptedPlatform) -> None:
    platform.on(f"DELETE /vm/{VM}", error_response(403, "Forbidden"))
    platform.on("GET /vms", ScriptedResponse(json=[]))
    keyring.keep_key(VM, "secret")
    Vers().delete(VM)
    assert keyring.key_of(VM) is None


def test_deleting_a_foreign_vm_fails(platform: ScriptedPlatform) -> None:
    platform.on(f"DELETE /vm/{VM}", error_response(403, "Forbidden"))
    platform.on(f"GET /vm/{VM}/status", error_response(403, "forbidden"))
    platform.on("GET /vms", ScriptedResponse(json=[vm()]))
    with pytest.raises(errors.ProviderRefused, match="Forbidden"):
        Vers().delete(VM)


def test_delete_with_a_bad_key_fails(platform: ScriptedPlatform) -> None:
    gateway = ScriptedResponse(403, text="403 Forbidden")
    for what in (f"DELETE /vm/{VM}", f"GET /vm/{VM}/status", "GET /vms"):
        platform.on(what, gateway)
    with pytest.raises(errors.BadProviderKey):
        Vers().delete(VM)


def test_delete_with_a_lost_response_is_checked(platform: ScriptedPlatform) -> None:
    platform.on(f"DELETE /vm/{VM}", ScriptedResponse(503, text="503 Service unavailable"))
    platform.on(
        f"GET /vm/{VM}/status", ScriptedResponse(json=vm()), error_response(404, "not found")
    )
    platform.on("GET /vms", ScriptedResponse(json=[]))
    Vers().delete(VM)
    platform.on(f"GET /vm/{VM}/status", ScriptedResponse(json=vm()))
    with pytest.raises(errors.OutcomeUnknown):
        Vers().delete(VM)


def test_paused_vm_is_resumed_if_its_deletion_fails(platform: ScriptedPlatform) -> None:
    vm_state = VMState(platform, "paused")
    platform.on(
        f"DELETE /vm/{VM}",
        error_response(500, "http error: paused"),
        ScriptedResponse(json={"vm_id": VM}),
    )
    platform.on(f"PATCH /vm/{VM}/state", vm_state.change_state)
    Vers().delete(VM)
    assert vm_state.state == "running"


def test_login_keeps_the_key_by_full_id(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [
        ScriptedResponse(json={"ssh_private_key": text, "ssh_port": 28001})
        for text in ("ONE", "TWO")
    ]
    platform.on(f"GET /vm/{VM}/ssh_key", *keys)
    login = Vers().login(VM)
    name = f"{VM}.vm.vers.sh"
    assert (login.host, login.port, login.user, login.tls_name) == (name, 443, "root", name)
    assert (login.private_key, login.host_key) == ("ONE", None)
    assert Vers().login(VM).private_key == "ONE"
    assert len(platform.requests) == 1

    assert login.keep is not None
    login.keep("ssh-ed25519 AAAA")
    login.keep("ssh-ed25519 BBBB")
    monkeypatch.setenv("REEF_SSH_GATEWAY", "127.0.0.1")
    monkeypatch.setenv("REEF_SSH_PORT", "8443")
    monkeypatch.setenv("REEF_SSH_DOMAIN", "vm.test")
    monkeypatch.setenv("REEF_SSH_CA_FILE", "/ca.pem")
    again = Vers().login(VM, fresh=True)
    assert (again.private_key, again.host_key) == ("TWO", "ssh-ed25519 AAAA")
    assert (again.host, again.port, again.trust) == ("127.0.0.1", 8443, "/ca.pem")
    assert again.tls_name == Vers().address(VM) == f"{VM}.vm.test"

    folder = tmp_path / "vers-ssh"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {each.name for each in folder.iterdir()} == {f"{VM}.key", f"{VM}.host"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}


def test_keys_of_deleted_vms_are_removed(platform: ScriptedPlatform, tmp_path: Path) -> None:
    platform.on("GET /vms", ScriptedResponse(json=[vm(VM)]))
    for vm_id in (VM, OTHER, COMMIT):
        keyring.keep_key(vm_id, "secret")
    keyring.keep_host_key(OTHER, "ssh-ed25519 AAAA")
    for vm_id in (VM, OTHER):
        for file in (tmp_path / "vers-ssh").glob(f"{vm_id}.*"):
            os.utime(file, (1, 1))
    Vers().list()
    left = {file.name for file in (tmp_path / "vers-ssh").iterdir()}
    assert left == {f"{VM}.key", f"{COMMIT}.key"}, "a list may leave one out for a moment"


def test_login_of_a_paused_vm_fails(platform: ScriptedPlatform) -> None:
    VMState(platform, "paused")
    platform.on(f"GET /vm/{VM}/ssh_key", error_response(500, "db error: paused"))
    with pytest.raises(errors.ProviderRefused, match="is paused"):
        Vers().login(VM)
    assert len(platform.requests_to(f"GET /vm/{VM}/ssh_key")) == 1


@pytest.mark.parametrize(
    ("answer", "good", "words"),
    [
        (ScriptedResponse(json={"valid": True, "message": "API key is valid"}), True, "is valid"),
        (ScriptedResponse(json={"valid": False, "message": "revoked"}), False, "revoked"),
        (error_response(401, "invalid"), False, "invalid"),
        (ScriptedResponse(403, text="403 Forbidden"), False, "does not know"),
        (ScriptedResponse(404), True, "1 VMs"),
        (ScriptedResponse(405), True, "1 VMs"),
    ],
)
def test_check_reports_the_state_of_the_key(
    platform: ScriptedPlatform, answer: ScriptedResponse, good: bool, words: str
) -> None:
    platform.on("POST /keys/validate", answer)
    platform.on("GET /vms", ScriptedResponse(json=[vm()]))
    verdict = check_key(None)
    assert verdict.good is good
    assert words in verdict.text
    finding = checks.run("VERS_API_KEY")
    assert finding.good is good
    assert words in finding.text


def test_check_is_undecided_if_the_platform_is_unreachable(platform: ScriptedPlatform) -> None:
    platform.on("POST /keys/validate", ScriptedResponse(503, text="503 Service unavailable"))
    with pytest.raises(errors.ProviderUnavailable):
        Vers().check()
    assert checks.run("VERS_API_KEY").good is None
