"""Differences of the tree API from `golden.json`, with reasons."""

from __future__ import annotations

import re

from tests.wire.corrections import (
    BAD_INPUT,
    JSON_404,
    JSON_405,
    NOT_JSON,
    Correction,
    HasValues,
    error,
)

FOUND_EXACTLY = "find takes the exact name of an organ, or of a capability, in its case"
SHAPE = "the shape of reefConfig is checked at the door"
IN_DATA_FOLDER = "the path leads to the data folder, which these tests have elsewhere"
SNAPSHOT_FILE = re.compile(r"/.+/snapshots/vms-[\d-]{10}T\d\d-\d\d-\d\d-\d{3}Z\.sqlite")

CREATE = {
    "create duplicate id": Correction(
        "a duplicate id is 409", 409, error("VM 't-root' exists already")
    ),
    "create number name": Correction(BAD_INPUT, 400, error("name: must be a string")),
    "create object id": Correction(BAD_INPUT, 400, error("vmId: must be a string")),
    "create null body": Correction(BAD_INPUT, 400, error("name is required")),
    "create malformed": Correction(BAD_INPUT, 400, NOT_JSON),
    "create empty body": Correction(BAD_INPUT, 400, error("name is required")),
    "create with bad reefConfig shape": Correction(
        SHAPE, 400, error("reefConfig: must be an object with organs and capabilities")
    ),
    "delete bad shape": Correction(f"it was not made: {SHAPE}", 404, error("VM not found")),
}

CHANGE = {
    "patch parent ignored": Correction(
        "PATCH parentVmId moves a node", changes={"parentVmId": "t-root"}
    ),
    "patch empty category": Correction(BAD_INPUT, 400, error("invalid category: ")),
    "patch null name": Correction(BAD_INPUT, 400, error("name: must be a string")),
    "patch unknown": Correction("an unknown id is 404", 404, error("VM 'nope' not found")),
    "patch malformed": Correction(BAD_INPUT, 400, NOT_JSON),
    "diff with null reefConfig": Correction(
        "a VM without DNA has neither organs nor capabilities",
        200,
        {
            "added": {"organs": [], "capabilities": []},
            "removed": {"organs": ["store"], "capabilities": ["vers-vm", "ssh"]},
        },
    ),
    "panel with null reefConfig": Correction(
        "a VM without DNA breaks no page", 200, re.compile(r"<section.*</section>\s*", re.DOTALL)
    ),
}

FIND = {
    "find organ": Correction(
        FOUND_EXACTLY, changes={"vms": [HasValues({"vmId": "t-lt"})], "count": 1}
    ),
    "find capability": Correction(
        FOUND_EXACTLY, changes={"vms": [HasValues({"vmId": "t-s1"})], "count": 1}
    ),
    **{
        case: Correction(FOUND_EXACTLY, response={"vms": [], "count": 0})
        for case in (
            *("find organ wildcard percent", "find organ wildcard underscore"),
            *("find organ upper case", "find organ matches JSON key"),
            "find capability matches JSON key",
        )
    },
    "find bad kind": Correction(JSON_404, 404, error("not found")),
}

SNAPSHOTS = {
    "snapshot": Correction(IN_DATA_FOLDER, changes={"snapshot": SNAPSHOT_FILE}),
    "snapshot GET": Correction(JSON_405, 405, error("method not allowed")),
}

CORRECTIONS = {**CREATE, **CHANGE, **FIND, **SNAPSHOTS}

# The recorded server kept the node here, and the following exchanges rely on that: restore it.
AFTERWARDS = {
    "patch parent ignored": {
        "method": "PATCH",
        "path": "/vm-tree/vms/t-s2",
        "request": {"parentVmId": "t-lt"},
    },
}
