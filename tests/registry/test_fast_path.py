"""The hot routes answer what the DRF routes answer: both are asked the same things."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from reef_site.common import clock
from reef_site.common.asgi import JSONResponse
from registry import fast_path, fast_reads, fast_routes, fast_writes
from registry.models import VM
from tests import both_paths
from tests.postgres import Cluster
from tests.registry.conftest import Register, age
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node, Trait
from vmtree.queries import tree_version

ROOT = "root"
ONE = fast_routes.ROUTES["registry.vm"]


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
    Case("list", "GET", "/registry/vms"),
    Case("list, by a node", "GET", "/registry/vms/", token="low"),
    Case("list, revoked token", "GET", "/registry/vms", token="revoked"),
    Case("list by role", "GET", "/registry/vms?role=worker"),
    Case("list by no role", "GET", "/registry/vms?role=boss", token="low"),
    Case("list of running ones", "GET", "/registry/vms/?status=running"),
    Case("list of paused ones", "GET", "/registry/vms?status=paused"),
    Case("list by parent", "GET", "/registry/vms?parentVmId=ghost"),
    Case("list by an alias", "GET", "/registry/vms?parentVmId=local-x", answered=False),
    Case("list by two filters", "GET", "/registry/vms?role=a&status=b", answered=False),
    Case("list by an empty filter", "GET", "/registry/vms?role=", answered=False),
    Case("list by an encoded filter", "GET", "/registry/vms?role=%61", answered=False),
    Case("list by liveness", "GET", "/registry/vms?liveness=late", answered=False),
    Case("misspelled filter", "GET", "/registry/vms?rolle=worker", answered=False),
    Case("nodes by category", "GET", "/vm-tree/vms?category=agent_vm"),
    Case("nodes by parent", "GET", "/vm-tree/vms?parentVmId=top", token="mid"),
    Case("nodes by a removed parent", "GET", "/vm-tree/vms?parentVmId=gone-node"),
    Case("nodes by no parent", "GET", "/vm-tree/vms?parentVmId=none"),
    Case("children", "GET", "/registry/vms/top/children"),
    Case("no children", "GET", "/registry/vms/low/children"),
    Case("children of nobody", "GET", "/registry/vms/ghost/children"),
    Case("subtree", "GET", "/registry/vms/top/subtree"),
    Case("subtree of an encoded id", "GET", "/registry/vms/v%C3%BC%20m/subtree"),
    Case("subtree of nobody", "GET", "/registry/vms/none/subtree"),
    Case("node", "GET", "/vm-tree/vms/mid"),
    Case("no node", "GET", "/vm-tree/vms/none"),
    Case("removed node", "GET", "/vm-tree/vms/gone-node"),
    Case("node of an alias", "GET", "/vm-tree/vms/local-x", answered=False),
    Case("node and what is removed", "GET", "/vm-tree/vms/x?includeRemoved=true", answered=False),
    Case("nodes", "GET", "/vm-tree/vms", token="mid"),
    Case("ancestors of a node", "GET", "/vm-tree/vms/low/ancestors"),
    Case("ancestors of a root", "GET", "/vm-tree/vms/top/ancestors"),
    Case("ancestors of no node", "GET", "/vm-tree/vms/none/ancestors"),
    Case("descendants of a node", "GET", "/vm-tree/vms/top/descendants"),
    Case("no descendants", "GET", "/vm-tree/vms/low/descendants"),
    Case("descendants of a removed node", "GET", "/vm-tree/vms/gone-node/descendants"),
    Case("children of a node", "GET", "/vm-tree/vms/top/children", token="mid"),
    Case("children of no node", "GET", "/vm-tree/vms/none/children"),
    Case("find by organ", "GET", "/vm-tree/find/organ/st%C3%B6re"),
    Case("find by capability", "GET", "/vm-tree/find/capability/ssh"),
    Case("find nothing", "GET", "/vm-tree/find/organ/none"),
    Case("tree", "GET", "/vm-tree/tree"),
    Case("tree, made-up token", "GET", "/vm-tree/tree", token="reef_nonsense"),
    Case("tree of a root", "GET", "/vm-tree/tree?root=mid", token="mid"),
    Case("tree of a removed root", "GET", "/vm-tree/tree?root=gone-node"),
    Case("tree of no root", "GET", "/vm-tree/tree/?root=none"),
    Case("tree of an alias", "GET", "/vm-tree/tree?root=local-x", answered=False),
    Case("tree with a depth", "GET", "/vm-tree/tree?root=mid&depth=1", answered=False),
    Case("flat tree", "GET", "/vm-tree/tree?flat=true", token="low"),
    Case("flat tree of a root", "GET", "/vm-tree/tree?root=mid&flat=1"),
    Case("flat tree of no root", "GET", "/vm-tree/tree?flat=true&root=none"),
    Case("tree since", "GET", "/vm-tree/tree?since=2026-11-22T06:21:09.098Z"),
    Case("tree since, encoded", "GET", "/vm-tree/tree?since=2026-11-22T06%3A21%3A09Z&flat=true"),
    Case("subtree since", "GET", "/vm-tree/tree?since=2026-11-22T06:21:09.098Z&root=top"),
    Case("tree since the future", "GET", "/vm-tree/tree?since=2126-11-22T06:21:09.098Z"),
    Case("tree since never", "GET", "/vm-tree/tree?since=never", answered=False),
    Case("flat twice", "GET", "/vm-tree/tree?flat=true&flat=true", answered=False),
    Case("not flat", "GET", "/vm-tree/tree?flat=false", answered=False),
    Case("tree at a time", "GET", "/vm-tree/tree?at=2026-11-22T06:21:09.098Z", answered=False),
    Case("diff", "GET", "/vm-tree/vms/top/diff/mid", token="low"),
    Case("diff with one that has no composition", "GET", "/vm-tree/vms/top/diff/paused/"),
    Case("diff with itself", "GET", "/vm-tree/vms/top/diff/top"),
    Case("diff with nobody", "GET", "/vm-tree/vms/top/diff/none"),
    Case("diff with a removed node", "GET", "/vm-tree/vms/gone-node/diff/top"),
    Case("diff with an alias", "GET", "/vm-tree/vms/top/diff/local-x", answered=False),
    Case("stats", "GET", "/vm-tree/stats", token="mid"),
    Case("profiles", "GET", "/bootloader/profiles", token="mid"),
    Case("profile", "GET", "/bootloader/profiles/swarm/"),
    Case("no profile", "GET", "/bootloader/profiles/none", answered=False),
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
    for vm_id, parent, removed in (
        *(("top", None, None), ("mid", "top", None), ("low", "mid", None)),
        *(("paused", "top", None), ("gone-node", "top", clock.now())),
    ):
        made[vm_id] = Node.objects.create(
            vm_id=vm_id,
            name=f'{vm_id} "\\/\t\x1f\x7f\u2028ü',
            category="agent_vm",
            parent=made.get(parent or ""),
            reef_config=None if vm_id == "paused" else dna,
            removed_at=removed,
            destroyed_at=clock.now() if vm_id == "low" else None,
        )
        for kind, name in (("organ", "störe"), ("capability", "ssh")):
            Trait.objects.create(node=made[vm_id], kind=kind, name=name, position=0)
    revoked = tokens.issue(made["paused"], made_by="tests")
    tokens.revoke(made["paused"], by="tests")
    return {
        ROOT: settings.ROOT_TOKEN,
        "mid": tokens.issue(made["mid"], made_by="tests"),
        "low": tokens.issue(made["low"], made_by="tests"),
        "revoked": revoked,
    }


def ask_fast_path(case: Case, header: str) -> JSONResponse | None:
    """Return the fast path's response, computed in this thread to see the test's transaction."""
    path, _, query = case.path.encode().partition(b"?")
    scope = {"method": case.method, "raw_path": path, "query_string": query}
    route = fast_path.FastPath.route(scope)
    if route is None:
        return None
    headers = {b"authorization": header.encode(), b"host": b"testserver"}
    parsed = fast_path.parse(route, headers, case.body)
    if isinstance(parsed, fast_writes.WriteRequest):
        return fast_writes.write(lambda _: None, [parsed])[0]
    if isinstance(parsed, fast_reads.ReadRequest):
        return fast_reads.Reader().read([parsed])[0]
    assert isinstance(parsed, JSONResponse | None)
    return parsed


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
    if case.method == "GET":
        without_until = both_paths.without_until
        bodies = without_until(fast.body), without_until(django.content)
        assert (fast.status, bodies[0]) == (django.status_code, bodies[1]), case.name
        etag = dict(fast.headers).get(b"etag", b"").decode()
        assert etag == django.headers.get("ETag", "") or b'"until"' in fast.body, case.name
    answers = (
        (fast.status, without_times(fast.body)),
        (django.status_code, without_times(django.content)),
    )
    assert answers[0] == answers[1] or b'"until"' in fast.body, case.name
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
        ("GET", b"/registry/vms/x/heartbeat"),
        ("POST", b"/registry/vms/x"),
        ("HEAD", b"/registry/vms/x"),
        ("GET", b"/registry/vms/x/gaps"),
        ("GET", b"/vm-tree/vms/x/history"),
        ("GET", b"/vm-tree/find/nothing/x"),
        ("GET", b"/registry/vms/%00"),
        ("GET", b"/registry/vms/%ff"),
        ("GET", b"/lieutenant/hosts"),
    ],
)
def test_other_requests_are_passed_on(method: str, path: bytes) -> None:
    assert fast_path.FastPath.route({"method": method, "raw_path": path}) is None


@pytest.mark.parametrize("name", ["beat", "bulk"])
def test_body_that_takes_long_to_parse_is_passed_on(name: str) -> None:
    headers = {b"host": b"testserver", b"authorization": b"Bearer reef_" + b"x" * 43}
    for count, is_passed_on in ((1000, False), (60_000, True)):
        nested = b"[" + b",".join([b"[]"] * count) + b"]"
        body = b'{"ids": [], "status": "running", "x": ' + nested + b"}"
        assert (fast_path.parse((name, "vm-1"), headers, body) is None) == is_passed_on


def test_session_or_another_host_is_passed_on(register: Register) -> None:
    register("vm")
    good = f"Bearer {settings.ROOT_TOKEN}".encode()
    ask = fast_path.parse
    assert ask((ONE, "vm"), {b"host": b"testserver"}, b"") is None
    assert ask((ONE, "vm"), {b"authorization": good, b"host": b"elsewhere"}, b"") is None
    assert ask((ONE, "vm"), {b"authorization": good, b"host": b"testserver"}, b"") is not None


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


TREE_PATHS = (b"/vm-tree/tree", b"/vm-tree/find/organ/new", b"/vm-tree/vms/mid/descendants")


def read_all(reader: fast_reads.Reader, token: str) -> list[tuple[int, bytes]]:
    """Return status and body of some reads of the tree, all in one batch."""
    headers = {b"authorization": f"Bearer {token}".encode(), b"host": b"testserver"}
    requests = []
    for path in TREE_PATHS:
        route = fast_path.FastPath.route({"method": "GET", "raw_path": path})
        assert route
        parsed = fast_path.parse(route, headers, b"")
        assert isinstance(parsed, fast_reads.ReadRequest)
        requests.append(parsed)
    return [(each.status, each.body) for each in reader.read(requests) if each]


def test_what_is_remembered_of_the_tree_is_as_new(fleet_tokens: dict[str, str]) -> None:
    reader, token = fast_reads.Reader(), fleet_tokens["mid"]
    changes: list[Callable[[], object]] = [
        lambda: tree.change("low", tree.NodeChange(name="renamed"), by="tests"),
        lambda: tree.create(tree.NewNode("x", "agent_vm", "x", "mid"), by="tests"),
        lambda: tree.change("x", tree.NodeChange(dna={"organs": ["new"]}), by="tests"),
        lambda: Trait.objects.filter(name="new").delete(),
        lambda: Node.objects.filter(vm_id="x").update(category="infra_vm"),
        lambda: tree.remove("x", by="tests"),
    ]
    for change in changes:
        before = read_all(reader, token)
        assert read_all(reader, token) == before
        change()
        after = read_all(reader, token)
        assert after == read_all(fast_reads.Reader(), token)
        assert after != before
    tree.revoke_tokens("mid", by="tests")
    assert [status for status, _ in read_all(reader, token)] == [401] * len(TREE_PATHS)


@pytest.mark.usefixtures("database")
def test_a_migration_keeps_the_triggers_of_the_version_of_the_tree() -> None:
    # SQLite drops the triggers of a table that a migration replaces: it must create them again.
    assert tree_version.is_kept()


@pytest.mark.postgres
def test_a_change_that_commits_after_a_later_one_is_seen(postgres: Cluster) -> None:
    tree.create(tree.NewNode("x", "agent_vm", "a"), by="tests")
    link = {"host": str(postgres.home), "user": "reef", "dbname": connection.settings_dict["NAME"]}
    versions = [tree_version.current()]
    with psycopg.connect(**link) as slow, psycopg.connect(**link, autocommit=True) as quick:
        slow.execute("UPDATE vmtree_node SET name = 'slow'")
        versions.append(tree_version.current())
        quick.execute("DELETE FROM vmtree_trait")
        versions.append(tree_version.current())
        slow.commit()
        versions.append(tree_version.current())
        slow.execute("UPDATE vmtree_node SET name = 'undone'")
        slow.rollback()
        versions.append(tree_version.current())
    assert versions[0] == versions[1]
    assert versions[3] == versions[4]
    assert len(set(versions)) == 3


@pytest.mark.postgres
def test_marks_of_the_version_are_removed_on_the_way(postgres: Cluster) -> None:
    versions = set()
    with connection.cursor() as cursor:
        for _ in range(1500):
            cursor.execute("DELETE FROM vmtree_trait")
        for _ in range(50):
            cursor.execute("DELETE FROM vmtree_trait")
            versions.add(tree_version.current())
        cursor.execute("SELECT count(*) FROM vmtree_version")
        ((count,),) = cursor.fetchall()
    assert 0 < count < 1000
    assert len(versions) == 50


@pytest.mark.parametrize("extra", [{}, {"accept-encoding": "gzip"}, {"accept-encoding": "br"}])
def test_large_responses_are_compressed_and_304_as_by_django(
    fleet_tokens: dict[str, str], extra: dict[str, str]
) -> None:
    for number in range(30):
        tree.create(tree.NewNode("x", "agent_vm", f"x-{number}", "low"), by="tests")
    client = Client(headers={"authorization": f"Bearer {fleet_tokens['mid']}", **extra})
    before = both_paths.compared.total()
    # `both_paths` compares each of these with the fast path.
    for path in ("/vm-tree/tree", "/registry/vms/low", "/vm-tree/vms/low/descendants"):
        etag = client.get(path)["ETag"]
        for known in (etag, f'"x", {etag}', "*", '"x"'):
            again = client.get(path, headers={"if-none-match": known})
            assert again.status_code == (200 if known == '"x"' else 304)
    assert both_paths.compared.total() == before + 15
