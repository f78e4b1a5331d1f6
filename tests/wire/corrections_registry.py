"""Differences of the registry API from `golden.json`, with reasons."""

from __future__ import annotations

import re

from tests.wire.corrections import BAD_INPUT, JSON_404, NOT_JSON, Correction, HasValues, error

CIRCLES = "no VM is its own parent, and parents form no circle"
NO_CIRCLE = f"the circle was not made: {CIRCLES}"
SHAPE = "the shape of reefConfig and services is checked at the door"
NOT_TAKEN = f"this VM was not taken: {SHAPE}"

REGISTER = {
    "register number id": Correction(BAD_INPUT, 400, error("id: must be a string")),
    "register null body": Correction(BAD_INPUT, 400, error("id is required")),
    "register malformed JSON": Correction(BAD_INPUT, 400, NOT_JSON),
    "register no body": Correction(BAD_INPUT, 400, error("id is required")),
    "register id with spaces (first time)": Correction(
        "the answer is the VM, under its trimmed id", response=HasValues({"id": "vm-pad"})
    ),
    "register id with spaces (again)": Correction(
        "an id is trimmed each time, so the second time is an upsert",
        201,
        HasValues({"id": "vm-pad", "name": "pad"}),
    ),
    "bad reefConfig shape accepted": Correction(SHAPE, 400, error("services: must be a list")),
    "parent cannot be cleared by register": Correction(NO_CIRCLE, changes={"parentVmId": None}),
}

PATCH = {
    "patch role and parent ignored": Correction(
        "PATCH may change the parent", changes={"parentVmId": "vm-root"}
    ),
    "patch null name": Correction(BAD_INPUT, 400, error("name: must be a string")),
    "patch number name": Correction(BAD_INPUT, 400, error("name: must be a string")),
    "patch malformed": Correction(BAD_INPUT, 400, NOT_JSON),
}

LINE = [
    HasValues({"id": "vm-root", "parentVmId": None, "address": "vm-root.vm.vers.sh"}),
    HasValues({"id": "vm-lt", "parentVmId": "vm-root", "name": "lt renamed"}),
    HasValues({"id": "vm-w1", "parentVmId": "vm-lt", "address": "addr"}),
]
CYCLES = {
    "cycle: root's parent becomes worker": Correction(
        CIRCLES, 400, error(re.compile("parentVmId: 'vm-w1' stands below 'vm-root', .+"))
    ),
    "cycle: ancestors terminates": Correction(NO_CIRCLE, response={"ancestors": LINE, "count": 3}),
    "cycle: subtree terminates": Correction(NO_CIRCLE, response={"subtree": LINE, "count": 3}),
    "self parent": Correction(CIRCLES, 400, error("parentVmId: a VM cannot be its own parent")),
}

OTHERS = {
    "discover without role": Correction(JSON_404, 404, error("not found")),
    "diff with bad shape": Correction(NOT_TAKEN, 404, error("One or both VMs not found")),
    "panel broken by bad shape": Correction(NOT_TAKEN, 200, "<<a table>>"),
    "delete bad shape": Correction(NOT_TAKEN, 404, error("VM not found")),
}

BEATS = {
    "after heartbeat": Correction(
        "who was paused stays so until it is resumed, registers or says that it runs: what was"
        " meant to rest is not woken by the next beat of its agent",
        changes={"status": "paused"},
    ),
}

CORRECTIONS: dict[str, Correction] = {**REGISTER, **PATCH, **BEATS, **CYCLES, **OTHERS}

# The recorded server kept or woke the VM here, and the following exchanges rely on that.
AFTERWARDS = {
    "after heartbeat": {
        "method": "PATCH",
        "path": "/registry/vms/vm-w1",
        "request": {"status": "running"},
    },
    "patch role and parent ignored": {
        "method": "PATCH",
        "path": "/registry/vms/vm-w1",
        "request": {"parentVmId": "vm-lt"},
    },
}
