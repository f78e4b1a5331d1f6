"""The emulated platform's API: everything it describes can be asked, and fits the description."""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from reef_site.demo.platform import response_schema, server
from reef_site.demo.platform.responses import Response
from tests.bootloader.emulator_client import PlatformClient
from tests.emulator.handle import Emulator

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def bare(emulator: Emulator, tmp_path: Path) -> PlatformClient:
    return PlatformClient(emulator, tmp_path)


def test_routes_match_the_openapi_description() -> None:
    routes = {
        (route.method, route.template)
        for drawer in server.ROUTE_MODULES
        for route in drawer.routes.table
        if not route.template.startswith("/emulator")
    }
    assert routes == response_schema.operations()


def test_response_outside_the_schema_is_detected() -> None:
    vms = "/api/v1/vms"
    good = Response(200, b"[]", "application/json")
    assert response_schema.check("GET", vms, good) is None
    for answer in (
        Response(200, b'[{"vm_id": "x"}]', "application/json"),
        Response(200, b"[]", "text/html"),
        Response(418, b"", None),
        Response(200),
    ):
        assert response_schema.check("GET", vms, answer)


class RecordingClient:
    """Sends requests and records the templates of the successful ones."""

    def __init__(self, bare: PlatformClient) -> None:
        self.bare = bare
        self.done: set[tuple[str, str]] = set()

    def __call__(
        self, status: int, method: str, template: str, body: Any = None, **words: str
    ) -> Any:
        path = template.format(**words)
        query = words.get("query", "")
        address = f"{self.bare.emulator.url}{path}{query}"
        answer = self.bare.http.request(method, address, json=body)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        self.done.add((method, template))
        kind = answer.headers.get("content-type", "")
        return answer.json() if "json" in kind and "nd" not in kind else answer.text


@pytest.mark.rotated
def test_every_operation_responds_as_described(emulator: Emulator, bare: PlatformClient) -> None:
    ask = RecordingClient(bare)
    vm_id = bare.create()
    commit_id = exercise_vms(ask, vm_id)
    exercise_branches(ask, vm_id, commit_id)
    exercise_commands(ask, vm_id)
    exercise_names(ask, vm_id, commit_id)
    exercise_account(ask, vm_id)

    asked = {(method, path) for method, path in ask.done}
    assert response_schema.operations() - asked == set()
    assert emulator.violations() == []


def exercise_vms(ask: RecordingClient, vm_id: str) -> str:
    vm = "/api/v1/vm/{vm_id}"
    ask(201, "POST", "/api/v1/vm/new_root", {"vm_config": {"vcpu_count": None}})
    assert len(ask(200, "GET", "/api/v1/vms")) == len(ask(200, "GET", "/api/v1/vm")) == 2
    assert ask(200, "GET", f"{vm}/status", vm_id=vm_id)["vm_id"] == vm_id
    assert "labels" not in ask(200, "GET", f"{vm}/metadata", vm_id=vm_id)
    assert "PRIVATE KEY" in ask(200, "GET", f"{vm}/ssh_key", vm_id=vm_id)["ssh_private_key"]
    ask(200, "PATCH", f"{vm}/label", {"labels": {"a": "1", "b": "2"}}, vm_id=vm_id)
    ask(200, "PATCH", f"{vm}/label", {"labels": None}, vm_id=vm_id)
    ask(200, "DELETE", f"{vm}/label/{{label_name}}", vm_id=vm_id, label_name="a")
    assert ask(200, "GET", f"{vm}/status", vm_id=vm_id)["labels"] == {"b": "2"}
    ask(200, "PUT", f"{vm}/labels", {"labels": {}}, vm_id=vm_id)
    ask(200, "PATCH", f"{vm}/disk", {"fs_size_mib": 2048}, vm_id=vm_id)
    ask(200, "PATCH", f"{vm}/state", {"state": "Paused"}, vm_id=vm_id)
    # A commit wakes a paused VM.
    made = ask(201, "POST", f"{vm}/commit", {"name": "first"}, vm_id=vm_id)
    assert ask(200, "GET", f"{vm}/status", vm_id=vm_id)["state"] == "running"
    child = ask(201, "POST", "/api/v1/vm/from_commit", {"commit_id": made["commit_id"]})
    assert ask(200, "DELETE", vm, vm_id=child["vm_id"]) == child
    commit_id: str = made["commit_id"]
    return commit_id


def exercise_branches(ask: RecordingClient, vm_id: str, commit_id: str) -> None:
    branch = "/api/v1/vm/branch"
    ask(201, "POST", "/api/v1/commit_tags", {"tag_name": "flat", "commit_id": commit_id})
    ask(201, "POST", "/api/v1/repositories", {"name": "repo"})
    tags = "/api/v1/repositories/{repo_name}/tags"
    facts = {"tag_name": "v1", "commit_id": commit_id, "description": "one"}
    assert ask(201, "POST", tags, facts, repo_name="repo")["reference"] == "repo:v1"

    anything = "/api/v1/vm/{vm_or_commit_id}/branch"
    made = ask(201, "POST", anything, vm_or_commit_id=vm_id)["vms"]
    made += ask(201, "POST", anything, vm_or_commit_id=commit_id)["vms"]
    made += ask(201, "POST", f"{branch}/by_vm/{{vm_id}}", vm_id=vm_id)["vms"]
    by_commit = f"{branch}/by_commit/{{commit_id}}"
    assert ask(201, "POST", by_commit, commit_id=commit_id, query="?count=0")["vms"] == []
    made += ask(201, "POST", by_commit, commit_id=commit_id, query="?count=2")["vms"]
    made += ask(201, "POST", f"{branch}/by_tag/{{tag_name}}", tag_name="flat")["vms"]
    by_ref = f"{branch}/by_ref/{{repo_name}}/{{tag_name}}"
    made += ask(201, "POST", by_ref, repo_name="repo", tag_name="v1")["vms"]
    made += [ask(201, "POST", "/api/v1/vm/from_commit", {"ref": "repo:v1"})]
    made += [ask(201, "POST", "/api/v1/vm/from_commit", {"tag_name": "flat"})]
    assert len({each["vm_id"] for each in made}) == 9
    for each in made:
        ask(200, "DELETE", "/api/v1/vm/{vm_id}", vm_id=each["vm_id"])


def exercise_commands(ask: RecordingClient, vm_id: str) -> None:
    vm = "/api/v1/vm/{vm_id}"
    script = 'cat; echo "$COLOUR" $0 >&2; pwd; exit 3'
    order = {
        "command": ["sh", "-c", script],
        "env": {"COLOUR": "green"},
        "stdin": "in, ",
        "working_dir": "/tmp",
        "exec_id": str(uuid.uuid4()),
    }
    found = ask(200, "POST", f"{vm}/exec", order, vm_id=vm_id)
    assert (found["exit_code"], found["stdout"]) == (3, "in, /tmp\n")
    assert (found["stderr"], found["exec_id"]) == ("green sh\n", order["exec_id"])
    assert (
        ask(200, "POST", f"{vm}/exec", {"command": ["no-such-program"]}, vm_id=vm_id)["exit_code"]
        == 127
    )
    quick = {"command": ["sleep", "60"], "timeout_secs": 1}
    assert ask(200, "POST", f"{vm}/exec", quick, vm_id=vm_id)["exit_code"] == 137

    streamed = {"command": ["sh", "-c", "echo 1; echo 2 >&2"], "exec_id": str(uuid.uuid4())}
    lines = ask(200, "POST", f"{vm}/exec/stream", streamed, vm_id=vm_id)
    events = [json.loads(line) for line in lines.splitlines()]
    for event in events:
        assert response_schema.check_schema("VmExecStreamEvent", event) == []
    assert [each["cursor"] for each in events] == [1, 2, 3]
    assert events[-1]["type"] == "exit"
    again = {"exec_id": streamed["exec_id"], "cursor": 2}
    rest = ask(200, "POST", f"{vm}/exec/stream/attach", again, vm_id=vm_id)
    assert [json.loads(line) for line in rest.splitlines()] == events[2:]

    page = ask(200, "GET", f"{vm}/logs", vm_id=vm_id, query="?max_entries=1")
    assert len(page["entries"]) == 1
    assert not page["eof"]
    query = f"?offset={page['next_offset']}&stream=stderr"
    text = [
        each["data_b64"]
        for each in ask(200, "GET", f"{vm}/logs", vm_id=vm_id, query=query)["entries"]
    ]
    assert b"2\n" in b"".join(map(base64.b64decode, text))

    path = "/root/a folder/it's"
    content = base64.b64encode(bytes(range(256))).decode()
    facts = {"path": path, "content_b64": content, "mode": 0o600, "create_dirs": True}
    ask(200, "PUT", f"{vm}/files", facts, vm_id=vm_id)
    found = ask(200, "GET", f"{vm}/files", vm_id=vm_id, query=f"?path={path}")
    assert found["content_b64"] == content


def exercise_names(ask: RecordingClient, vm_id: str, commit_id: str) -> None:
    flat, repo = "/api/v1/commit_tags", "/api/v1/repositories/{repo_name}"
    assert len(ask(200, "GET", flat)["tags"]) == 1
    ask(204, "PATCH", f"{flat}/{{tag_name}}", {"description": "moved"}, tag_name="flat")
    assert ask(200, "GET", f"{flat}/{{tag_name}}", tag_name="flat")["description"] == "moved"
    ask(204, "DELETE", f"{flat}/{{tag_name}}", tag_name="flat")

    one = {"repo_name": "repo", "tag_name": "v1"}
    assert len(ask(200, "GET", "/api/v1/repositories")["repositories"]) == 1
    ask(204, "PATCH", f"{repo}/visibility", {"is_public": True}, repo_name="repo")
    assert ask(200, "GET", repo, repo_name="repo")["is_public"]
    assert len(ask(200, "GET", f"{repo}/tags", repo_name="repo")["tags"]) == 1
    ask(204, "PATCH", f"{repo}/tags/{{tag_name}}", {"commit_id": commit_id}, **one)
    assert ask(200, "GET", f"{repo}/tags/{{tag_name}}", **one)["reference"] == "repo:v1"
    public = "/api/v1/public/repositories"
    org = ask(200, "GET", public)["repositories"][0]["org_name"]
    there = f"{public}/{{org_name}}/{{repo_name}}"
    ask(200, "GET", there, org_name=org, repo_name="repo")
    ask(200, "GET", f"{there}/tags", org_name=org, repo_name="repo")
    ask(200, "GET", f"{there}/tags/{{tag_name}}", org_name=org, **one)
    ask(204, "DELETE", f"{repo}/tags/{{tag_name}}", **one)
    ask(204, "DELETE", repo, repo_name="repo")

    every = ask(200, "GET", "/api/v1/commits", query="?limit=1&offset=1")
    assert (len(every["commits"]), every["total"]) == (1, 3)
    named = {"is_public": True, "name": "renamed"}
    ask(200, "PATCH", "/api/v1/commits/{commit_id}", named, commit_id=commit_id)
    assert ask(200, "GET", "/api/v1/commits/public")["commits"][0]["name"] == "renamed"
    line = ask(200, "GET", "/api/v1/vm/commits/{commit_id}/parents", commit_id=commit_id)
    assert line[0]["parent_vm_id"] == vm_id
    ask(204, "DELETE", "/api/v1/commits/{commit_id}", commit_id=commit_id)


def exercise_account(ask: RecordingClient, vm_id: str) -> None:
    domains = "/api/v1/domains"
    made = ask(201, "POST", domains, {"vm_id": vm_id, "domain": "app.example.com"})
    assert ask(200, "GET", domains, query=f"?vm_id={vm_id}") == [made]
    one = {"domain_id": made["domain_id"]}
    ask(200, "GET", f"{domains}/{{domain_id}}", **one)
    assert ask(200, "DELETE", f"{domains}/{{domain_id}}", **one) == one
    ask(200, "PUT", "/api/v1/env_vars", {"vars": {"A": "1", "B": "2"}})
    ask(204, "DELETE", "/api/v1/env_vars/{key}", key="A")
    assert ask(200, "GET", "/api/v1/env_vars") == {"vars": {"B": "2"}}
    assert ask(200, "PUT", "/api/v1/env_vars", {"vars": {}, "replace": True}) == {"vars": {}}
    assert ask(200, "POST", "/api/v1/keys/validate")["valid"]
    assert ask(200, "GET", "/api/v1/system/version")["git_hash"] == "emulator"
    assert ask(200, "GET", "/api/v1/whoami")["api_key"]["id"] == ask.bare.emulator.key[:36]
    assert ask(200, "GET", "/api/v1/images")["images"][0]["image_name"] == "default"
    assert ask(200, "GET", "/health")["ssh"]["connections_total"] == 0


JSON, TEXT = "application/json", "text/plain; charset=utf-8"
REFUSALS: list[tuple[str, str, Any, int, str | None, str]] = [
    ("GET", "/vm/x/status", None, 400, None, "Cannot parse `vm_id`"),
    ("POST", "/vm/new_root", "no JSON", 400, TEXT, "as JSON"),
    ("POST", "/vm/new_root", {}, 422, TEXT, "missing field"),
    ("POST", "/vm/new_root", {"vm_config": {"vcpu_count": -1}}, 422, TEXT, "vcpu_count"),
    ("POST", "/vm/new_root?wait_boot=x", {"vm_config": {}}, 400, TEXT, "wait_boot"),
    ("POST", "/vm/new_root", {"vm_config": {"image_name": "x"}}, 404, JSON, "image not found: x"),
    ("POST", "/vm/from_commit", {}, 400, TEXT, "as JSON"),
    ("POST", "/vm/from_commit", {"commit_id": NOBODY, "ref": "a:b"}, 400, TEXT, "as JSON"),
    ("POST", "/vm/from_commit", {"ref": "x"}, 400, JSON, "Expected 'repo_name:tag_name'"),
    ("POST", "/vm/from_commit", {"commit_id": NOBODY}, 404, JSON, "commit not found"),
    ("GET", f"/vm/{NOBODY}/status", None, 404, JSON, "not found"),
    ("GET", f"/vm/{NOBODY}/ssh_key", None, 404, JSON, "not found"),
    ("PATCH", f"/vm/{NOBODY}/state", {"state": "Paused"}, 404, JSON, "vm not found"),
    ("PATCH", f"/vm/{NOBODY}/state", {"state": "running"}, 422, TEXT, "unknown variant `running`"),
    ("POST", f"/vm/{NOBODY}/commit", None, 404, JSON, "vm not found"),
    ("DELETE", f"/vm/{NOBODY}", None, 403, JSON, "Forbidden"),
    ("POST", f"/vm/{NOBODY}/branch", None, 404, JSON, "commit not found"),
    ("POST", f"/vm/branch/by_vm/{NOBODY}", None, 404, JSON, "parent vm not found"),
    ("POST", f"/vm/branch/by_vm/{NOBODY}?count=256", None, 400, TEXT, "count"),
    ("POST", "/vm/branch/by_ref/a/b", None, 404, JSON, "tag not found"),
    ("GET", "/repositories/none", None, 404, JSON, "repository not found"),
    ("POST", "/repositories", {"name": "a b"}, 400, JSON, "invalid repository name"),
    ("GET", "/commit_tags/none", None, 404, JSON, "tag not found"),
    ("DELETE", "/env_vars/NONE", None, 404, JSON, "Environment variable not found"),
    ("PUT", "/env_vars", {"vars": {"1": "x"}}, 400, JSON, "invalid environment variable"),
    ("POST", "/domains", {"vm_id": NOBODY, "domain": "x"}, 400, JSON, "invalid domain"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "kind", "text"), REFUSALS)
def test_errors_have_the_platforms_form(
    bare: PlatformClient,
    method: str,
    path: str,
    body: Any,
    status: int,
    kind: str | None,
    text: str,
) -> None:
    content = body if isinstance(body, str) else json.dumps(body) if body is not None else None
    answer = bare.http.request(
        method, path, content=content, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.headers.get("content-type")) == (status, kind)
    assert text in answer.text
    if kind == JSON and "by_" not in path:
        assert answer.json()["success"] is False
    if "by_vm" in path and status == 404:
        assert answer.json() == {"vms": [], "error": "parent vm not found"}


def test_invalid_keys_are_rejected(
    emulator: Emulator, bare: PlatformClient, tmp_path: Path
) -> None:
    stranger = PlatformClient(emulator, tmp_path, "wrong").http
    answer = stranger.get("/vms", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.text) == (403, "403 Forbidden")
    assert "content-type" not in answer.headers
    assert answer.headers["x-request-id"] == "mine"
    assert stranger.get("/public/repositories").status_code == 200

    emulator.set(auth_failure="401", public_without_key=False)
    assert (stranger.get("/vms").status_code, stranger.get("/vms").text) == (401, "")
    assert stranger.get("/public/repositories").status_code == 401


def test_organisations_are_separate(
    emulator: Emulator, bare: PlatformClient, tmp_path: Path
) -> None:
    vm_id = bare.create()
    commit_id = bare.commit(vm_id)
    other = PlatformClient(emulator, tmp_path, emulator.create_key("other")).http
    mate = PlatformClient(emulator, tmp_path, emulator.create_key()).http

    assert other.get("/vms").json() == []
    assert other.get(f"/vm/{vm_id}/status").json()["error"] == "forbidden"
    assert other.delete(f"/vm/{vm_id}").json()["error"] == "Forbidden"
    assert other.post("/vm/from_commit", json={"commit_id": commit_id}).status_code == 403
    assert mate.get("/vms").json()[0]["owner_id"] == emulator.key[:36]
    assert mate.delete(f"/commits/{commit_id}").status_code == 403

    child = bare.restore(commit_id)
    answer = bare.http.delete(f"/commits/{commit_id}")
    assert answer.json()["error"] == "commit still has 1 active VM(s)"
    bare.http.delete(f"/vm/{child}")
    assert bare.http.delete(f"/commits/{commit_id}").status_code == 204
