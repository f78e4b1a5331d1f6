"""Profiles: the four of the contract, and those that operators add."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from bootloader.boot import profiles
from bootloader.boot.plan import STEPS, File
from bootloader.boot.render import body
from bootloader.models import OwnProfile, ProfileFile
from tests.conftest import Api
from vmtree import services as tree
from vmtree.models import Node

pytestmark = pytest.mark.django_db

CONTRACT = {
    # type: category, role, VERS_AGENT_ROLE
    "full": ("agent_vm", "worker", "agent"),
    "swarm": ("swarm_vm", "worker", "swarm"),
    "lightweight": ("swarm_vm", "worker", "lightweight"),
    "infra": ("infra_vm", "infra", "infra"),
}
ADD = "/admin/bootloader/ownprofile/add/"


def form(**fields: Any) -> dict[str, Any]:
    """Return the fields that the admin's page sends."""
    return {
        "type": "builder",
        "description": "Builds things.",
        "organs": ["registry", "store"],
        "capabilities": ["ssh"],
        "category": "agent_vm",
        "role": "worker",
        "agent_role": "builder",
        "agent": "on",
        "packages": "git\r\n ripgrep \r\n\r\n",
        "memory_mib": "2048",
        "files-TOTAL_FORMS": "1",
        "files-INITIAL_FORMS": "0",
        "files-0-path": "/etc/motd",
        "files-0-text": "one\r\ntwo\r\n",
        "files-0-mode": str(0o600),
        **fields,
    }


def problems(answer: Any) -> dict[str, list[str]]:
    shown: dict[str, list[str]] = answer.context["adminform"].form.errors
    return shown


def test_builtin_profiles_match_the_contract(api: Api) -> None:
    told = api.get("/bootloader/profiles").json()["profiles"]

    assert list(told) == list(CONTRACT)
    for type_, words in CONTRACT.items():
        profile = profiles.get(type_)
        assert (profile.category, profile.role, profile.agent_role) == words
        assert told[type_] == api.get(f"/bootloader/profiles/{type_}").json()
        assert told[type_]["organs"] == profile.dna["organs"]


def test_extras_are_added_once_for_the_request_only(api: Api) -> None:
    fields = {"vmId": "x1", "name": "x", "type": "lightweight", "extraOrgans": ["minio", "store"]}

    made = api.post("/bootloader/generate", fields).json()

    assert made["profile"]["organs"] == ["store", "minio"]
    assert profiles.get("lightweight").organs == ("store",)
    assert "REEF_ORGANS' 'store,minio'" in made["script"]


def test_operator_adds_a_profile_in_the_admin(admin_client: Client, api: Api) -> None:
    answer = admin_client.post(ADD, form())

    assert answer.status_code == 302, problems(answer)
    profile = profiles.get("builder")
    assert profile.packages == ("git", "ripgrep")
    assert profile.files == (File("/etc/motd", "one\ntwo\n", 0o600),)
    assert profile.size.memory_mib == 2048
    assert profile.size.vcpus is None
    told = api.get("/bootloader/profiles").json()["profiles"]
    assert list(told) == [*CONTRACT, "builder"]
    assert told["builder"]["builtIn"] is False
    script = api.post(
        "/bootloader/generate", {"vmId": "b9", "name": "b9", "type": "builder"}
    ).json()["script"]
    assert "PACKAGES=('git' 'ripgrep')" in script
    assert "FILES=('/etc/motd' '600' $'one\\x0atwo\\x0a')" in script
    one = api.get("/bootloader/profiles/builder").json()
    assert one["files"] == [
        {
            "path": "/etc/motd",
            "liesAt": "/etc/motd",
            "liesAtWithoutRoot": "/etc/motd",
            "mode": "0600",
            "bytes": 8,
        }
    ]
    assert one["size"] == {"vcpus": None, "memoryMib": 2048, "diskMib": None}
    assert "files" not in api.get("/bootloader/profiles/full").json()
    bad = api.post("/bootloader/generate", {"vmId": "b9", "name": "b9", "type": "nope"}).json()
    assert bad["error"].endswith("Valid: full, swarm, lightweight, infra, builder")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("type", "full", "built in"),
        ("type", "No Name", "small letters"),
        ("organs", ["registry", "heart"], "heart is not one of"),
        ("capabilities", ["fly"], "fly is not one of"),
        ("packages", "git\n-o=Evil::Option", "is no package"),
        ("packages", "$(reboot)", "is no package"),
        ("agent_role", "a b", "letters, digits"),
        ("category", "palace", "palace is not one of"),
        ("role", "king", "king is not one of"),
        ("memory_mib", "1", "greater than or equal"),
    ],
)
def test_unknown_names_are_rejected(
    admin_client: Client, field: str, value: object, says: str
) -> None:
    answer = admin_client.post(ADD, form(**{field: value}))

    assert answer.status_code == 200
    assert says in str(problems(answer)[field])
    assert not OwnProfile.objects.exists()


def test_relative_file_path_shows_its_folder(admin_client: Client, api: Api) -> None:
    assert "relative to /opt/reef" in admin_client.get(ADD).content.decode()
    assert admin_client.post(ADD, form(**{"files-0-path": "notes/one"})).status_code == 302

    one = api.get("/bootloader/profiles/builder").json()["files"][0]

    assert (one["path"], one["liesAt"]) == ("notes/one", "/opt/reef/notes/one")
    assert one["liesAtWithoutRoot"] == "~/.reef/notes/one"


@pytest.mark.parametrize(
    ("field", "value"), [("extraOrgans", ["heart"]), ("extraCapabilities", ["fly"])]
)
def test_unknown_extras_are_rejected(api: Api, field: str, value: list[str]) -> None:
    fields = {"vmId": "x1", "name": "x", "type": "lightweight", field: value}
    answer = api.post("/bootloader/generate", fields)
    assert answer.status_code == 400
    assert f"{field}: '{value[0]}' is not known; these are: " in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        *("../../etc/shadow", "/etc/", "/etc/./x", "a\nb", "identity.json", "identity.env"),
        *("join-token", "fleet_agent.py", "run/x", "agent/pi", "/opt/reef/identity.json", "log"),
    ],
)
def test_file_path_cannot_leave_its_folder(admin_client: Client, path: str) -> None:
    answer = admin_client.post(ADD, form(**{"files-0-path": path}))

    assert answer.status_code == 200
    assert not ProfileFile.objects.exists()


def test_node_generates_scripts_only_for_its_descendants(api: Api) -> None:
    root = Node.objects.get(vm_id=_node("n-root"))
    Node.objects.get(vm_id=_node("n-other"))
    _, token = tree.issue_token(root.vm_id, by="tests")
    node = Client(headers={"authorization": f"Bearer {token}"})

    def ask(**fields: str) -> int:
        body = {"name": "x", "type": "swarm", **fields}
        kind = "application/json"
        return node.post("/bootloader/generate", body, content_type=kind).status_code

    assert ask(vmId="below", parentVmId="n-root") == 201
    assert ask(vmId="nowhere") == 403
    assert ask(vmId="elsewhere", parentVmId="n-other") == 403
    # A script grants the identity of its VM: neither a sibling nor the caller is allowed.
    assert ask(vmId="n-other", parentVmId="n-root") == 403
    assert ask(vmId="n-root", parentVmId="n-root") == 403


def test_reef_on_a_vm_has_exactly_the_organs_of_its_profile(api: Api) -> None:
    OwnProfile.objects.create(
        type="empty", description="No organs.", category="infra_vm", role="infra", own_reef=True
    )
    for type_, organs in (("empty", "none"), ("infra", "store,cron,docs")):
        fields = {"vmId": f"o-{type_}", "name": "o", "type": type_, "extraOrgans": ["minio"]}
        script = api.post("/bootloader/generate", fields).json()["script"]
        assert f"REEF_ENV=('REEF_ORGANS' '{organs}')" in script


def test_requests_of_earlier_boot_scripts_are_accepted(api: Api) -> None:
    """VMs that booted with an earlier version send the old form."""
    dna = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}
    in_tree = {"vmId": "old-1", "name": "old", "category": "swarm_vm", "parentVmId": None}
    registered = {
        "id": "old-1",
        "name": "old",
        "role": "worker",
        "address": "old-1.vm.vers.sh",
        "registeredBy": "bootloader",
        "reefConfig": dna,
    }

    assert api.post("/vm-tree/vms", {**in_tree, "reefConfig": dna}).status_code == 201
    for _ in range(2):
        assert api.post("/registry/vms", registered).status_code == 201
    assert api.get("/registry/vms/old-1").json()["reefConfig"] == dna


def test_script_has_the_steps_that_pages_show() -> None:
    for step in STEPS:
        assert f"\nstep_{step}() {{" in body()
    assert f"for each in {' '.join(STEPS)}; do" in body()


def _node(vm_id: str) -> str:
    return tree.create(tree.NewNode(vm_id, "agent_vm", vm_id, "", None), by="tests").vm_id
