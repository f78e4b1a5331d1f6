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
    fast_path,
    heartbeats,
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


def beat_on(noted: dict[str, Any]) -> Iterator[None]:
    """Write heartbeats like the edge: dozens in one transaction, some with further fields."""
    ids = list(VM.objects.filter(pk__startswith="vm-").values_list("pk", flat=True))
    for number in itertools.count(1):
        some = [ids[(number * 37 + step) % len(ids)] for step in range(32)]
        said = [heartbeats.Heartbeat(vm_id) for vm_id in some]
        said.append(heartbeats.Heartbeat(ids[0], vitals={"load": number}))
        answers = fast_path.write(
            lambda _: None, [fast_path.WriteRequest(None, [each], True) for each in said]
        )
        assert all(answer and answer.status == 200 for answer in answers)
        noted["load"] = number
        yield


def register_on(noted: dict[str, Any]) -> Iterator[None]:
    """New VMs, and the same ones again under another name; every third leaves."""
    noted["there"] = []
    for number in itertools.count():
        vm_id = f"new-{number}"
        services.register(command(vm_id))
        services.register(command(vm_id, "second"))
        if number % 3 == 0:
            services.deregister(vm_id)
        else:
            noted["there"].append(vm_id)
        yield


def change_tree_on(noted: dict[str, Any]) -> Iterator[None]:
    """Nodes are made, renamed and moved; each change is a revision."""
    noted["changes"] = noted["made"] = 0
    for number in itertools.count():
        vm_id = f"leaf-{number}"
        dna = {"organs": ["store"], "capabilities": []}
        tree.create(tree.NewNode("n", "swarm_vm", vm_id, f"node-{number % 100}", dna), by="t")
        tree.change(vm_id, tree.NodeChange(name=f"name {number}"), by="t")
        tree.change(vm_id, tree.NodeChange(parent_vm_id=f"node-{number % 50 + 100}"), by="t")
        noted["made"] += 1
        noted["changes"] += 2
        yield


def snapshot_on(noted: dict[str, Any]) -> Iterator[None]:
    noted["taken"] = 0
    while True:
        snapshots.take(by="tests")
        noted["taken"] += 1
        time.sleep(0.2)
        yield


WRITERS = {
    "beats": beat_on,
    "registrations": register_on,
    "tree": change_tree_on,
    "snapshots": snapshot_on,
}


def write(name: str, seconds: float) -> None:
    """Go on for so long; any error ends the process with its traceback."""
    noted: dict[str, Any] = {"rounds": 0, "longest": 0.0}
    rounds = WRITERS[name](noted)
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        next(rounds)
        noted["rounds"] += 1
        noted["longest"] = max(noted["longest"], time.monotonic() - began)
    print(json.dumps(noted))


def check(done: dict[str, Any]) -> None:
    """All that was answered is there."""
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
