from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from django.db import connections

from lieutenants.models import Lieutenant
from reef_site.common import clock
from registry.models import VM
from tests.conftest import Api
from tests.vmtree.conftest import Make, NodeApi
from vmtree import services, snapshots, tasks, tokens
from vmtree.models import Node, Revision, Trait
from vmtree.services import NodeChange
from vmtree.snapshot_models import LEASE, Snapshot, State, Why
from vmtree.snapshots import drafts, files, retention, verification
from vmtree.snapshots.drafts import SnapshotFailed

NOW = datetime(2026, 11, 22, 10, 20, 30, 123000, tzinfo=UTC)


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Return the folder of this test's snapshots."""
    settings.DATA_DIR = tmp_path
    return tmp_path / "snapshots"


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set reef's clock to NOW; further calls advance it."""
    moment = [NOW]
    monkeypatch.setattr(clock, "now", lambda: moment[0])

    def advance_clock(**time: float) -> None:
        moment[0] += timedelta(**time)

    return advance_clock


def take(api: Api) -> Snapshot:
    answer = api.post("/vm-tree/snapshot")
    assert answer.status_code == 200, answer.content
    assert list(answer.json()) == ["snapshot", "prunedOldSnapshots", "id"]
    return Snapshot.objects.get(pk=answer.json()["id"])


def rows(snapshot: Snapshot, sql: str) -> list[Any]:
    """Return the rows that sqlite3 reads from the file."""
    file = sqlite3.connect(files.path_of(snapshot.file))
    try:
        return file.execute(sql).fetchall()
    finally:
        file.close()


def iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def value_of(text: str | None) -> Any:
    return orjson.loads(text) if text else None


# -- content -------------------------------------------------------------------------------------


def test_snapshot_has_exactly_the_rows_of_its_time(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    services.change("bob", NodeChange(name="Böb \"'x", dna=None), by="somebody")
    services.remove("bob-1", by="somebody")
    body = {"id": "ada", "name": "Ada", "role": "worker", "address": "a", "registeredBy": "t"}
    api.post("/registry/vms", {**body, "metadata": {"a": [1, None, "ü"]}})
    VM.objects.filter(pk="ada").update(last_seen=NOW.replace(microsecond=0))

    snapshot = take(api)

    assert [
        (*row[:4], value_of(row[4]), *row[5:])
        for row in rows(
            snapshot,
            "SELECT id, vm_id, name, category, reef_config, parent_vm_id, created_at, updated_at,"
            " removed_at FROM nodes",
        )
    ] == [
        (
            *(node.pk, node.vm_id, node.name, node.category, node.reef_config, node.parent_vm_id),
            *(iso(node.created_at), iso(node.updated_at), iso(node.removed_at)),
        )
        for node in Node.objects.select_related("parent").order_by("pk")
    ]
    assert rows(snapshot, "SELECT vm_id, kind, name, position FROM traits") == list(
        Trait.objects.order_by("pk").values_list("node__vm_id", "kind", "name", "position")
    )
    assert [
        (*row[:5], value_of(row[5]))
        for row in rows(snapshot, "SELECT id, vm_id, at, actor, what, reef_config FROM revisions")
    ] == [
        (each.pk, each.node.vm_id, iso(each.at), each.actor, each.what, each.reef_config)
        for each in Revision.objects.select_related("node").order_by("pk")
    ]
    vm = VM.objects.get(pk="ada")
    [(metadata, seen, silent, has)] = rows(
        snapshot, "SELECT metadata, last_seen, silent_after, has_metadata FROM vms"
    )
    assert metadata == orjson.dumps(vm.metadata).decode()
    assert (seen, silent, has) == (iso(vm.last_seen), iso(vm.silent_after), 1)
    assert snapshot.counts == {"nodes": 7, "traits": 12, "revisions": 9, "vms": 1}


def test_row_and_file_have_equal_facts(
    database: str, api: Api, family: dict[str, Node], folder: Path
) -> None:
    snapshot = take(api)

    path = folder / snapshot.file
    content = path.read_bytes()
    assert snapshot.state == State.READY
    assert snapshot.sha256 == hashlib.sha256(content).hexdigest()
    assert snapshot.size == len(content)
    assert os.listdir(folder) == [snapshot.file]
    assert path.stat().st_mode & 0o777 == 0o400
    assert folder.stat().st_mode & 0o777 == 0o700
    meta = dict(rows(snapshot, "SELECT key, value FROM meta"))
    assert meta["why"] == "asked"
    assert meta["made_by"] == "root token"
    assert rows(snapshot, "PRAGMA journal_mode") == [("delete",)]
    [(schema,)] = rows(snapshot, "SELECT sql FROM sqlite_master WHERE name = 'nodes'")
    assert "-- every VM that ever had a place in the tree" in schema
    shown = api.get(f"/vm-tree/snapshots/{snapshot.pk}").json()
    assert shown["sha256"] == snapshot.sha256
    assert shown["at"] <= shown["checkedAt"]
    answer = api.get(f"/vm-tree/snapshots/{snapshot.pk}/download")
    assert b"".join(answer.streaming_content) == content
    assert answer["Content-Disposition"] == f'attachment; filename="{snapshot.file}"'
    assert int(answer["Content-Length"]) == len(content)


def test_snapshot_has_no_secrets_and_no_transcripts(
    database: str, api: Api, family: dict[str, Node]
) -> None:
    token = tokens.issue(family["ada"], made_by="tests")
    Lieutenant.objects.create(name="zoe", role="hush-hush directive", folder="/x")

    snapshot = take(api)

    assert {name for (name,) in rows(snapshot, "SELECT name FROM sqlite_master")} >= {"nodes"}
    tables = rows(snapshot, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    assert tables == [("meta",), ("nodes",), ("revisions",), ("traits",), ("vms",)]
    content = files.path_of(snapshot.file).read_bytes()
    for secret in (token, tokens.digest_of(token), "hush-hush"):
        assert secret.encode() not in content


def test_snapshot_is_consistent_during_writes(database: str, api: Api, make: Make) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            make(f"vm-{number:05d}", organs=("a", "b"))
            number += 1
        connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [take(api) for _ in range(8)]
    finally:
        stop.set()
        writer.join(20)

    sizes = [each.counts["nodes"] for each in found]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    for snapshot in found:
        count = snapshot.counts["nodes"]
        names = [f"vm-{number:05d}" for number in range(count)]
        assert rows(snapshot, "SELECT vm_id FROM nodes ORDER BY id") == [(name,) for name in names]
        assert snapshot.counts["traits"] == 2 * count
        assert snapshot.counts["revisions"] == count


# -- damaged files -------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def alter(path: Path) -> None:
    """Change a byte in the middle, and keep the file's times."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "trouble", "seen_at_once"),
    [
        (truncate, "the file was cut off", True),
        (alter, "the file was altered", False),
        (Path.unlink, "the file is missing", True),
    ],
)
def test_truncated_or_altered_file_is_reported_and_not_used(
    api: Api,
    folder: Path,
    db: None,
    damage: Callable[[Path], None],
    trouble: str,
    seen_at_once: bool,
) -> None:
    snapshot = take(api)
    damage(folder / snapshot.file)

    listed = api.get("/vm-tree/snapshots").json()["snapshots"][0]
    assert listed["state"] == ("damaged" if seen_at_once else "ready")
    verified = api.post(f"/vm-tree/snapshots/{snapshot.pk}/verify").json()
    assert verified["state"] == "damaged"
    assert verified["trouble"].startswith(trouble)
    for answer in (
        api.get(f"/vm-tree/snapshots/{snapshot.pk}/download"),
        api.get(f"/vm-tree/snapshots/{snapshot.pk}/compare?with=now"),
        api.post(f"/vm-tree/snapshots/{snapshot.pk}/restore"),
    ):
        assert answer.status_code == 409
        assert trouble in answer.json()["error"]


def test_list_shows_that_a_file_was_changed(api: Api, folder: Path, db: None) -> None:
    snapshot = take(api)
    path = folder / snapshot.file
    path.chmod(0o600)
    file = sqlite3.connect(path)
    file.execute("UPDATE meta SET value = 'asker' WHERE key = 'why'")
    file.commit()
    file.close()

    listed = api.get("/vm-tree/snapshots").json()["snapshots"][0]

    assert listed["trouble"].startswith("the file was altered")


def test_list_reads_few_modified_files_at_a_time(
    api: Api, folder: Path, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for _ in range(3):
        path = folder / take(api).file
        sizes.append(path.stat().st_size)
        path.chmod(0o600)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(verification, "MAX_READ_BYTES", max(sizes))

    troubles = []
    for _ in range(4):
        listed = api.get("/vm-tree/snapshots").json()["snapshots"]
        troubles.append([each.get("trouble") for each in listed])
        # The files were modified long before.
        later = clock.now() + timedelta(hours=1)
        Snapshot.objects.filter(state=State.DAMAGED).update(checked_at=later)

    for known, found in enumerate(troubles[:3], start=1):
        waiting = [verification.NOT_VERIFIED] * (3 - known)
        assert found == [*["the file was altered: its SHA-256 is another one"] * known, *waiting]
    assert verification.NOT_VERIFIED not in troubles[3]


def test_restored_file_is_valid_again(api: Api, folder: Path, db: None) -> None:
    snapshot = take(api)
    path = folder / snapshot.file
    content = path.read_bytes()
    path.unlink()
    assert api.get("/vm-tree/snapshots").json()["snapshots"][0]["state"] == "damaged"
    path.write_bytes(content)

    verified = api.post(f"/vm-tree/snapshots/{snapshot.pk}/verify").json()

    assert (verified["state"], verified["trouble"]) == ("ready", None)


def test_full_disk_leaves_no_snapshot(
    api: Api, folder: Path, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drafts, "_write_meta", full)
    answer = api.post("/vm-tree/snapshot")

    assert answer.status_code == 503
    assert "No space left on device" in answer.json()["error"]
    assert os.listdir(folder) == []
    assert api.get("/vm-tree/snapshots").json()["snapshots"][0]["state"] == "failed"


def test_unknown_snapshots_are_404_and_invalid_input_is_400(api: Api, db: None) -> None:
    assert api.get("/vm-tree/snapshots/77").status_code == 404
    assert api.get("/vm-tree/snapshots/x").status_code == 404
    snapshot = take(api)
    for word in ("x", "-1", "1e3", "9" * 30, "\u0663"):
        answer = api.get(f"/vm-tree/snapshots/{snapshot.pk}/compare?with={word}")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("with: ")
    answer = api.post(f"/vm-tree/snapshots/{snapshot.pk}/pin", {"pinned": "yes"})
    assert answer.json() == {"error": "pinned: must be true or false"}


# -- schedule ------------------------------------------------------------------------------------


def test_one_snapshot_is_taken_after_missed_hours(db: None, set_clock: Callable[..., None]) -> None:
    def hours() -> list[int]:
        rows = Snapshot.objects.filter(why=Why.HOURLY).order_by("hour")
        return [row.hour.hour for row in rows if row.hour]

    tasks.snapshot()
    set_clock(minutes=1)
    tasks.snapshot()
    assert hours() == [10]
    set_clock(hours=10)
    for _ in range(30):
        tasks.snapshot()
        set_clock(seconds=60)
    assert hours() == [10, 20]
    set_clock(minutes=10)
    tasks.snapshot()
    assert hours() == [10, 20, 21]


def test_concurrent_workers_take_one_snapshot(database: str, folder: Path, make: Make) -> None:
    make("vm")
    ready = threading.Barrier(4)
    made: list[Snapshot | None] = []

    def work() -> None:
        ready.wait(10)
        made.append(snapshots.tick())
        connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)

    assert len([each for each in made if each]) == 1
    assert len(made) == 4
    assert Snapshot.objects.get().state == State.READY
    assert len(os.listdir(folder)) == 1


def test_failed_snapshot_is_repeated_after_a_pause(
    db: None, set_clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        patched.setattr(drafts, "_write_meta", fail)
        with pytest.raises(SnapshotFailed, match="disk I/O error"):
            snapshots.tick()
    set_clock(minutes=1)
    assert snapshots.tick() is None
    set_clock(minutes=5)
    assert snapshots.tick()
    assert Snapshot.objects.get().state == State.READY
    assert Snapshot.objects.get().trouble == ""


def test_writer_whose_lease_has_expired_changes_nothing(
    db: None, set_clock: Callable[..., None], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Meanwhile another worker takes the snapshot."""
    write = drafts.write
    inner: list[Snapshot] = []

    def wait_past_lease(draft: Path, **facts: Any) -> Any:
        monkeypatch.setattr(drafts, "write", write)
        set_clock(minutes=11)
        inner.extend(filter(None, [snapshots.tick()]))
        return write(draft, **facts)

    monkeypatch.setattr(drafts, "write", wait_past_lease)
    with pytest.raises(SnapshotFailed, match="somebody else"):
        snapshots.tick()

    assert Snapshot.objects.get().file == inner[0].file
    assert os.listdir(folder) == [inner[0].file]
    assert verification.ensure_intact(Snapshot.objects.get())


def test_reading_does_not_disturb_an_active_writer(
    database: str, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = drafts.write
    seen: list[str] = []

    def record_call(draft: Path, **facts: Any) -> Any:
        [mine] = snapshots.listing()
        seen.extend([mine.state, snapshots.find(mine.pk).state])
        return write(draft, **facts)

    monkeypatch.setattr(drafts, "write", record_call)
    take(api)
    assert seen == [State.WRITING, State.WRITING]
    assert Snapshot.objects.get().state == State.READY


def test_reading_marks_the_snapshot_of_a_dead_writer_as_failed(
    database: str, api: Api, settings: Any
) -> None:
    now = clock.now()
    facts = {"why": Why.ASKED, "made_by": "tests", "leased_until": now + LEASE}
    row = Snapshot.objects.create(file="vms-gone.sqlite", host=settings.HOST, **facts)
    elsewhere = Snapshot.objects.create(file="vms-far.sqlite", host="elsewhere", **facts)
    found = api.get(f"/vm-tree/snapshots/{row.pk}").json()
    gone = "it was cut off while it was written: its writer is gone"
    assert (found["state"], found["trouble"]) == ("failed", gone)
    assert api.post(f"/vm-tree/snapshots/{row.pk}/verify").status_code == 409
    assert api.get(f"/vm-tree/snapshots/{elsewhere.pk}").json()["state"] == "writing"


def test_files_without_a_row_are_adopted(
    database: str, api: Api, family: dict[str, Node], folder: Path
) -> None:
    """This happens after the database was lost."""
    lost = take(api)
    content = (folder / lost.file).read_bytes()
    Snapshot.objects.all().delete()
    (folder / "vms-half.sqlite").write_bytes(content[: len(content) // 2])
    (folder / "vms-text.sqlite").write_text("no database")
    (folder / "notes.txt").write_text("left alone")

    tasks.snapshot()
    tasks.snapshot()

    found = Snapshot.objects.get(why=Why.ASKED)
    assert Snapshot.objects.count() == 2
    assert (found.file, found.sha256, found.counts) == (lost.file, lost.sha256, lost.counts)
    assert (found.pinned, found.made_by, found.at) == (True, "root token", lost.at)
    assert api.post(f"/vm-tree/snapshots/{found.pk}/restore").json()["restored"] is False
    assert {"vms-half.sqlite", "vms-text.sqlite", "notes.txt"} < set(os.listdir(folder))


# -- retention ------------------------------------------------------------------------------------


def add_snapshot(folder: Path, why: Why = Why.HOURLY, *, ago: timedelta, **fields: Any) -> Snapshot:
    """Add a row with a file, as if it had been taken this long ago."""
    folder.mkdir(exist_ok=True)
    began = NOW - ago
    name = files.name_of(began).replace("vms-", f"vms-{why}-")
    (folder / name).touch()
    facts = {"at": began, "sha256": "x", "state": State.READY, "host": "", **fields}
    return Snapshot.objects.create(file=name, why=why, made_by="t", began_at=began, **facts)


def test_latest_24_and_one_a_day_for_30_days_are_kept(
    db: None, folder: Path, set_clock: Callable[..., None]
) -> None:
    hourly = [add_snapshot(folder, ago=timedelta(hours=hour)) for hour in range(40 * 24)]
    pinned = add_snapshot(folder, ago=timedelta(days=400), pinned=True)
    asked = [
        add_snapshot(folder, Why.ASKED, ago=timedelta(minutes=minute)) for minute in range(1, 31)
    ]

    count = retention.prune()

    left = set(Snapshot.objects.all())
    assert count == len(hourly) + len(asked) + 1 - len(left)
    assert set(hourly[:24]) <= left
    assert set(asked[:24]) <= left
    assert pinned in left
    older = sorted(left - set(hourly[:24]) - set(asked) - {pinned}, key=lambda each: each.began_at)
    days = [each.began_at.date() for each in older]
    assert len(days) == len(set(days))
    assert len(days) in (28, 29, 30)
    assert older[0].began_at > NOW - timedelta(days=30)
    # The last one of each day is kept.
    assert {each.began_at.hour for each in older} == {23}
    assert {each.file for each in left} == set(os.listdir(folder))
    assert retention.prune() == 0


def test_response_counts_deleted_snapshots_and_pinned_ones_are_kept(
    api: Api, db: None, folder: Path
) -> None:
    first, second = take(api), take(api)
    api.post(f"/vm-tree/snapshots/{first.pk}/pin")
    for _ in range(22):
        take(api)
    assert [api.post("/vm-tree/snapshot").json()["prunedOldSnapshots"] for _ in range(2)] == [0, 1]
    assert {first.file} < set(os.listdir(folder))
    assert second.file not in os.listdir(folder)
    assert api.delete(f"/vm-tree/snapshots/{first.pk}/pin").json()["pinned"] is False
    assert api.post("/vm-tree/snapshot").json()["prunedOldSnapshots"] == 2
    assert first.file not in os.listdir(folder)


def test_damaged_snapshot_is_not_the_one_kept_for_its_day(
    db: None, set_clock: Callable[..., None], folder: Path
) -> None:
    good = add_snapshot(folder, ago=timedelta(days=5, hours=1))
    bad = add_snapshot(folder, ago=timedelta(days=5), state=State.DAMAGED)
    for hour in range(24):
        add_snapshot(folder, ago=timedelta(hours=hour))
    assert retention.prune() == 0
    assert {good, bad} < set(Snapshot.objects.all())
    set_clock(days=31)
    assert retention.prune() == 2


# -- permissions ---------------------------------------------------------------------------------


def test_nodes_cannot_read_or_change_snapshots(
    database: str, api: Api, family: dict[str, Node], as_node: Callable[[Node], NodeApi]
) -> None:
    snapshot = take(api)
    node = as_node(family["roof"])
    one = f"/vm-tree/snapshots/{snapshot.pk}"
    for path in ("/vm-tree/snapshots", one, f"{one}/compare", f"{one}/download"):
        answer = node.get(path)
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("rule: ")
    for path in ("/vm-tree/snapshot", f"{one}/verify", f"{one}/pin", f"{one}/restore"):
        answer = node.post(path)
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("rule: ")
    assert node.delete(f"{one}/pin").status_code == 403
    with_confirm = node.post(f"{one}/restore", {"confirm": "x"})
    assert with_confirm.status_code == 403
    assert Snapshot.objects.count() == 1
    api.client.defaults["HTTP_AUTHORIZATION"] = "Bearer nonsense"
    assert api.get(f"{one}/download").status_code == 401


def test_operators_have_all_permissions(family: dict[str, Node], admin_api: Api) -> None:
    snapshot = take(admin_api)
    assert snapshot.made_by == "admin"
    plan = admin_api.post(f"/vm-tree/snapshots/{snapshot.pk}/restore").json()
    done = admin_api.post(f"/vm-tree/snapshots/{snapshot.pk}/restore", {"confirm": plan["confirm"]})
    assert done.json()["restored"] is True
