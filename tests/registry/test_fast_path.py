"""The hot routes answer what the DRF routes answer: both are asked the same things."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from reef_site.common.asgi import JSONResponse
from registry import fast_path
from registry.models import VM
from tests.registry.conftest import Register, age
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node

ROOT = "root"


@dataclass(frozen=True)
class Case:
    """A request. `answered` is False if the fast path passes it on to Django."""

    name: str
    method: str
    path: str
    body: bytes = b""
    token: str = ROOT
    answered: bool = True


def beats(*ids: str, **more: object) -> bytes:
    return json.dumps({"ids": ids, **more}).encode()


CASES = [
    Case("beat", "POST", "/registry/vms/top/heartbeat"),
    Case("beat, trailing slash", "POST", "/registry/vms/top/heartbeat/"),
    Case("beat with a body that was always ignored", "POST", "/registry/vms/top/heartbeat", b"{x"),
    Case("beat that says more", "POST", "/registry/vms/top/heartbeat", b'{"load":1,"disk":2.5}'),
    Case("beat of a paused one", "POST", "/registry/vms/paused/heartbeat"),
    Case("beat of an old time", "POST", "/registry/vms/top/heartbeat", b'{"at":"2020-01-01"}'),
    Case(
        "beat with another DNA",
        "POST",
        "/registry/vms/top/heartbeat",
        b'{"reefConfigDigest":"abc"}',
    ),
    Case("beat of nobody", "POST", "/registry/vms/none/heartbeat"),
    Case("beat of an encoded id", "POST", "/registry/vms/v%C3%BC%20m/heartbeat"),
    Case("beat of an id with a slash", "POST", "/registry/vms/a%2Fb/heartbeat", answered=False),
    Case(
        "beat with nonsense",
        "POST",
        "/registry/vms/top/heartbeat",
        b'{"status":"dead"}',
        answered=False,
    ),
    Case("beat by itself", "POST", "/registry/vms/mid/heartbeat", token="mid"),
    Case("beat from above", "POST", "/registry/vms/low/heartbeat", token="mid"),
    Case("beat from below", "POST", "/registry/vms/top/heartbeat", token="mid", answered=False),
    Case("beat from beside", "POST", "/registry/vms/paused/heartbeat", token="mid", answered=False),
    Case("a node beats for nobody", "POST", "/registry/vms/none/heartbeat", b"", "mid", False),
    Case("revoked token", "POST", "/registry/vms/top/heartbeat", token="revoked"),
    Case("made-up token", "POST", "/registry/vms/top/heartbeat", token="reef_nonsense"),
    Case("wrong token", "GET", "/registry/vms/top", token="nonsense"),
    Case("empty token", "GET", "/registry/vms/top", token=""),
    Case("bulk", "POST", "/registry/heartbeats", beats("top", "none", "mid")),
    Case(
        "bulk that says more",
        "POST",
        "/registry/heartbeats",
        beats(beats=[{"id": "top", "load": 3}]),
    ),
    Case("bulk of nobody", "POST", "/registry/heartbeats", beats("none")),
    Case("empty bulk", "POST", "/registry/heartbeats", beats()),
    Case("bulk of a subtree", "POST", "/registry/heartbeats", beats("mid", "low"), "mid"),
    Case(
        "bulk that reaches out", "POST", "/registry/heartbeats", beats("low", "top"), "mid", False
    ),
    Case("bulk without ids", "POST", "/registry/heartbeats", b"{}", answered=False),
    Case("bulk that is no JSON", "POST", "/registry/heartbeats", b"{x", answered=False),
    Case("bulk, revoked token", "POST", "/registry/heartbeats", beats("top"), "revoked"),
    Case("one", "GET", "/registry/vms/mid"),
    Case("one, by a node", "GET", "/registry/vms/top", token="mid"),
    Case("one with metadata null", "GET", "/registry/vms/paused"),
    Case("one that is silent", "GET", "/registry/vms/gone"),
    Case("one with vitals and odd letters", "GET", "/registry/vms/v%C3%BC%20m"),
    Case("none", "GET", "/registry/vms/none"),
    Case("one, revoked token", "GET", "/registry/vms/top", token="revoked"),
    Case("discover", "GET", "/registry/discover/worker"),
    Case("discover, trailing slash", "GET", "/registry/discover/worker/"),
    Case("discover nobody", "GET", "/registry/discover/boss"),
    Case("ancestors", "GET", "/registry/vms/low/ancestors"),
    Case("ancestors with an unknown parent", "GET", "/registry/vms/orphan/ancestors"),
    Case("ancestors of nobody", "GET", "/registry/vms/none/ancestors"),
]


@pytest.fixture
def fleet_tokens(register: Register) -> dict[str, str]:
    """Create a few VMs in registry and tree, and return tokens by name."""
    dna = {"organs": ["störe"], "capabilities": ["ssh"]}
    register("top", role="infra", reefConfig=dna, services=[{"name": "reef", "port": 3000}])
    register(
        "mid", role="lieutenant", parentVmId="top", metadata={"ä": [1.5, None, {"b": "\u2028"}]}
    )
    register("low", parentVmId="mid")
    register("orphan", parentVmId="ghost")
    register("gone")
    register("paused")
    register("a/b")
    register("vü m", name='q"uo\\te <b>')
    VM.objects.filter(pk="vü m").update(vitals={"load": 1.25, "disk": 7})
    VM.objects.filter(pk="paused").update(
        status="paused", late_after=None, silent_after=None, has_metadata=True
    )
    age("gone", minutes=9)
    made: dict[str, Node] = {}
    for vm_id, parent in (("top", None), ("mid", "top"), ("low", "mid"), ("paused", "top")):
        made[vm_id] = Node.objects.create(
            vm_id=vm_id, name=vm_id, category="agent_vm", parent=made.get(parent or "")
        )
    revoked = tokens.issue(made["paused"], made_by="tests")
    tokens.revoke(made["paused"])
    return {
        ROOT: settings.ROOT_TOKEN,
        "mid": tokens.issue(made["mid"], made_by="tests"),
        "revoked": revoked,
    }


def ask_fast_path(case: Case, header: str) -> JSONResponse | None:
    """Return the fast path's response, computed in this thread to see the test's transaction."""
    path = case.path.encode()
    route = fast_path.FastPath.route({"method": case.method, "raw_path": path})
    if route is None:
        return None
    headers = {b"authorization": header.encode(), b"host": b"testserver"}
    parsed = fast_path.parse(route, headers, case.body)
    if isinstance(parsed, fast_path.WriteRequest):
        return fast_path.write(lambda _: None, [parsed])[0]
    return fast_path.read([parsed])[0] if isinstance(parsed, fast_path.ReadRequest) else parsed


def ask_django(case: Case, header: str) -> Any:
    return Client().generic(
        case.method,
        case.path,
        case.body,
        content_type="application/json",
        headers={"authorization": header},
    )


def test_fast_path_and_django_respond_and_act_equally(fleet_tokens: dict[str, str]) -> None:
    before = rows()
    for case in CASES:
        check(case, f"Bearer {fleet_tokens.get(case.token, case.token)}", before)
        restore(before)


def check(case: Case, header: str, before: dict[str, dict[str, Any]]) -> None:
    fast = ask_fast_path(case, header)
    assert (fast is not None) == case.answered, case.name
    after = rows()
    if fast is None:
        assert after == before, case.name
        return
    restore(before)
    django = ask_django(case, header)
    answers = (
        (fast.status, without_times(fast.body)),
        (django.status_code, without_times(django.content)),
    )
    assert answers[0] == answers[1], case.name
    assert_equal_rows(after, rows())
    if fast.status == 401:
        assert django.headers["WWW-Authenticate"] == "Bearer"


def rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: dict(row) for row in VM.objects.values()}


def restore(before: dict[str, dict[str, Any]]) -> None:
    for pk, row in before.items():
        VM.objects.filter(pk=pk).update(**row)


def assert_equal_rows(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    """Check that rows are equal, except for times that differ by the duration of the test."""
    assert one.keys() == other.keys()
    for pk, row in one.items():
        for name, value in row.items():
            other_value = other[pk][name]
            if hasattr(value, "timestamp"):
                assert abs(value.timestamp() - other_value.timestamp()) < 30, (pk, name)
            elif name == "vitals":
                # The skew depends on the time of the request.
                skews = [each.pop("clockSkewSeconds", 0) for each in (value, other_value)]
                assert abs(skews[0] - skews[1]) < 30, (pk, name)
                assert value == other_value, (pk, name)
            else:
                assert value == other_value, (pk, name)


def without_times(body: bytes) -> Any:
    """Return keys in order with their values, except for values that depend on the clock."""
    found = json.loads(body)
    for each in [found, *found.get("vms", []), *found.get("ancestors", [])]:
        for key in ("lastSeen", "nextBeatInMs"):
            if key in each:
                each[key] = type(each[key]).__name__
    return json.dumps(found)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", b"/registry/vms"),
        ("GET", b"/registry/vms/x/heartbeat"),
        ("POST", b"/registry/vms/x"),
        ("HEAD", b"/registry/vms/x"),
        ("GET", b"/registry/vms/x/children"),
        ("GET", b"/registry/vms/%00"),
        ("GET", b"/registry/vms/%ff"),
        ("GET", b"/lieutenant/lieutenants"),
    ],
)
def test_other_requests_are_passed_on(method: str, path: bytes) -> None:
    assert fast_path.FastPath.route({"method": method, "raw_path": path}) is None


def test_session_or_another_host_is_passed_on(register: Register) -> None:
    register("vm")
    good = f"Bearer {settings.ROOT_TOKEN}".encode()
    ask = fast_path.parse
    assert ask(("vm", "vm"), {b"host": b"testserver"}, b"") is None
    assert ask(("vm", "vm"), {b"authorization": good, b"host": b"elsewhere"}, b"") is None
    assert ask(("vm", "vm"), {b"authorization": good, b"host": b"testserver"}, b"") is not None


def test_revoked_token_is_rejected_in_the_next_request(
    fleet_tokens: dict[str, str],
) -> None:
    case = Case("beat", "POST", "/registry/vms/mid/heartbeat")
    header = f"Bearer {fleet_tokens['mid']}"
    first = ask_fast_path(case, header)
    assert first is not None
    assert first.status == 200
    tree.revoke_tokens("top", by="tests")
    second = ask_fast_path(case, header)
    assert second is not None
    assert second.status == 401
