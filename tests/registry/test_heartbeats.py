"""Heartbeats through Django: their input, their effects and their responses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.common import clock
from registry import fast_writes, heartbeat_bodies, heartbeats, liveness, services
from registry.heartbeat_bodies import Heartbeat
from registry.models import VM, Gap, Watch, format_duration
from tests.conftest import Api
from tests.registry.conftest import Register, age


def send_heartbeat(api: Api, vm_id: str, body: object = None) -> dict[str, Any]:
    answer = api.post(f"/registry/vms/{vm_id}/heartbeat", body)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("route", ["plain", "told", "bulk", "bulk told", "hot", "hot bulk"])
def test_heartbeat_resumes_a_stopped_vm_but_not_a_paused_one(
    api: Api, register: Register, route: str
) -> None:
    def send_by_route(vm_id: str, **said: Any) -> None:
        bodies: dict[str, Any] = {
            "bulk": ("/registry/heartbeats", {"ids": [vm_id]}),
            "bulk told": ("/registry/heartbeats", {"beats": [{"id": vm_id, "load": 1, **said}]}),
            "told": (f"/registry/vms/{vm_id}/heartbeat", {"load": 1, **said}),
        }
        if route.startswith("hot"):
            one = heartbeat_bodies.parse_one(vm_id, orjson.dumps(said))
            statements = fast_writes.WriteRequest(None, [one], single=route == "hot")
            (answer,) = fast_writes.write(lambda _: None, [statements])
            assert answer
            assert answer.status == 200
            return
        path, body = bodies.get(route, (f"/registry/vms/{vm_id}/heartbeat", said))
        assert api.post(path, body).status_code == 200

    for status in ("paused", "stopped"):
        register(status)
        path = f"/registry/vms/{status}"
        api.client.patch(path, {"status": status}, content_type="application/json")
        age(status, minutes=1)
        send_by_route(status)
    paused = VM.objects.get(pk="paused")
    assert (paused.status, paused.late_after, paused.silent_after) == ("paused", None, None)
    assert clock.now() - paused.last_seen < timedelta(seconds=30)
    stopped = VM.objects.get(pk="stopped")
    assert stopped.status == "running"
    assert stopped.late_after

    if route == "bulk":
        register("paused")
    else:
        send_by_route("paused", status="running")
    assert VM.objects.get(pk="paused").status == "running"


def test_heartbeat_of_a_paused_vm_is_not_published(register: Register) -> None:
    register("vm")
    VM.objects.update(status="paused", late_after=None, silent_after=None)
    with transaction.atomic():
        assert not heartbeats.record(
            [Heartbeat("vm"), Heartbeat("vm", vitals={"load": 1})], clock.now(), 1
        ).changed


def test_fields_missing_in_a_heartbeat_are_kept(api: Api, register: Register) -> None:
    register("vm", services=[{"name": "reef", "port": 1}])
    send_heartbeat(api, "vm", {"load": 0.5, "disk": 71})
    send_heartbeat(api, "vm", {"load": 0.75})
    vm = api.get("/registry/vms/vm").json()
    assert vm["vitals"] == {"load": 0.75, "disk": 71}
    assert vm["services"] == [{"name": "reef", "port": 1}]
    send_heartbeat(api, "vm", {"services": [], "status": "paused"})
    vm = api.get("/registry/vms/vm").json()
    assert (vm["services"], vm["status"], vm["liveness"]) == ([], "paused", "live")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"status": "dead"}, "status: must be one of running, paused, stopped"),
        ({"status": ["x"]}, "status: must be one of"),
        ({"load": "1"}, "load: must be a number"),
        ({"load": -1}, "load: must be a number from 0 on"),
        ({"disk": True}, "disk: must be a number"),
        ({"services": {}}, "services: must be a list"),
        ({"services": ["\u0000"]}, "services: has characters that are no text"),
        ({"at": "tomorrow"}, "at: must be a time"),
        ({"clockSkewSeconds": "much"}, "clockSkewSeconds: must be a number"),
        ({"machine": "<>"}, "machine: must be up to 64 letters and digits"),
        ({"reefConfigDigest": "<>"}, "reefConfigDigest: must be a digest"),
    ],
)
def test_invalid_heartbeat_is_rejected_with_its_field(
    api: Api, register: Register, body: dict[str, Any], text: str
) -> None:
    register("vm")
    answer = api.post("/registry/vms/vm/heartbeat", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)


@pytest.mark.parametrize("skew", [0, -75, 400 * 24])
def test_older_heartbeat_never_overwrites_a_newer_one(
    api: Api, register: Register, skew: int
) -> None:
    register("vm")
    skewed = clock.now() + timedelta(hours=skew)
    newest = send_heartbeat(api, "vm", {"at": clock.format_timestamp(skewed), "load": 1})[
        "lastSeen"
    ]
    earlier = clock.format_timestamp(skewed - timedelta(seconds=30))
    answer = send_heartbeat(api, "vm", {"at": earlier, "status": "stopped", "load": 9})
    assert answer["lastSeen"] == newest
    vm = api.get("/registry/vms/vm").json()
    assert (vm["lastSeen"], vm["status"], vm["vitals"]["load"]) == (newest, "running", 1)


@pytest.mark.parametrize("skew", [-75 * 3600, -300, 300, 400 * 86400])
def test_wrong_clock_does_not_make_a_vm_silent(
    api: Api, register: Register, admin_client: Client, skew: int
) -> None:
    register("vm")
    age("vm", minutes=30)
    sent = clock.format_timestamp(clock.now() + timedelta(seconds=skew))
    send_heartbeat(api, "vm", {"at": sent})
    vm = api.get("/registry/vms/vm").json()
    assert vm["liveness"] == "live"
    assert VM.objects.get().last_seen > clock.now() - timedelta(minutes=1)
    assert abs(vm["vitals"]["clockSkewSeconds"] - skew) < 30
    page = admin_client.get("/fleet/registered/_facts?vm=vm").content.decode()
    assert f"clock is {format_duration(abs(skew))} {'behind' if skew < 0 else 'ahead of'}" in page

    # After a correction of the clock, heartbeats still count.
    age("vm", minutes=30)
    send_heartbeat(api, "vm", {"at": clock.format_timestamp(clock.now())})
    assert api.get("/registry/vms/vm").json()["liveness"] == "live"
    assert VM.objects.get().clock_warning == ""


def test_alternating_machines_of_one_id_are_recorded(api: Api, register: Register) -> None:
    register("vm")
    for machine in ("a1", "a1", "b2", "b2"):
        send_heartbeat(api, "vm", {"machine": machine})
        assert "twinSeenAt" not in VM.objects.get().vitals, "it may have moved"
    send_heartbeat(api, "vm", {"machine": "a1"})
    assert VM.objects.get().vitals["twinSeenAt"]


def test_heartbeat_is_never_in_the_future(api: Api, register: Register) -> None:
    register("vm")
    send_heartbeat(api, "vm", {"at": clock.format_timestamp(clock.now() + timedelta(days=1))})
    assert VM.objects.get().last_seen <= clock.now()


def test_changed_composition_asks_for_a_new_registration(api: Api, register: Register) -> None:
    dna = {"organs": ["store"], "capabilities": []}
    register("vm", reefConfig=dna)
    assert "reefConfigDiffers" not in send_heartbeat(
        api, "vm", {"reefConfigDigest": heartbeats.digest_of(dna)}
    )
    assert send_heartbeat(api, "vm", {"reefConfigDigest": "0" * 64})["reefConfigDiffers"] is True


def test_bulk_heartbeat_names_unknown_ids(api: Api, register: Register) -> None:
    for vm_id in ("a", "b", "c"):
        register(vm_id)
        age(vm_id, minutes=4)
    body = {"ids": ["a", "nobody", "b"], "beats": [{"id": "c", "load": 1}, {"id": "else"}]}
    answer = api.post("/registry/heartbeats", body)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["count"], sorted(found["unknown"])) == (3, ["else", "nobody"])
    assert found["nextBeatInMs"] > 0
    assert {vm["liveness"] for vm in api.get("/registry/vms").json()["vms"]} == {"live"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "ids is required"),
        ([], "ids is required"),
        ({"ids": "vm"}, "ids: must be a list"),
        ({"ids": [1]}, "ids: must be a list of text"),
        ({"ids": ["\ud800"]}, "ids[0]: has characters"),
        ({"ids": ["x"] * 10_001}, "ids: at most 10000"),
        ({"beats": [{"load": 1}]}, "beats[0].id is required"),
        ({"beats": [{"id": "x", "load": "y"}]}, "beats[0].load: must be a number"),
    ],
)
def test_invalid_bulk_heartbeat_is_rejected_with_its_field(
    api: Api, database: str, body: object, text: str
) -> None:
    answer = api.post("/registry/heartbeats", body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(text)


def test_heartbeat_interval_grows_with_the_fleet() -> None:
    assert liveness.interval_ms(0) == liveness.interval_ms(4_000) == 30_000
    assert liveness.interval_ms(5_000) == 45_000
    assert liveness.interval_ms(10_000) == liveness.interval_ms(37_500) == 75_000
    assert liveness.interval_ms(100_000) == 200_000
    for fleet in (50_000, 100_000, 500_000):
        assert fleet / (liveness.interval_ms(fleet) / 1000) <= liveness.MAX_HEARTBEATS_PER_SECOND


def test_heartbeats_of_vms_started_together_spread() -> None:
    pauses = [liveness.next_heartbeat_ms(30_000) for _ in range(1000)]
    assert min(pauses) < 25_000
    assert max(pauses) > 35_000
    fullest = max(
        sum(at <= pause < at + 1000 for pause in pauses) for at in range(22_000, 38_000, 250)
    )
    assert fullest < 150


def test_vm_that_keeps_the_interval_is_never_late() -> None:
    for fleet in (1, 10_000, 100_000, 1_000_000):
        interval, now = liveness.interval_ms(fleet), clock.now()
        late, silent = liveness.deadlines(now, interval)
        longest = timedelta(milliseconds=interval * (1 + liveness.JITTER))
        assert now + 2 * longest < late < silent
        assert late - now >= timedelta(seconds=2 * liveness.FIELD_INTERVAL_SECONDS)


def test_liveness_follows_the_deadlines(api: Api, register: Register) -> None:
    register("vm")
    for ago, word in (
        ({"seconds": 100}, "live"),
        ({"minutes": 3}, "late"),
        ({"minutes": 6}, "silent"),
    ):
        age("vm", **ago)
        assert api.get("/registry/vms/vm").json()["liveness"] == word
    for status in ("paused", "stopped"):
        body = {"status": status}
        api.client.patch("/registry/vms/vm", body, content_type="application/json")
        age("vm", hours=6)
        assert api.get("/registry/vms/vm").json()["liveness"] == "live"


def test_no_vm_is_silent_because_of_reefs_own_downtime(api: Api, register: Register) -> None:
    register("vm")
    start = clock.now()
    assert services.sweep(start) == []
    # Reef is down for an hour, so the VM cannot send heartbeats.
    age("vm", minutes=70)
    Watch.objects.update(ticked_at=start - timedelta(hours=1))
    assert api.get("/registry/vms/vm").json()["liveness"] == "late"
    services.sweep()
    assert api.get("/registry/vms/vm").json()["liveness"] == "late"
    assert [vm["id"] for vm in api.get("/registry/discover/worker").json()["vms"]] == ["vm"]

    Watch.objects.update(up_since=start - timedelta(minutes=6))
    assert api.get("/registry/vms/vm").json()["liveness"] == "silent"


def test_downtime_of_the_edge_gives_a_grace_period(register: Register) -> None:
    register("vm")
    now = clock.now()
    services.sweep(now - timedelta(minutes=20))
    services.record_edge_uptime(now - timedelta(minutes=20))
    Watch.objects.update(up_since=now - timedelta(hours=1), ticked_at=now)
    age("vm", minutes=19)
    services.sweep(now)
    assert Watch.grace(now)
    services.record_edge_uptime(now)
    assert Watch.grace(now + timedelta(minutes=4))
    Watch.objects.update(ticked_at=now + timedelta(minutes=6), door_at=now + timedelta(minutes=6))
    assert not Watch.grace(now + timedelta(minutes=6))


def test_sweep_reports_each_change_once(api: Api, register: Register) -> None:
    now = clock.now()
    services.sweep(now)
    Watch.objects.update(up_since=now - timedelta(hours=1))
    for vm_id in ("steady", "quiet", "paused"):
        register(vm_id)
    api.client.patch("/registry/vms/paused", {"status": "paused"}, content_type="application/json")

    def at(seconds: int) -> list[str]:
        moment = now + timedelta(seconds=seconds)
        Watch.objects.update(ticked_at=moment - timedelta(seconds=10))
        VM.objects.filter(pk="steady").update(
            late_after=moment + timedelta(minutes=2), silent_after=moment + timedelta(minutes=4)
        )
        return services.sweep(moment)

    assert at(140) == []
    assert at(160) == ["quiet"]
    assert at(170) == []
    assert at(310) == ["quiet"]
    assert at(320) == []


def test_returning_vm_leaves_an_outage(api: Api, register: Register) -> None:
    register("vm")
    age("vm", minutes=10)
    send_heartbeat(api, "vm")
    send_heartbeat(api, "vm")
    found = api.get("/registry/vms/vm/gaps").json()
    assert found["count"] == 1
    gap = Gap.objects.get()
    assert gap.ended_at - gap.began_at >= timedelta(minutes=10)
    services.sweep(clock.now() + timedelta(days=8))
    assert not Gap.objects.exists()


@pytest.mark.parametrize("odd", ["", "late", "stopped", "paused", "told", "unknown"])
def test_each_heartbeat_of_a_batch_has_its_own_effects(
    api: Api, register: Register, odd: str
) -> None:
    """A batch with one other heartbeat leaves the rows of a batch of ordinary ones, and its own."""
    for vm_id in ("one", "two", "late", "stopped", "paused", "told"):
        register(vm_id)
        age(vm_id, minutes=10 if vm_id == "late" else 1)
    for vm_id in ("stopped", "paused"):
        body = {"status": vm_id}
        api.client.patch(f"/registry/vms/{vm_id}", body, content_type="application/json")
    now = clock.now()
    batch = [Heartbeat("one"), Heartbeat("two"), Heartbeat("one")]
    if odd:
        batch.append(Heartbeat(odd, vitals={"load": 1} if odd == "told" else None))
    interval = heartbeats.fleet.interval_ms()
    with transaction.atomic():
        outcome = heartbeats.record(batch, now, interval)

    assert set(outcome.seen) == {"one", "two", odd} - {"", "unknown"}
    assert outcome.changed == {odd} & {"late", "stopped"}
    assert list(Gap.objects.values_list("vm_id", flat=True)) == ["late"] * (odd == "late")
    deadlines = liveness.deadlines(now, interval)
    for vm in VM.objects.filter(pk__in=outcome.seen):
        assert vm.last_seen == now
        expected = ("paused", None, None) if vm.pk == "paused" else ("running", *deadlines)
        assert (vm.status, vm.late_after, vm.silent_after) == expected
        assert vm.vitals == ({"load": 1} if vm.pk == "told" else {})
    assert not VM.objects.exclude(pk__in=outcome.seen).filter(last_seen=now).exists()


def test_a_deleted_vm_gets_its_404_among_ordinary_heartbeats(register: Register) -> None:
    for vm_id in ("one", "gone", "two"):
        register(vm_id)
        age(vm_id, minutes=1)
    before = VM.objects.get(pk="one").last_seen
    services.deregister("gone")
    requests = [
        fast_writes.WriteRequest(None, [Heartbeat(each)], single=True) for each in ("one", "gone")
    ]
    requests.append(
        fast_writes.WriteRequest(None, [Heartbeat("gone"), Heartbeat("two")], single=False)
    )
    responses = [each for each in fast_writes.write(lambda _: None, requests) if each]
    assert [each.status for each in responses] == [200, 404, 200]
    assert orjson.loads(responses[2].body)["unknown"] == ["gone"]
    assert all(seen > before for seen in VM.objects.values_list("last_seen", flat=True))
    assert not Gap.objects.exists()


@pytest.mark.django_db
def test_ordinary_heartbeats_are_written_by_one_statement_on_sqlite() -> None:
    for vm_id in ("one", "two"):
        vm = VM(pk=vm_id, role="worker", interval_ms=heartbeats.fleet.interval_ms())
        vm.seen(clock.now())
        vm.save()
    statements: list[str] = []
    connection.connection.set_trace_callback(statements.append)
    try:
        with transaction.atomic():
            beats = [Heartbeat("one"), Heartbeat("two")]
            heartbeats.record(beats, clock.now(), heartbeats.fleet.interval_ms())
    finally:
        connection.connection.set_trace_callback(None)
    about_vms = [each for each in statements if "registry_vm" in each and "COUNT(" not in each]
    assert [each.partition(" ")[0] for each in about_vms] == ["UPDATE"]


def test_sweep_uses_indexes(register: Register) -> None:
    register("vm")
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as queries:
        # Avoids the seconds in which the sweep checks for future heartbeats, once a minute.
        services.sweep(clock.now().replace(second=30))
        statements = [
            each["sql"] for each in queries.captured_queries if "registry_vm" in each["sql"]
        ]
        assert statements
        for sql in statements:
            if connection.vendor == "sqlite":
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                assert {row[3][:6] for row in cursor.fetchall()} == {"SEARCH"}
