from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection, connections

from lieutenants.models import Lieutenant
from reef_site.accounts.signin_links import make_operator
from reef_site.common import clock
from reef_site.common.errors import Conflict, NotFound
from reef_site.common.eventlog.models import Event
from registry import services as registry
from registry.services import Registration
from tests.conftest import Api
from tests.vmtree.conftest import Make, NodeApi
from vmtree import operator_tokens, services, snapshots
from vmtree.models import Node, OperatorToken, Revision, Trait
from vmtree.services import NewNode, NodeChange
from vmtree.snapshot_models import Snapshot, State, Why
from vmtree.snapshots import creation, files, restore_writer, tree_diff

States = dict[str, tuple[Any, ...]]


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Return the folder of this test's snapshots."""
    settings.DATA_DIR = tmp_path
    return tmp_path / "snapshots"


def active_nodes() -> States:
    """Return everything that a restore must bring back, by VM id."""
    nodes = Node.objects.active().select_related("parent").order_by("pk")
    return {
        node.vm_id: (
            *(node.name, node.category, node.parent_vm_id, node.reef_config, node.created_at),
            list(node.traits.values_list("kind", "name", "position")),
        )
        for node in nodes
    }


def take() -> Snapshot:
    return snapshots.take(by="tests").snapshot


def restore(api: Api, snapshot: Snapshot) -> dict[str, Any]:
    """Request the plan and confirm it."""
    path = f"/vm-tree/snapshots/{snapshot.pk}/restore"
    plan = api.post(path).json()
    assert plan["restored"] is False
    register_live = api.post(path, {"confirm": plan["confirm"]})
    assert register_live.status_code == 200, register_live.content
    done: dict[str, Any] = register_live.json()
    assert done["counts"] == plan["counts"]
    return done


def make_all_kinds_of_changes() -> None:
    """Change the tree in every way that a comparison distinguishes."""
    services.create(NewNode("late", "agent_vm", "late", "bob"), by="x")
    services.create(NewNode("later", "agent_vm", "later", "late"), by="x")
    services.change("ada-2", NodeChange(parent_vm_id="later"), by="x")
    services.change("ada", NodeChange(name="Ada!", category="infra_vm"), by="x")
    services.change("roof", NodeChange(dna={"organs": [], "capabilities": ["a", "a"]}), by="x")
    services.change("bob", NodeChange(dna=None), by="x")
    services.remove("bob-1", by="x")
    services.remove("ada-1", by="x")


def test_restored_tree_equals_the_snapshot(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    before = active_nodes()
    snapshot = take()
    make_all_kinds_of_changes()
    history = list(Revision.objects.order_by("pk").values())

    done = restore(api, snapshot)

    assert active_nodes() == before
    assert done["counts"] == {
        "added": 2,
        "removed": 2,
        "moved": 1,
        "dnaChanged": 2,
        "renamed": 1,
        "kept": 0,
        "leftOut": 0,
    }
    # The history is kept and contains each change.
    revisions = Revision.objects.order_by("pk")
    assert list(revisions.values())[: len(history)] == history
    newer = revisions[len(history) :]
    assert {(each.node.vm_id, each.what, each.actor) for each in newer} == {
        *((vm_id, "restored", "root token") for vm_id in ("bob-1", "ada-1")),
        *((vm_id, "changed", "root token") for vm_id in ("ada-2", "ada", "roof", "bob")),
        *((vm_id, "removed", "root token") for vm_id in ("late", "later")),
    }
    assert len(newer) == 8
    late = Node.objects.get(vm_id="later")
    assert late.removed_at
    assert late.parent_vm_id == "late"
    assert api.get("/vm-tree/vms/bob-1/history").json()["history"][0]["what"] == "restored"
    with pytest.raises(Conflict, match="never given again"):
        services.create(NewNode("late", "agent_vm", "late"), by="x")


def test_restore_takes_a_snapshot_first_that_can_be_restored(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    snapshot = take()
    make_all_kinds_of_changes()
    changed = active_nodes()

    done = restore(api, snapshot)
    before = Snapshot.objects.get(pk=done["before"]["id"])

    assert before.why == Why.CHANGE
    assert active_nodes() != changed
    restore(api, before)
    assert active_nodes() == changed
    counts = api.get(f"/vm-tree/snapshots/{before.pk}/compare").json()["counts"]
    assert set(counts.values()) == {0}


def test_restore_into_an_empty_database_includes_history_and_removed_nodes(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    services.change("ada-2", NodeChange(parent_vm_id="bob"), by="x")
    services.remove("ada-2-1", by="x")

    def everything() -> list[Any]:
        columns = ("vm_id", "name", "category", "parent__vm_id", "reef_config", "created_at")
        nodes = Node.objects.order_by("pk").values_list(*columns, "removed_at")
        revisions = Revision.objects.exclude(what="restored").order_by("pk")
        facts = ("node__vm_id", "at", "actor", "what", "name", "parent_vm_id", "reef_config")
        return [active_nodes(), list(nodes), list(revisions.values_list(*facts))]

    before, snapshot = everything(), take()
    Trait.objects.all().delete()
    Revision.objects.all().delete()
    Node.objects.update(parent=None)
    Node.objects.all().delete()

    done = restore(api, snapshot)

    assert done["counts"]["added"] == 6
    assert everything() == before


def test_restore_needs_the_current_confirmation(
    database: str, api: Api, family: dict[str, Node], make: Make
) -> None:
    snapshot = take()
    services.remove("bob-1", by="x")
    path = f"/vm-tree/snapshots/{snapshot.pk}/restore"
    plan = api.post(path).json()
    make("in between")
    now = active_nodes()

    for confirm in (plan["confirm"], "", "yes"):
        register_live = api.post(path, {"confirm": confirm})
        assert register_live.status_code == 409
        assert register_live.json()["error"].startswith("confirm: the tree has changed")
    assert api.post(path, {"confirm": True}).status_code == 400
    assert active_nodes() == now
    assert Snapshot.objects.count() == 1


def test_restore_stops_if_the_tree_changes_during_the_first_snapshot(
    database: str, api: Api, family: dict[str, Node], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = take()
    services.remove("bob-1", by="x")
    plan = snapshots.plan(snapshot, by="tests")
    make_one = creation.create

    def make_and_change(**facts: Any) -> Snapshot:
        made = make_one(**facts)
        make("in between")
        return made

    monkeypatch.setattr(creation, "create", make_and_change)
    register_live = api.post(f"/vm-tree/snapshots/{snapshot.pk}/restore", {"confirm": plan.confirm})

    assert register_live.status_code == 409
    assert "in between" in active_nodes()
    assert "bob-1" not in active_nodes()


@pytest.mark.parametrize("where", ["_set_traits", "_remove"])
def test_failed_restore_changes_nothing(
    database: str,
    api: Api,
    family: dict[str, Node],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    snapshot = take()
    make_all_kinds_of_changes()
    now, revisions = active_nodes(), Revision.objects.count()
    plan = snapshots.plan(snapshot, by="tests")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(restore_writer, where, fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        snapshots.restore(snapshot, confirm=plan.confirm, by="tests")

    assert (active_nodes(), Revision.objects.count()) == (now, revisions)


def test_operator_tokens_of_removed_subtrees_stay_revoked_after_a_restore(
    database: str, api: Api, family: dict[str, Node], make: Make
) -> None:
    def token_below(node: Node) -> NodeApi:
        return NodeApi(
            operator_tokens.make(node.vm_id, "read", subtree=node, by=make_operator())[1]
        )

    removed, older, kept = (token_below(family[each]) for each in ("ada-2", "bob-1", "ada"))
    snapshot = take()
    created = token_below(make("late", under="ada"))
    services.remove("ada-2", by="somebody", subtree=True, confirm=2)
    # Removed by a version that left the tokens alone.
    Node.objects.filter(vm_id="bob-1").update(removed_at=clock.now())
    restore(api, snapshot)

    assert Node.objects.get(vm_id="ada-2").removed_at is None
    clients = (removed, older, created, kept)
    statuses = [client.get("/vm-tree/stats").status_code for client in clients]
    assert statuses == [401, 401, 401, 200]
    revoked = OperatorToken.objects.filter(revoked_at__isnull=False).order_by("name")
    assert list(revoked.values_list("name", "revoked_by")) == [
        ("ada-2", "somebody"),
        ("bob-1", "root token"),
        ("late", "root token"),
    ]
    events = Event.objects.filter(kind="permission.token-revoked").order_by("subject")
    assert list(events.values_list("subject", flat=True)) == ["ada-2", "bob-1", "late"]


def test_restore_revokes_tokens_of_removed_nodes(
    database: str, api: Api, family: dict[str, Node], as_node: Callable[[Node], NodeApi], make: Make
) -> None:
    snapshot = take()
    kept, removed = as_node(family["ada"]), as_node(make("late", under="ada"))
    assert removed.get("/vm-tree/stats").status_code == 200

    restore(api, snapshot)

    assert removed.get("/vm-tree/stats").status_code == 401
    assert kept.get("/vm-tree/stats").status_code == 200


def test_concurrent_restores_and_writes_end_in_one_of_the_trees(
    database: str, family: dict[str, Node], make: Make
) -> None:
    """The later restore finds its plan outdated, or restores on top of the first."""
    first = take()
    make_all_kinds_of_changes()
    second = take()
    trees = [tree_diff.snapshot_tree(each) for each in (first, second)]
    ready = threading.Barrier(3)
    outcomes: list[str] = []

    def restore_one(snapshot: Snapshot) -> None:
        ready.wait(10)
        for _ in range(5):
            plan = snapshots.plan(snapshot, by="tests")
            try:
                snapshots.restore(snapshot, confirm=plan.confirm, by="tests")
                outcomes.append("restored")
            except Conflict:
                outcomes.append("refused")
        connections.close_all()

    def rename() -> None:
        ready.wait(10)
        for number in range(20):
            try:
                services.change("roof", NodeChange(name=f"roof {number}"), by="x")
            except NotFound:
                outcomes.append("not found")
        services.change("roof", NodeChange(name="roof"), by="x")
        connections.close_all()

    threads = [threading.Thread(target=restore_one, args=[each]) for each in (first, second)]
    threads.append(threading.Thread(target=rename))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(outcomes) == 10, outcomes
    restored = {vm_id: each[2] for vm_id, each in active_nodes().items()}
    assert restored in [{vm.vm_id: vm.parent for vm in tree.values()} for tree in trees]


# -- active VMs are kept ---------------------------------------------------------------------


def register_live(vm_id: str, **fields: Any) -> None:
    """Register a VM that has just sent a heartbeat."""
    registry.register(Registration(vm_id, vm_id, "worker", "::1", "tests", **fields))


def test_restore_keeps_active_vms(
    database: str, api: Api, family: dict[str, Node], as_node: Callable[[Node], NodeApi], make: Make
) -> None:
    before = active_nodes()
    snapshot = take()
    # late → (mate → beats, dead → deep); ada → near
    for vm_id, parent in (("late", "ada"), ("mate", "late"), ("beats", "mate"), ("near", "ada")):
        make(vm_id, under=parent)
    make("dead", under="late")
    make("deep", under="dead")
    Lieutenant.objects.create(id="mate", name="mate", role="tests", status="paused")
    Lieutenant.objects.create(id="dead", name="dead", role="tests", status="destroyed")
    for vm_id in ("beats", "near", "deep", "dead"):
        register_live(vm_id)
    registry.patch("dead", {"status": "stopped"})
    holder = as_node(Node.objects.get(vm_id="mate"))

    plan = api.post(f"/vm-tree/snapshots/{snapshot.pk}/restore").json()

    assert {each["vmId"]: each["to"]["parentVmId"] for each in plan["kept"]} == {
        "mate": "ada",
        "beats": "mate",
        "near": "ada",
        "deep": "ada",
    }
    assert {each["vmId"]: each["why"] for each in plan["kept"]}["mate"] == "its lieutenant lives"
    assert {each["vmId"] for each in plan["removed"]} == {"late", "dead"}
    restore(api, snapshot)
    now = active_nodes()
    assert {vm_id: now[vm_id][2] for vm_id in now.keys() - before.keys()} == {
        "mate": "ada",
        "beats": "mate",
        "near": "ada",
        "deep": "ada",
    }
    assert {vm_id: each for vm_id, each in now.items() if vm_id in before} == before
    assert holder.get("/vm-tree/stats").status_code == 200
    for vm_id, parent in (("mate", "ada"), ("near", "ada")):
        [newest, *_] = api.get(f"/vm-tree/vms/{vm_id}/history").json()["history"]
        assert (newest["what"], newest["parentVmId"]) == ("kept", parent)
    tree = api.get("/vm-tree/tree?flat=true").json()["vms"]
    then = api.get("/vm-tree/tree?flat=true&at=2100-01-01").json()["vms"]
    assert {each["vmId"] for each in tree} == {each["vmId"] for each in then} == now.keys()


def test_restore_leaves_out_nodes_of_destroyed_lieutenants(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    Lieutenant.objects.create(id="ada", name="ada", role="tests", status="destroyed")
    snapshot = take()
    services.remove("ada", by="x", subtree=True, confirm=4)

    plan = api.post(f"/vm-tree/snapshots/{snapshot.pk}/restore").json()

    ghost = {"vmId": "ada", "name": "ada", "category": "lieutenant", "parentVmId": "roof"}
    assert plan["leftOut"] == [{**ghost, "why": "its lieutenant was destroyed"}]
    assert {each["vmId"]: each["parentVmId"] for each in plan["added"]} == {
        "ada-1": "roof",
        "ada-2": "roof",
        "ada-2-1": "ada-2",
    }
    restore(api, snapshot)
    assert Node.objects.get(vm_id="ada").removed_at
    assert {vm_id: facts[2] for vm_id, facts in active_nodes().items()}["ada-2"] == "roof"
    then = api.get("/vm-tree/tree?flat=true&at=2100-01-01").json()["vms"]
    assert {each["vmId"] for each in then} == active_nodes().keys()


def test_restore_leaves_out_destroyed_lieutenants_known_only_to_the_file(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    snapshot = take()
    Trait.objects.all().delete()
    Revision.objects.all().delete()
    Node.objects.update(parent=None)
    Node.objects.all().delete()
    Lieutenant.objects.create(id="bob", name="bob", role="tests", status="destroyed")
    done = restore(api, snapshot)
    assert done["counts"]["leftOut"] == 1
    assert Node.objects.get(vm_id="bob").removed_at
    assert {vm_id: facts[2] for vm_id, facts in active_nodes().items()}["bob-1"] == "roof"
    then = api.get("/vm-tree/tree?flat=true&at=2100-01-01").json()["vms"]
    assert {each["vmId"] for each in then} == active_nodes().keys()


def test_kept_vm_without_ancestors_becomes_a_root(database: str, api: Api, make: Make) -> None:
    snapshot = take()
    make("top")
    make("low", under="top")
    register_live("low")

    restore(api, snapshot)

    assert {vm_id: facts[2] for vm_id, facts in active_nodes().items()} == {"low": None}


def test_vm_that_becomes_active_after_the_plan_stops_the_restore(
    database: str, api: Api, make: Make
) -> None:
    snapshot = take()
    make("late")
    path = f"/vm-tree/snapshots/{snapshot.pk}/restore"
    plan = api.post(path).json()
    assert [each["vmId"] for each in plan["removed"]] == ["late"]

    register_live("late")

    assert api.post(path, {"confirm": plan["confirm"]}).status_code == 409
    assert "late" in active_nodes()


def test_vm_that_becomes_active_during_the_restore_stops_it(
    database: str, api: Api, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = take()
    make("late")
    plan = snapshots.plan(snapshot, by="tests")
    usual = restore_writer.prepare

    def prepare(*args: Any) -> restore_writer.RestoreWork:
        monkeypatch.setattr(restore_writer, "prepare", usual)
        register_live("late")
        return usual(*args)

    monkeypatch.setattr(restore_writer, "prepare", prepare)
    with pytest.raises(Conflict, match="has changed"):
        snapshots.restore(snapshot, confirm=plan.confirm, by="tests")

    assert "late" in active_nodes()


# -- killed processes -----------------------------------------------------------------------------

CHILD = """
import os, signal, sys
import django
django.setup()
from django.conf import settings
from pathlib import Path
settings.DATA_DIR = Path(sys.argv[1])
from vmtree import snapshots
from vmtree.snapshots import creation, drafts, files, restore_writer, retention, verification
place, name = sys.argv[3].split(":")
holder = {"files": files, "drafts": drafts, "restore_writer": restore_writer,
          "verification": verification, "retention": retention,
          "revisions": restore_writer.RevisionWriter, "creation": creation}[place]
usual, calls = getattr(holder, name), int(sys.argv[4])
def die(*args, **facts):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(*args, **facts)
setattr(holder, name, die)
if sys.argv[2] == "tick":
    snapshots.tick()
else:
    snapshot = snapshots.find(int(sys.argv[2]))
    snapshots.restore(snapshot, confirm=snapshots.plan(snapshot, by="child").confirm, by="child")
"""


def database_url() -> str:
    facts = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{facts['NAME']}"
    return f"postgres://{facts['USER']}@/{facts['NAME']}?host={facts['HOST']}"


def run_until_killed(folder: Path, what: str, where: str, call: int = 1) -> None:
    """Run a process that kills itself with SIGKILL at the given call of a function."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder.parent), what, where, str(call)],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "reef_site.settings",
            "DATABASE_URL": database_url(),
        },
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize(
    "where",
    [
        *("drafts:_write_meta", "drafts:check", "files:publish", "files:_sync"),
        "verification:file_columns",
    ],
)
def test_snapshot_interrupted_by_a_kill_is_repeated(
    database: str, family: dict[str, Node], folder: Path, where: str
) -> None:
    old = take()
    content = (folder / old.file).read_bytes()

    run_until_killed(folder, "tick", where)

    [fail] = Snapshot.objects.filter(why=Why.HOURLY)
    assert fail.state == State.WRITING
    assert (folder / old.file).read_bytes() == content
    for path in folder.glob("vms-*.sqlite"):
        file = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("SELECT count(*) FROM nodes").fetchone() == (len(family),)
        file.close()
    # The next reader notices that the writer is dead; the tick then takes the missed snapshot.
    has_name = (folder / fail.file).exists()
    [looked] = [each for each in snapshots.listing() if each.pk == fail.pk]
    assert looked.state == (State.READY if has_name else State.FAILED)
    assert has_name or looked.trouble == "it was cut off while it was written: its writer is gone"
    assert not list(folder.glob(".*.part")), "its draft goes, too"
    snapshots.tick()
    [mended] = Snapshot.objects.filter(why=Why.HOURLY)
    assert mended.state == State.READY
    assert snapshots.ensure_intact(mended)
    whole = {each.file for each in Snapshot.objects.all()}
    assert {path.name for path in folder.glob("vms-*")} == whole
    for draft in folder.glob(".vms-*"):
        os.utime(draft, (0, 0))
    files.discard_old_drafts()
    assert set(os.listdir(folder)) == whole


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("drafts:check", 1),
        ("restore_writer:prepare", 1),
        ("restore_writer:_add_unknown", 1),
        ("restore_writer:_update_nodes", 1),
        ("restore_writer:_set_traits", 1),
        ("restore_writer:_remove", 1),
        ("revisions:write", 1),
        ("revisions:write", 3),
        ("retention:prune", 1),
    ],
)
def test_restore_interrupted_by_a_kill_is_complete_or_absent(
    database: str, api: Api, family: dict[str, Node], folder: Path, where: str, call: int
) -> None:
    before = active_nodes()
    snapshot = take()
    make_all_kinds_of_changes()
    now, revisions = active_nodes(), Revision.objects.count()

    run_until_killed(folder, str(snapshot.pk), where, call)

    if where == "retention:prune":
        # The restore had been committed before.
        assert active_nodes() == before
    else:
        assert (active_nodes(), Revision.objects.count()) == (now, revisions)
    # The restore can be repeated.
    restore(api, snapshot)
    assert active_nodes() == before
