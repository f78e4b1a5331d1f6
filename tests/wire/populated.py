"""A reef with some rows of every kind, for tests that send many requests; each is undone."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.test import override_settings

from bootloader.models import Finding, LogLine, Machine, ProvisionGrant, Provisioning
from bootloader.models.joining import BootReport
from lieutenants.models import Lieutenant
from reef_site.common import broker, clock, outside
from reef_site.common.models import OutsideCall
from registry import heartbeats
from registry.models import Role
from tests.bootloader.join_clients import issue_join_token
from tests.conftest import Api
from tests.emulator.handle import Emulator
from tests.lieutenants.rows import Told, use
from tests.postgres import TEMPLATE, connected_to
from vmtree import services as tree
from vmtree.models import Category, Node
from vmtree.services import NewNode

LIEUTENANTS = "/lieutenant/lieutenants"
VM_IDS = ["roof", "ada-1", "far-1", "local-ada"]
TERMS = ["", "silent role:worker", "under:roof organ:store", "ada", "live is:live -bob", '"']


@dataclass(frozen=True)
class Populated:
    """`callers` maps names to headers, `known` the names of fields to values that have rows.

    A name may be preceded by a part of the path: `hosts/name`.
    """

    callers: dict[str, dict[str, str]]
    known: dict[str, list[Any]]

    def values_for(self, path: str, name: str) -> list[Any]:
        """Return the known values of a field or parameter in requests to this path."""
        for part in reversed(path.split("/")):
            if values := self.known.get(f"{part}/{name}"):
                return values
        return self.known.get(name, [])


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Undo all changes to the database; nothing that waits for a commit happens."""
    block = transaction.atomic()
    # As in Django's TestCase: the tested code may demand that its own transaction is the outermost.
    block._from_testcase = True  # type: ignore[attr-defined]
    with block:
        yield
        transaction.set_rollback(True)


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.thorough]),
    ],
)
def reef(
    request: pytest.FixtureRequest,
    emulator_of_the_run: Emulator,
    django_db_setup: None,
    django_db_blocker: Any,
) -> Iterator[Populated]:
    """The rows, made once for all tests of a file."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        if request.param == "postgresql":
            cluster = request.getfixturevalue("postgres_cluster")
            name = cluster.create(TEMPLATE)
            stack.enter_context(connected_to(cluster.settings(name)))
        yield stack.enter_context(populated(emulator_of_the_run))


@contextlib.contextmanager
def populated(emulator: Emulator) -> Iterator[Populated]:
    """Make the rows, remove them at the end. Providers' calls reach the emulator."""
    emulator.reset()
    with (
        pytest.MonkeyPatch.context() as patch,
        override_settings(PI_PATH="/bin/true", AGENT_NAME=""),
        undone(),
    ):
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        patch.setattr(outside, "dispatch", lambda _task, call_id, **_: outside.run_here(call_id))
        # Nobody waits for a Redis that is not there.
        patch.setattr(broker, "publish", lambda *_: None)
        heartbeats.fleet.forget()
        yield _populate(Api())
    emulator.reset()


def _populate(api: Api) -> Populated:
    nodes = _tree(api)
    ada = _lieutenants(api)
    known: dict[str, list[Any]] = {
        **dict.fromkeys(("vm_id", "other", "vmId", "vm", "parentVmId", "root", "under"), VM_IDS),
        **dict.fromkeys(("ids", "unknown"), VM_IDS),
        "registry/id": VM_IDS,
        "q": TERMS,
        "role": Role.values,
        "category": Category.values,
        "find/name": ["store", "cron"],
        "lieutenants/name": ["ada", "bob", "nobody"],
        "hosts/name": [settings.HOST, "far"],
        "vers-config/name": ["REEF_AGENT_MODEL", "REEF_VM_VCPUS", "VERS_API_KEY"],
        "type": ["swarm", "lieutenant", "own"],
        "dist/name": ["reef.pyz", "fleet_agent.py"],
        "message_id": [ada.messages.order_by("id").values_list("id", flat=True)[0]],
        "images/number": ["0"],
        "unknown-agents/run": ["01BX5ZZKBKACTAV9WEVGEMMVRZ"],
        "at": [clock.format_timestamp(clock.now())],
        "since": ["2026-01-01T00:00:00.000Z"],
        "provider": ["vers", "ssh"],
        **_provisionings(api, nodes),
        **_jobs(api),
    }
    issued = api.post("/vm-tree/vms/ada-1/token").json()["token"]
    return Populated(
        callers={
            "root": {"Authorization": f"Bearer {settings.ROOT_TOKEN}"},
            "node": {"Authorization": f"Bearer {issued}"},
        },
        known=known,
    )


def _tree(api: Api) -> dict[str, Node]:
    """roof → (local ada → ada-1 → far-1), and `loose` in the registry only."""
    dna = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}
    nodes = {}
    for vm_id, parent in (("roof", ""), ("ada-1", "roof"), ("far-1", "ada-1"), ("old", "roof")):
        new = NewNode(vm_id, "agent_vm", vm_id=vm_id, parent_vm_id=parent, dna=dna)
        nodes[vm_id] = tree.create(new, by="tests")
    for vm_id in ("ada-1", "far-1", "loose", "loose-2"):
        vm = {"id": vm_id, "name": vm_id, "role": "worker", "address": "::1"}
        _done(api.post("/registry/vms", {**vm, "registeredBy": "t", "metadata": {"a": [1]}}))
        vitals = {"load": 0.5, "disk": 0.25, "services": [{"name": "web", "port": 80}]}
        _done(api.post(f"/registry/vms/{vm_id}/heartbeat", vitals))
    tree.change("far-1", tree.NodeChange(name="far"), by="tests")
    tree.remove("old", by="tests")
    return nodes


def _lieutenants(api: Api) -> Lieutenant:
    for name in ("ada", "bob"):
        _done(api.post(LIEUTENANTS, {"name": name, "role": "tests", "local": True}))
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"p" * 20).decode()
    image = {"mediaType": "image/png", "data": png}
    _done(api.post(f"{LIEUTENANTS}/ada/send", {"message": "hello", "images": [image]}))
    ada = Lieutenant.objects.get(name="ada")
    Lieutenant.objects.filter(pk=ada.pk).update(status="idle")
    told = Told(ada)
    told.entry("user", "hello", message=ada.messages.get(), data={"images": 1})
    told.open_answer()
    told.call("c1", command="ls")
    told.result("c1", "a\nb")
    told.chunk(told.entry("text", "h", final=False), "i")
    use(ada)
    return ada


def _provisionings(api: Api, nodes: dict[str, Node]) -> dict[str, list[Any]]:
    ProvisionGrant.objects.create(node=nodes["ada-1"], vms=3, levels=2)
    asked = {"name": "p", "type": "swarm", "parentVmId": "ada-1"}
    queued = _done(api.post("/bootloader/provision", asked))["provisioning"]["id"]
    failed = Provisioning.objects.create(
        name="q", profile="swarm", provider="vers", actor="tests", state="failed", reason="why"
    ).pk
    rows = Provisioning.objects.filter(pk__in=[queued, failed])
    for row in rows:
        LogLine.objects.create(provisioning=row, kind=LogLine.Kind.OUTPUT, step="run", text="x")
    Machine.objects.create(provider="vers", machine_id="m-1", vm_id="ada-1", mine=False)
    issue_join_token("box")
    BootReport.objects.create(vm_id="ada-1", run="r1", step="dns", status="ok", output="fine")
    _done(api.post("/bootloader/reconcile"))
    # A comparison would settle them.
    findings = [
        Finding.objects.create(
            kind=kind, provider="vers", machine_id=f"m-{kind}", text="x", proposal=proposal
        ).pk
        for kind, proposal in (("unknown", "adopt"), ("vanished", "bury"))
    ]
    return {
        "provisioning_id": [queued, failed],
        "finding_id": [str(key) for key in findings],
        "findings/ids": findings,
        "call_id": list(OutsideCall.objects.values_list("pk", flat=True)),
        "run": ["r1"],
    }


def _jobs(api: Api) -> dict[str, list[Any]]:
    job = _done(api.post("/vm-tree/vms/ada-1/pause"))["job"]["id"]
    rule = {"name": "r", "event": "vm-late", "action": "note", "text": "x"}
    stored = {"value": "a/b", "vm": "ada-1"}
    json = "application/json"
    _done(api.client.put("/vers-config/REEF_AGENT_MODEL", stored, content_type=json))
    (version,) = api.get("/vers-config/history").json()["history"]
    hook = {"name": "hook", "channel": "webhook", "url": "http://127.0.0.1:1/"}
    subscriber = _done(api.post("/events/subscribers", hook))["id"]
    delivery = _done(api.post(f"/events/subscribers/{subscriber}/test"))["id"]
    return {
        "job_id": [job],
        "rule_id": [str(_done(api.post("/registry/rules", rule))["id"])],
        "snapshot_id": [_done(api.post("/vm-tree/snapshot"))["id"]],
        "version_id": [str(version["id"])],
        "subscriber_id": [str(subscriber)],
        "delivery_id": [str(delivery)],
    }


def _done(response: Any) -> Any:
    assert response.status_code < 300, response.content
    return response.json()
