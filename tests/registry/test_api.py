"""The agents' door: registering, looking, changing, forgetting."""

from __future__ import annotations

from typing import Any

import pytest

from registry.models import VM
from tests.conftest import Api
from tests.registry.conftest import Register, age


def patch(api: Api, vm_id: str, body: object) -> Any:
    return api.client.patch(f"/registry/vms/{vm_id}", body, content_type="application/json")


def ids(answer: Any, key: str = "vms") -> list[str]:
    found = answer.json()
    assert found["count"] == len(found[key])
    return [vm["id"] for vm in found[key]]


def test_pagination_is_stable_during_heartbeats(api: Api, register: Register) -> None:
    for number in range(7):
        register(f"vm-{number}")
    seen: list[str] = []
    path = "/registry/vms?limit=3"
    while path:
        page = api.get(path)
        seen += ids(page)
        api.post(f"/registry/vms/{seen[0]}/heartbeat")
        following = page.json()["next"]
        path = f"/registry/vms?limit=3&cursor={following}" if following else ""
    assert seen == [f"vm-{number}" for number in range(7)]
    assert "next" not in api.get("/registry/vms").json()


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "1e3", "9" * 30])
def test_invalid_limit_is_rejected(api: Api, database: str, limit: str) -> None:
    answer = api.get(f"/registry/vms?limit={limit}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("limit: ")


def test_silent_vms_are_not_listed_as_running(api: Api, register: Register) -> None:
    register("here")
    register("gone")
    age("gone", minutes=6)
    assert ids(api.get("/registry/vms?status=running")) == ["here"]
    assert ids(api.get("/registry/discover/worker")) == ["here"]
    everybody = {vm["id"]: vm for vm in api.get("/registry/vms").json()["vms"]}
    assert everybody["gone"]["status"] == "running"
    assert {key: vm["liveness"] for key, vm in everybody.items()} == {
        "here": "live",
        "gone": "silent",
    }


def test_parent_can_be_changed_and_cleared_but_never_forms_a_cycle(
    api: Api, register: Register
) -> None:
    register("a")
    register("b", parentVmId="a")
    register("c", parentVmId="b")
    for vm_id, parent in (("a", "c"), ("a", "a"), ("b", "c")):
        answer = patch(api, vm_id, {"parentVmId": parent})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("parentVmId: ")
        body = {"id": vm_id, "name": "n", "role": "worker", "address": "x", "registeredBy": "t"}
        assert api.post("/registry/vms", {**body, "parentVmId": parent}).status_code == 400
    assert patch(api, "c", {"parentVmId": "a"}).json()["parentVmId"] == "a"
    assert patch(api, "c", {"parentVmId": None}).json()["parentVmId"] is None
    assert patch(api, "c", {"parentVmId": "unknown"}).json()["parentVmId"] == "unknown"
    assert register("c", parentVmId=None)["parentVmId"] is None


def test_late_registration_cannot_close_a_cycle_of_parents(api: Api, register: Register) -> None:
    register("child", parentVmId="ghost")
    body = {"id": "ghost", "name": "n", "role": "worker", "address": "x", "registeredBy": "t"}
    assert api.post("/registry/vms", {**body, "parentVmId": "child"}).status_code == 400
    assert register("ghost")["parentVmId"] is None


def test_ids_with_slashes_work_in_every_route(api: Api, register: Register) -> None:
    register("a/b c")
    register("child", parentVmId="a/b c")
    path = "/registry/vms/a%2Fb%20c"
    assert api.get(path).json()["id"] == "a/b c"
    assert ids(api.get(f"{path}/children"), "children") == ["child"]
    assert ids(api.get(f"{path}/subtree"), "subtree") == ["a/b c", "child"]
    assert api.post(f"{path}/heartbeat").json()["id"] == "a/b c"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"id": 5}, "id: must be a string"),
        ({"id": "x\u0000y"}, "id: has characters that are no text"),
        ({"id": "x" * 256}, "id: at most 255 characters"),
        ({"name": "\ud800"}, "name: has characters that are no text"),
        ({"role": {"a": 1}}, 'invalid role: {"a": 1}'),
        ({"role": "\ud800"}, "role: has characters that are no text"),
        ({"parentVmId": 5}, "parentVmId: must be a string"),
        ({"services": "str"}, "services: must be a list"),
        ({"services": [{"name": "\ud800"}]}, "services[0].name: has characters that are no text"),
        ({"reefConfig": {"organs": "a"}}, "reefConfig.organs: must be a list of text"),
        ({"reefConfig": []}, "reefConfig: must be an object"),
        ({"reefConfig": {"organs": [1], "capabilities": []}}, "reefConfig.organs: must be"),
        ({"metadata": {"a": "\u0000"}}, "metadata: has characters that are no text"),
        ({"metadata": {"a": "\\\u0000"}}, "metadata: has characters that are no text"),
        ({"metadata": {"a": 1 << 70}}, "metadata: cannot be kept"),
        ({"metadata": "x" * (300 << 10)}, "metadata: has 307202 bytes"),
    ],
)
def test_invalid_registration_is_rejected_with_its_field(
    api: Api, database: str, body: dict[str, object], text: str
) -> None:
    whole = {"id": "x", "name": "n", "role": "worker", "address": "a", "registeredBy": "t"}
    answer = api.post("/registry/vms", {**whole, **body})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)
    assert not VM.objects.exists()


@pytest.mark.parametrize("path", ["x%00y", "%ED%A0%80", "none"])
def test_impossible_ids_are_a_404(api: Api, database: str, path: str) -> None:
    for answer in (
        api.get(f"/registry/vms/{path}"),
        api.get(f"/registry/vms/{path}/ancestors"),
        api.get(f"/registry/vms/{path}/subtree"),
        api.post(f"/registry/vms/{path}/heartbeat"),
        api.delete(f"/registry/vms/{path}"),
        patch(api, path, {}),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"error": "VM not found"}


def test_panel_escapes_names(api: Api, register: Register) -> None:
    register("vm", name="<script>alert(1)</script>")
    html = api.get("/registry/_panel").content.decode()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_errors_of_unknown_paths_are_json(api: Api, database: str) -> None:
    for path in ("/registry", "/registry/", "/registry/nope", "/registry/discover"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
    assert (
        api.client.get("/registry/vms", headers={"authorization": "Bearer no"}).status_code == 401
    )
    assert api.client.put("/registry/vms").status_code == 405


def test_escaped_backslash_in_metadata_is_not_a_nul(api: Api, database: str) -> None:
    """The pattern contains a backslash and digits, but no NUL character."""
    pattern = {"allowed": r"[^\u0000-\u001f]"}
    body = {"id": "x", "name": "n", "role": "worker", "address": "a", "registeredBy": "t"}
    answer = api.post("/registry/vms", {**body, "metadata": pattern})
    assert answer.status_code == 201
    assert answer.json()["metadata"] == pattern
