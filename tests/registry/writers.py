"""A writing process of `test_writers`: `python -m tests.registry.writers …`.

Each writer notes the longest it waited and what must be found afterwards, as JSON on its output.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
django.setup()

from django.db import connection  # noqa: E402

from registry import (  # noqa: E402
    fast_writes,
    heartbeat_bodies,
    services,
)
from registry.models import VM  # noqa: E402
from registry.serializers import (  # noqa: E402
    RegistrationBody,
    to_registration,
)
from vmtree import services as tree  # noqa: E402
from vmtree import snapshots  # noqa: E402
from vmtree.models import Node, Revision  # noqa: E402

Round = Callable[[], None]


def vm(vm_id: str, name: str = "n") -> dict[str, str]:
    return {"id": vm_id, "name": name, "role": "worker", "address": "x", "registeredBy": "t"}


def command(vm_id: str, name: str = "n") -> services.Registration:
    return to_registration(RegistrationBody.parse_data(vm(vm_id, name)))


def seed(count: int) -> None:
    for number in range(count):
        services.register(command(f"vm-{number}"))
        tree.create(tree.NewNode("n", "agent_vm", f"node-{number}"), by="seed")


def send_heartbeats(recorded: dict[str, Any]) -> Iterator[None]:
    """Write heartbeats like the edge: dozens in one transaction, some with further fields."""
    ids = list(VM.objects.filter(pk__startswith="vm-").values_list("pk", flat=True))
    for number in itertools.count(1):
        some = [ids[(number * 37 + step) % len(ids)] for step in range(32)]
        batch = [heartbeat_bodies.Heartbeat(vm_id) for vm_id in some]
        batch.append(heartbeat_bodies.Heartbeat(ids[0], vitals={"load": number}))
        answers = fast_writes.write(
            lambda _: None, [fast_writes.WriteRequest(None, [each], True) for each in batch]
        )
        assert all(answer and answer.status == 200 for answer in answers)
        recorded["load"] = number
        yield


def register_vms(recorded: dict[str, Any]) -> Iterator[None]:
    """Register VMs twice with different names, and deregister every third one."""
    recorded["there"] = []
    for number in itertools.count():
        vm_id = f"new-{number}"
        services.register(command(vm_id))
        services.register(command(vm_id, "second"))
        if number % 3 == 0:
            services.deregister(vm_id)
        else:
            recorded["there"].append(vm_id)
        yield


def change_tree(recorded: dict[str, Any]) -> Iterator[None]:
    """Create, rename and move nodes; each change writes a revision."""
    recorded["changes"] = recorded["made"] = 0
    for number in itertools.count():
        vm_id = f"leaf-{number}"
        dna = {"organs": ["store"], "capabilities": []}
        tree.create(tree.NewNode("n", "swarm_vm", vm_id, f"node-{number % 100}", dna), by="t")
        tree.change(vm_id, tree.NodeChange(name=f"name {number}"), by="t")
        tree.change(vm_id, tree.NodeChange(parent_vm_id=f"node-{number % 50 + 100}"), by="t")
        recorded["made"] += 1
        recorded["changes"] += 2
        yield


def take_snapshots(recorded: dict[str, Any]) -> Iterator[None]:
    recorded["taken"] = 0
    while True:
        snapshots.take(by="tests")
        recorded["taken"] += 1
        time.sleep(0.2)
        yield


WRITERS = {
    "beats": send_heartbeats,
    "registrations": register_vms,
    "tree": change_tree,
    "snapshots": take_snapshots,
}


def write(name: str, seconds: float) -> None:
    """Write for this long; an error ends the process with its traceback."""
    recorded: dict[str, Any] = {"rounds": 0, "longest": 0.0}
    rounds = WRITERS[name](recorded)
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        next(rounds)
        recorded["rounds"] += 1
        recorded["longest"] = max(recorded["longest"], time.monotonic() - began)
    print(json.dumps(recorded))


def check(done: dict[str, Any]) -> None:
    """Check that everything acknowledged is in the database."""
    assert VM.objects.get(pk="vm-0").vitals["load"] == done["beats"]["load"]
    there = set(
        VM.objects.filter(pk__startswith="new-", name="second").values_list("pk", flat=True)
    )
    assert there == set(done["registrations"]["there"])
    assert not VM.objects.filter(pk__startswith="new-").exclude(pk__in=there).exists()
    leaves = Node.objects.filter(vm_id__startswith="leaf-")
    assert leaves.count() == done["tree"]["made"]
    changes = Revision.objects.filter(node__in=leaves, what="changed")
    assert changes.count() == done["tree"]["changes"]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA integrity_check")
        assert cursor.fetchone()[0] == "ok"
    print("nothing is lost")


def main(what: str, value: str) -> None:
    if what == "seed":
        seed(int(value))
    elif what == "check":
        check(json.loads(value))
    else:
        write(what, float(value))


if __name__ == "__main__":
    main(*sys.argv[1:])
