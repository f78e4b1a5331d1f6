"""The fleet's pages knocked at as a browser does it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from lieutenants.models import Lieutenant
from reef_site.common import clock
from reef_site.dashboard import aggregate_health
from reef_site.edge.fleet_stream import MAX_NODES, Listener
from registry import services as registry
from registry.models import VM, Gap, Watch
from registry.rules import engine
from registry.rules.models import Rule
from tests.conftest import Api
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import enlist
from tests.registry.conftest import age
from tests.vmtree.planted import plant, set_long_uptime
from vmtree import services
from vmtree.models import Node, Revision
from vmtree.services import UNCHANGED, NewNode, NodeChange
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import files

__all__ = ["operator"]

pytestmark = pytest.mark.django_db
EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def _long_uptime(db: None, settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    set_long_uptime()


def add_vm(api: Api, vm_id: str, under: str = "", *, registered: bool = True, **more: Any) -> Node:
    """Create a VM in the tree, and register it."""
    dna = {"organs": more.pop("organs", []), "capabilities": more.pop("capabilities", [])}
    new = NewNode(more.pop("name", vm_id), more.pop("category", "agent_vm"), vm_id, under, dna)
    node = services.create(new, by="tests")
    if registered:
        body = {"id": vm_id, "name": vm_id, "role": "worker", "address": "x", "registeredBy": "t"}
        assert api.post("/registry/vms", {**body, **more}).status_code == 201
    return node


def page(client: Client, path: str, status: int = 200) -> str:
    """Return the page, with each whitespace as one space."""
    answer = client.get(path)
    assert answer.status_code == status, answer.content
    return " ".join(answer.content.decode().split())


def row(html: str, node: Node) -> str:
    """Return the HTML of a node's row."""
    found = re.search(rf'<div role="treeitem"[^>]*id="n{node.pk}".*?</div>', html, re.DOTALL)
    assert found, f"{node} has no row"
    return found[0]


# -- access ------------------------------------------------------------------------------------

PATHS = ["", "_tree", "_children/0", "vm?vm=x", "picture/", "picture/_drawing", "1/", "1/_facts"]
PATHS += ["then/", "then/_children/0", "snapshots/", "snapshots/compare", "snapshots/1/restore"]


@pytest.mark.parametrize("path", PATHS)
def test_anonymous_users_are_redirected_to_sign_in(client: Client, path: str) -> None:
    answer = client.get(f"/fleet/{path}")
    assert answer.status_code == 302
    assert answer["Location"].startswith("/signin/?next=")


def test_pages_have_no_inline_script_or_style(operator: Client, api: Api) -> None:
    ada = add_vm(api, "ada", name=EVIL, organs=[EVIL])
    paths = ["", "?q=ada", "?q=foo:bar", "picture/", f"{ada.pk}/", "then/", "snapshots/"]
    for path in paths:
        html = operator.get(f"/fleet/{path}").content.decode()
        assert EVIL not in html
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=\"", html), path


# -- rows --------------------------------------------------------------------------------------


def test_empty_tree_shows_a_hint(operator: Client) -> None:
    assert "No VMs in the tree yet" in page(operator, "/fleet/")
    assert "No VMs in the tree yet" in page(operator, "/")


def test_row_shows_state_and_composition(operator: Client, api: Api) -> None:
    names = ["store", "cron", "mail", "tasks"]
    ada = add_vm(api, "ada", category="lieutenant", organs=names, capabilities=["ssh"])
    add_vm(api, "child", "ada")
    html = row(page(operator, "/fleet/"), ada)
    assert 'is-live">live' in html
    assert ">store<" in html
    assert ">tasks<" not in html
    assert "+2" in html
    assert "organs: store, cron, mail, tasks · capabilities: ssh" in html
    assert 'aria-expanded="false"' in html
    assert 'class="vm-count">1' in html


@pytest.mark.parametrize(
    ("minutes", "status", "word"),
    [
        (0, "running", "live"),
        (4, "running", "late"),
        (9, "running", "silent"),
        (9, "paused", "paused"),
        (9, "stopped", "stopped"),
    ],
)
def test_states_are_shown_and_searchable(
    operator: Client, api: Api, minutes: int, status: str, word: str
) -> None:
    top = add_vm(api, "top", registered=False)
    middle = add_vm(api, "middle", "top")
    low = add_vm(api, "low", "middle")
    api.client.patch("/registry/vms/low", {"status": status}, content_type="application/json")
    age("low", minutes=minutes)
    html = page(operator, f"/fleet/_children/{middle.pk}")
    assert f"is-{word}" in row(html, low)
    ancestors = page(operator, "/fleet/")
    assert "is-unknown" in row(ancestors, top)
    assert (f"is-{word}" in row(ancestors, top)) == (word != "live")
    found = page(operator, f"/fleet/_tree?q={word}")
    assert "is-match" in row(found, low)


def test_row_shows_the_worst_state_of_active_descendants(operator: Client, api: Api) -> None:
    top = add_vm(api, "top")
    add_vm(api, "late", "top")
    add_vm(api, "silent", "top")
    age("late", minutes=4)
    age("silent", minutes=9)
    assert "is-silent" in row(page(operator, "/fleet/"), top)
    services.remove("silent", by="tests")
    assert "is-late" in row(page(operator, "/fleet/"), top)


def test_no_vm_is_silent_because_of_reefs_own_downtime(operator: Client, api: Api) -> None:
    top, low = add_vm(api, "top"), add_vm(api, "low", "top")
    age("low", minutes=9)
    Watch.objects.update(up_since=clock.now())
    html = page(operator, "/fleet/")
    assert "is-late" in row(html, top)
    assert "is-silent" not in html
    assert "is-late" in row(page(operator, f"/fleet/_children/{top.pk}"), low)


@pytest.mark.parametrize("first", ["door", "clock"])
def test_first_responses_after_a_downtime_show_no_vm_as_silent(
    operator: Client, api: Api, first: str
) -> None:
    top, low = add_vm(api, "top"), add_vm(api, "low", "top")
    age("low", minutes=9)
    rule = Rule.objects.create(name="when silent", event="vm-silent", action="note")
    registry.record_edge_uptime(clock.now())
    assert "is-silent" in row(page(operator, "/fleet/"), top)
    then = clock.now() - timedelta(minutes=7)
    Watch.objects.update(ticked_at=then, door_at=then)

    def check_no_vm_is_silent() -> None:
        assert "is-silent" not in page(operator, "/fleet/")
        assert "is-late" in row(page(operator, f"/fleet/_children/{top.pk}"), low)
        assert "is-match" not in page(operator, "/fleet/_tree?q=silent")
        assert api.get("/vm-tree/vms?q=silent").json()["count"] == 0
        assert api.get("/registry/vms/low").json()["liveness"] == "late"
        assert VM.objects.answering(clock.now()).filter(pk="low").exists()
        assert engine.dry_run(rule, clock.now()).grace

    check_no_vm_is_silent()
    for sign in ("door", "clock") if first == "door" else ("clock", "door"):
        if sign == "door":
            registry.record_edge_uptime(clock.now())
        else:
            registry.sweep()
        check_no_vm_is_silent()


def test_ancestors_show_a_lieutenant_in_error(operator: Client, api: Api) -> None:
    top = add_vm(api, "top")
    ada = enlist()
    low = add_vm(api, ada.pk, "top")
    Lieutenant.objects.filter(pk=ada.pk).update(status="error")
    assert "is-error" in row(page(operator, "/fleet/"), top)
    assert "is-error" in row(page(operator, f"/fleet/_children/{top.pk}"), low)
    assert "/lieutenants/ada/" in page(operator, f"/fleet/{low.pk}/")


def test_children_are_paginated(operator: Client) -> None:
    plant(140)
    Node.objects.exclude(pk=1).update(parent=1)
    seen, html = [], page(operator, "/fleet/_children/1?level=3")
    while True:
        seen += re.findall(r'id="n(\d+)"', html)
        more = re.search(r'data-after="(\d+)" data-place="(\d+)"', html)
        if not more:
            break
        query = f"after={more[1]}&place={more[2]}&level=3"
        html = page(operator, f"/fleet/_children/1?{query}")
    assert seen == [str(number) for number in range(2, 141)]
    assert 'aria-posinset="139"' in html
    assert 'aria-level="3"' in html


def test_deep_chain_is_shown(operator: Client) -> None:
    plant(3000)
    for number in range(2, 3001):
        Node.objects.filter(pk=number).update(parent=number - 1)
    assert "lieutenant 0" in page(operator, "/fleet/")
    html = page(operator, "/fleet/?q=id:vm-2999")
    assert html.count('role="treeitem"') == 14
    assert "is-cut" in html
    assert "…" in page(operator, "/fleet/3000/")
    assert "below not drawn" in page(operator, "/fleet/picture/_drawing")


# -- updates -----------------------------------------------------------------------------------


def fetch_updates(client: Client, **body: Any) -> tuple[int, str]:
    answer = client.post("/fleet/_news", body, content_type="application/json")
    return answer.status_code, answer.content.decode()


def test_updates_contain_the_visible_rows_that_changed(operator: Client, api: Api) -> None:
    top, other = add_vm(api, "top"), add_vm(api, "other")
    low = add_vm(api, "low", "top")
    age("low", minutes=9)
    shown = [0, top.pk, other.pk]
    status, html = fetch_updates(operator, shown=shown, changed=["low"])
    assert status == 200
    assert "is-silent" in row(html, top)
    assert f'id="n{other.pk}"' not in html, "it is not above what changed"
    assert f'id="n{low.pk}"' not in html, "it is not shown"
    assert f'id="n{other.pk}"' in fetch_updates(operator, shown=shown, many=True)[1]

    services.remove("low", by="tests")
    html = fetch_updates(operator, shown=[*shown, low.pk], changed=["low"])[1]
    assert f'data-gone="{low.pk}"' in html
    assert "is-silent" not in row(html, top)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"shown": ["1"]}',
        b'{"shown": [true]}',
        b'{"shown": [1], "changed": [1]}',
    ],
)
def test_invalid_update_requests_are_rejected(operator: Client, body: bytes) -> None:
    answer = operator.post("/fleet/_news", body, content_type="application/json")
    assert answer.status_code == 400


def test_stream_names_changed_vms_or_says_that_they_are_many() -> None:
    listener = Listener()
    listener.add_nodes(["b", "a", "b"])
    assert listener.take() == b'event: nodes\ndata: {"ids":["a","b"]}\n\n'
    listener.add_nodes(str(number) for number in range(MAX_NODES + 1))
    listener.add_nodes(["c"])
    assert listener.take() == b'event: nodes\ndata: {"many":true}\n\n'
    listener.add_nodes(None)
    listener.tell(["ada"])
    assert listener.take().count(b"event:") == 2
    assert not listener.news.is_set()


# -- search --------------------------------------------------------------------------------------


def test_search_shows_matches_with_their_ancestors(operator: Client, api: Api) -> None:
    top = add_vm(api, "top")
    add_vm(api, "middle", "top")
    low = add_vm(api, "low", "middle", organs=["mail"])
    other = add_vm(api, "other", "top")
    html = page(operator, "/fleet/?q=organ:mail")
    assert "is-match" in row(html, low)
    assert "is-match" not in row(html, top)
    assert f'id="n{other.pk}"' not in html
    assert 'aria-level="4"' in row(html, low)


def test_unknown_term_lists_the_valid_ones(operator: Client) -> None:
    html = page(operator, "/fleet/?q=organs:mail", 400)
    assert "Unknown filter" in html
    assert all(word in html for word in ("organ:", "cap:", "silent", "under:"))
    assert 'value="organs:mail"' in html
    assert 'role="tree"' not in page(operator, "/fleet/_tree?q=role:boss", 400)


def test_matches_are_paginated(operator: Client) -> None:
    plant(120)
    seen, path = set(), "/fleet/?q=vm-"
    while path:
        html = page(operator, path)
        seen |= set(re.findall(r'is-match[^"]*" id="n(\d+)"', html))
        more = re.search(r'href="(/fleet/\?[^"]*)">Next matches', html)
        path = more[1].replace("&amp;", "&") if more else ""
    assert len(seen) == 120


# -- one VM --------------------------------------------------------------------------------------


def test_page_of_a_vm_shows_history_ancestors_and_difference(operator: Client, api: Api) -> None:
    add_vm(api, "top", organs=["store"])
    low = add_vm(api, "low", "top", organs=["store"], services=[{"name": "web", "port": 80}])
    dna = {"organs": ["mail"], "capabilities": []}
    services.change("low", NodeChange(name="lower", dna=dna, parent_vm_id=UNCHANGED), by="grace")
    html = page(operator, f"/fleet/{low.pk}/?with=top")
    assert "name: low → lower" in html
    assert "DNA: +mail −store" in html
    assert "by grace" in html
    assert ">top</a>" in html
    assert "port 80" in html
    assert 'is-added">+mail' in html
    assert 'is-removed">−store' in html
    assert "There is no VM" in page(operator, f"/fleet/{low.pk}/?with=nobody")
    services.remove("low", by="grace")
    assert "is-removed" in page(operator, f"/fleet/{low.pk}/")
    page(operator, "/fleet/999999/", 404)


def test_uptime_bar_shows_one_day(operator: Client, api: Api) -> None:
    low = add_vm(api, "low")
    now = clock.now()
    VM.objects.update(registered_at=now - timedelta(days=3))
    began, ended = now - timedelta(hours=12), now - timedelta(hours=6)
    Gap.objects.create(vm_id="low", began_at=began, ended_at=ended, status="running")
    html = page(operator, f"/fleet/{low.pk}/_facts")
    strip = re.findall(r'<rect class="is-(\w+)" x="([\d.]+)" y="\d" width="([\d.]+)"', html)
    assert [(kind, float(width)) for kind, _, width in strip] == [
        ("heard", 48.0),
        ("silent", 24.0),
        ("heard", 24.0),
    ]
    age("low", hours=1)
    assert page(operator, f"/fleet/{low.pk}/_facts").count('class="is-silent"') == 2


# -- map, and the tree in the past -----------------------------------------------------------------


def test_map_draws_nested_boxes(operator: Client, api: Api) -> None:
    add_vm(api, "top")
    add_vm(api, "low", "top", organs=["mail"])
    age("low", minutes=9)
    html = page(operator, "/fleet/picture/")
    assert re.search(r'class="box is-live of-agent_vm" [^>]+> <title>top', html)
    assert re.search(r'class="chip is-silent of-agent_vm" [^>]+> <title>low .* organs: mail', html)
    assert "2 of 2 VMs" in html


def test_map_shows_the_result_of_a_search(operator: Client, api: Api) -> None:
    for vm_id, under in (("top", ""), ("ada", "top"), ("low", "ada"), ("bob", "top")):
        add_vm(api, vm_id, under)
    for path in ("picture/", "picture/_drawing"):
        html = page(operator, f"/fleet/{path}?q=low")
        assert re.findall(r"<title>(\w+) ·", html) == ["top", "ada", "low"]
    assert "Matches for <code>low</code>" in page(operator, "/fleet/picture/?q=low")
    below_ada = page(operator, "/fleet/picture/?q=o&under=ada")
    assert re.findall(r"<title>(\w+) ·", below_ada) == ["ada", "low"]
    assert "<title>bob" not in page(operator, "/fleet/picture/?q=nothing-like-it")
    assert "Unknown filter" in page(operator, "/fleet/picture/?q=organs:x", 400)


@pytest.mark.parametrize("width", [300, 1340])
def test_boxes_of_the_map_are_inside_their_parents(operator: Client, width: int) -> None:
    plant(1000)
    html = page(operator, f"/fleet/picture/_drawing?width={width}")
    assert html.count("<rect") == 1000
    for x, wide in re.findall(r'<rect x="(\d+)" y="\d+" width="(\d+)"', html):
        assert int(x) + int(wide) <= width


def test_page_shows_the_tree_at_an_earlier_time(operator: Client, api: Api) -> None:
    top, other = add_vm(api, "top"), add_vm(api, "other")
    moved, gone = add_vm(api, "moved", "top"), add_vm(api, "gone", "top")
    same = add_vm(api, "same", "top")
    at = clock.now() - timedelta(hours=1)
    Revision.objects.update(at=at - timedelta(hours=1))
    Node.objects.update(created_at=at - timedelta(hours=1))
    services.change("moved", NodeChange(parent_vm_id="other"), by="tests")
    services.remove("gone", by="tests")
    add_vm(api, "new", "top")
    stamp = at.isoformat().replace("+", "%2B")

    html = page(operator, f"/fleet/then/?at={stamp}")
    assert "5 VMs at that time" in html
    assert 'class="vm-count">3' in row(html, top)
    assert "is-changed" in row(html, top), "something below it changed"
    assert 'is-new">new' in html
    assert "parent: top → other" in html
    below_top = page(operator, f"/fleet/then/_children/{top.pk}?at={stamp}")
    assert re.findall(r'id="n(\d+)"', below_top) == [str(n.pk) for n in (moved, gone, same)]
    assert "is-removed" in row(below_top, gone)
    assert "is-same" in row(below_top, same)
    empty = page(operator, f"/fleet/then/_children/{other.pk}?at={stamp}")
    assert "treeitem" not in empty
    page(operator, "/fleet/then/?at=yesterday", 400)
    assert "Nothing changed" in page(operator, "/fleet/then/")


# -- queries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "_children/1", "_tree?q=organ:store", "1/_facts", "then/", "picture/_drawing"]
)
def test_number_of_statements_does_not_grow(operator: Client, path: str) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as queries:
            page(operator, f"/fleet/{path}")
        return len(queries)

    plant(300)
    few = statements()
    plant(900)
    assert statements() == few


def test_worst_state_of_descendants_is_one_statement(django_assert_num_queries: Any) -> None:
    plant(500)
    keys = list(Node.objects.values_list("pk", flat=True))
    with django_assert_num_queries(1):
        found = aggregate_health.worst_descendant_states(keys, clock.now(), grace=False)
    assert found[18] == "silent"


# -- snapshots -------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_snapshots_are_taken_compared_and_restored(operator: Client, api: Api) -> None:
    kept, lost = add_vm(api, "kept"), add_vm(api, "lost", organs=["mail"])
    assert "No snapshot yet" in page(operator, "/fleet/snapshots/")
    assert operator.post("/fleet/snapshots/take").status_code == 302
    snapshot = Snapshot.objects.get()
    services.remove("lost", by="tests")
    services.change("kept", NodeChange(dna={"organs": ["cron"], "capabilities": []}), by="tests")

    html = page(operator, "/fleet/snapshots/")
    assert "is-well" in html
    assert snapshot.sha256[:10] in html
    compared = page(operator, f"/fleet/snapshots/compare?from={snapshot.pk}")
    assert "Removed" in compared
    assert "+cron" in compared
    asked = page(operator, f"/fleet/snapshots/{snapshot.pk}/restore")
    assert "−cron" in asked
    found = re.search(r'name="confirm" value="([^"]+)"', asked)
    assert found
    path = f"/fleet/snapshots/{snapshot.pk}/restore"
    assert operator.post(path).status_code == 400
    assert operator.post(path, {"confirm": "another"}).status_code == 409
    assert operator.post(path, {"confirm": found[1]}).status_code == 302
    lost.refresh_from_db()
    kept.refresh_from_db()
    assert lost.removed_at is None
    assert kept.organs == []
    assert Snapshot.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_restore_that_removes_many_needs_their_number(operator: Client) -> None:
    operator.post("/fleet/snapshots/take")
    snapshot = Snapshot.objects.get()
    for number in range(11):
        services.create(NewNode(f"vm{number}", "agent_vm", f"vm{number}"), by="tests")
    path = f"/fleet/snapshots/{snapshot.pk}/restore"
    asked = page(operator, path)
    assert "Type 11, how many VMs are removed from the tree" in asked
    found = re.search(r'name="confirm" value="([^"]+)"', asked)
    assert found

    for wrong in ({}, {"count": "10"}):
        answer = operator.post(path, {"confirm": found[1], **wrong})
        assert answer.status_code == 400
        assert "Type 11" in answer.content.decode()
    assert Node.objects.active().count() == 11
    assert operator.post(path, {"confirm": found[1], "count": "11"}).status_code == 302
    assert not Node.objects.active().exists()


@pytest.mark.django_db(transaction=True)
def test_snapshots_are_pinned_verified_and_downloaded(operator: Client, api: Api) -> None:
    add_vm(api, "kept")
    operator.post("/fleet/snapshots/take")
    snapshot = Snapshot.objects.get()
    path = f"/fleet/snapshots/{snapshot.pk}"
    operator.post(f"{path}/pin", {"pinned": "yes"})
    assert ">Unpin<" in page(operator, "/fleet/snapshots/")
    answer = operator.get(f"{path}/download")
    assert b"".join(answer).startswith(b"SQLite format 3")
    verified = operator.post(f"{path}/verify", follow=True).content.decode()
    assert "is intact" in verified
    with files.path_of(snapshot.file).open("r+b") as file:
        file.truncate(5000)
    assert "is-error" in operator.post(f"{path}/verify", follow=True).content.decode()
    assert operator.get(f"{path}/download").status_code == 409
    assert operator.get("/fleet/snapshots/77/download").status_code == 404
