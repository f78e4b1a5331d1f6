"""VMs straight from their table as the wire has them, without model objects in between.

What `serializers.vm_json` says of a row, this says too; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import orjson
from django.db import connection

from reef_site.common import clock
from registry import liveness
from registry.beats import wire_date
from registry.models import LINKS, Watch
from registry.sql import Stamp, look, members, stamp
from vmtree import lineage

Json = dict[str, Any]


class View:
    """The registry at one moment, for the questions of one round."""

    def __init__(self) -> None:
        now = clock.now()
        self._at: Stamp = stamp(now)
        self._grace = Watch.grace(now)
        self._parse = _fragment if connection.vendor == "sqlite" else orjson.loads

    def vms(self, ids: Iterable[str]) -> dict[str, Json]:
        """Those of these VMs that are registered."""
        inside, parameter = members(ids)
        rows = self._rows(f"WHERE v.id IN {inside}", [parameter])
        return {row[0]: self._json(row) for row in rows}

    def discover(self, role: str) -> list[Json]:
        """VMs of this role that answer now, newest sign first."""
        condition, values = "WHERE v.role = %s AND v.status = 'running'", [role]
        if not self._grace:
            condition, values = f"{condition} AND v.silent_after > %s", [role, self._at]
        rows = sorted(self._rows(condition, values), key=itemgetter(0))
        rows.sort(key=itemgetter(10), reverse=True)
        return [self._json(row) for row in rows]

    def ancestors(self, ids: Iterable[str]) -> dict[str, list[Json]]:
        """Of each that is registered, the line from its topmost known ancestor down to itself."""
        ids = set(ids)
        inside, parameter = members(ids)
        head = lineage.above(LINKS, start=f"id IN {inside}")
        rows = self._rows("JOIN line ON line.key = v.id", [parameter], head)
        parents = {row[0]: row[5] for row in rows}
        facts = {row[0]: self._json(row) for row in rows}
        lines = {vm_id: lineage.path_to(vm_id, parents) for vm_id in ids if vm_id in parents}
        return {vm_id: [facts[key] for key in line] for vm_id, line in lines.items()}

    def _rows(self, rest: str, values: Sequence[Any], head: str = "") -> list[Sequence[Any]]:
        return look(_COLUMNS, f"FROM registry_vm v {rest}", values, head)

    def _json(self, row: Sequence[Any]) -> Json:
        vitals = row[15]
        facts: Json = {
            "id": row[0],
            "name": row[1],
            "role": row[2],
            "status": row[3],
            "address": row[4],
            "parentVmId": row[5],
            "services": self._parse(row[6]),
            "reefConfig": self._parse(row[7]),
            "registeredBy": row[8],
            "registeredAt": wire_date(row[9]),
            "lastSeen": wire_date(row[10]),
        }
        if row[12]:
            facts["metadata"] = None if row[11] is None else self._parse(row[11])
        facts["liveness"] = liveness.word(row[13], row[14], self._at, grace=self._grace).value
        if vitals != "{}":
            facts["vitals"] = self._parse(vitals)
        return facts


def _fragment(text: str) -> orjson.Fragment:
    """JSON that was stored compactly is handed out as it is."""
    return orjson.Fragment(text)


_COLUMNS = (
    "v.id, v.name, v.role, v.status, v.address, v.parent_vm_id, v.services, v.reef_config,"
    " v.registered_by, v.registered_at, v.last_seen, v.metadata, v.has_metadata, v.late_after,"
    " v.silent_after, v.vitals"
)
