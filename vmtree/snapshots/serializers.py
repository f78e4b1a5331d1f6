"""Requests and responses of the snapshots' API, in the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reef_site.common.api.fields import (
    Choice,
    Flag,
    JsonValue,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody
from reef_site.common.errors import BadInput
from reef_site.common.text import parse_number
from vmtree.fields import Dna
from vmtree.models import Category
from vmtree.snapshot_models import Snapshot, State, Why
from vmtree.snapshots import files

Json = dict[str, Any]
MAX_ITEMS = 100_000
DEFAULT_ITEMS = 1000
NOW = "now"

# -- responses -----------------------------------------------------------------------------------


class SnapshotResponse(ResponseBody):
    """A snapshot and the state of its file."""

    id = WholeNumber()
    file = Text()
    snapshot = Text(help_text="The path of the file.")
    why = Choice(Why.values)
    madeBy = Text(source="made_by")
    state = Choice(State.values)
    trouble = Text(allow_null=True, help_text="What is wrong with it.")
    at = Timestamp(allow_null=True, help_text="The time of its data.")
    beganAt = Timestamp(source="began_at")
    size = WholeNumber(help_text="Bytes.")
    sha256 = Text(allow_null=True)
    counts = JsonValue("object", help_text="Number of rows by table.")
    pinned = Flag()
    checkedAt = Timestamp(source="checked_at", allow_null=True)
    host = Text()

    example = {
        "id": 7,
        "file": "vms-20261122T062109.sqlite",
        "snapshot": "data/snapshots/vms-20261122T062109.sqlite",
        "why": "asked",
        "madeBy": "ada",
        "state": "ready",
        "trouble": None,
        "at": "2026-11-22T06:21:09.098Z",
        "beganAt": "2026-11-22T06:21:09.098Z",
        "size": 40_960,
        "sha256": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        "counts": {"nodes": 3},
        "pinned": False,
        "checkedAt": "2026-11-22T06:21:09.120Z",
        "host": "reef-1",
    }


_read_snapshot = object_reader(SnapshotResponse, "snapshot", blank_as_null=True)


def snapshot_json(snapshot: Snapshot) -> Json:
    """Return a snapshot as JSON."""
    return _read_snapshot(snapshot) | {"snapshot": files.shown_path(snapshot.file)}


class TakenResponse(ResponseBody):
    snapshot = Text(help_text="The path of the file.")
    prunedOldSnapshots = WholeNumber()
    id = WholeNumber()

    example = {
        "snapshot": "data/snapshots/vms-20261122T062109.sqlite",
        "prunedOldSnapshots": 0,
        "id": 7,
    }


class ComparedVMResponse(ResponseBody):
    vmId = Text()
    name = Text()
    category = Choice(Category.values)
    parentVmId = Text(allow_null=True)


class ChangedVMResponse(ResponseBody):
    """The values that differ, before and after."""

    vmId = Text()
    name = Text()
    from_ = JsonValue("object")
    to = JsonValue("object")


class KeptVMResponse(ChangedVMResponse):
    why = Text()


class ChangedDnaResponse(ResponseBody):
    vmId = Text()
    name = Text()
    added = Dna()
    removed = Dna()


class LeftOutVMResponse(ComparedVMResponse):
    why = Text()


class ComparedRowResponse(ResponseBody):
    id = Text()
    name = Text()


class ChangedRowResponse(ComparedRowResponse):
    from_ = JsonValue("object")
    to = JsonValue("object")


class ComparedTableResponse(ResponseBody):
    """The differences of a further table, which are not restored."""

    counts = JsonValue("object")
    added = ComparedRowResponse(many=True)
    removed = ComparedRowResponse(many=True)
    changed = ChangedRowResponse(many=True)


class DifferencesResponse(ResponseBody):
    """The number of VMs by kind of difference, and the first ones of each kind."""

    counts = JsonValue("object")
    truncated = Flag()
    added = ComparedVMResponse(many=True)
    removed = ComparedVMResponse(many=True)
    moved = ChangedVMResponse(many=True)
    dnaChanged = ChangedDnaResponse(many=True)
    renamed = ChangedVMResponse(many=True)
    kept = KeptVMResponse(many=True, help_text="Alive, so they stay.")
    leftOut = LeftOutVMResponse(many=True, help_text="Destroyed since, so they stay away.")


NO_DIFFERENCES: Json = {
    "counts": {"added": 0, "removed": 0},
    "truncated": False,
    **{kind: [] for kind in ("added", "removed", "moved", "dnaChanged", "renamed")},
    "kept": [],
    "leftOut": [],
}


class SnapshotReference(JsonValue):
    """The id of a snapshot, or `now`."""

    def to_internal_value(self, data: Any) -> Any:
        key = data if data == NOW else parse_number(data)
        if key is None:
            self.refuse("must be the id of a snapshot, or 'now'")
        return key

    def schema(self) -> Json:
        return {"type": ["integer", "string"]}


class ComparisonResponse(DifferencesResponse):
    from_ = WholeNumber(help_text="The id of a snapshot.")
    to = SnapshotReference()
    registry = ComparedTableResponse(required=False, help_text="If reef has this organ.")

    example = {"from": 7, "to": "now", **NO_DIFFERENCES}


class RestoreResponse(DifferencesResponse):
    """The plan with its `confirm`; or what was restored, and the snapshot taken before."""

    restored = Flag()
    confirm = Text(required=False)
    notRestored = JsonValue("object", required=False, help_text="Differences of further tables.")
    before = SnapshotResponse(required=False)

    example = {"restored": False, "confirm": "9f2c6d", **NO_DIFFERENCES, "notRestored": {}}


# -- requests ------------------------------------------------------------------------------------


class PinBody(Body):
    pinned = Flag(default=True)

    example = {"pinned": True}


LIMIT: Json = {
    "most": MAX_ITEMS,
    "default": DEFAULT_ITEMS,
    "help_text": "How many items of each kind to list; 0: none, only counts.",
}


class CompareQuery(Query):
    to = SnapshotReference(help_text="The id of the other snapshot. Absent: `now`.")
    with_ = SnapshotReference(help_text="Older name of `to`.")
    limit = WholeNumber(**LIMIT)

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        values = super().to_internal_value(data)
        to, older = values["to"], values["with"]
        if to is not None and older is not None and to != older:
            raise BadInput("to: is another one than with", "to")
        other = older if to is None else to
        return {**values, "to": NOW if other is None else other}


class RestoreQuery(Query):
    limit = WholeNumber(**LIMIT)


class Confirmation(Text):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.refuse("must be the text that the comparison came with")
        return data


class RestoreBody(Body):
    confirm = Confirmation(default=None, allow_null=True, help_text="Absent: only the plan.")

    example = {"confirm": "9f2c6d"}
