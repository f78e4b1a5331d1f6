"""VMs in the wire format straight from their table, without model objects.

The output equals that of `serializers.vm_json`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import orjson
from django.db import connection

from reef_site.common import clock
from registry import liveness
from registry.heartbeats import wire_date
from registry.models import LINKS, Watch
from registry.queries import DriverTime, fetch_rows, in_list, to_driver_time
from vmtree import lineage

Json = dict[str, Any]


class RegistryReader:
    """The registry at one moment, for all reads of one batch."""

    def __init__(self) -> None:
        now = clock.now()
        self._at: DriverTime = to_driver_time(now)
        self._grace = Watch.grace(now)
        self._parse = _fragment if connection.vendor == "sqlite" else orjson.loads

    def vms(self, ids: Iterable[str]) -> dict[str, Json]:
        """Return those of these VMs that are registered, by id."""
        inside, parameter = in_list(ids)
        rows = self._rows(f"WHERE v.id IN {inside}", [parameter])
        return {row[0]: self._json(row) for row in rows}

    def discover(self, role: str) -> list[Json]:
        """Return VMs of this role that are running and not silent, most recently seen first."""
        condition, values = "WHERE v.role = %s AND v.status = 'running'", [role]
        if not self._grace:
            condition, values = f"{condition} AND v.silent_after > %s", [role, self._at]
        rows = sorted(self._rows(condition, values), key=itemgetter(0))
        rows.sort(key=itemgetter(10), reverse=True)
        return [self._json(row) for row in rows]

    def ancestors(self, ids: Iterable[str]) -> dict[str, list[Json]]:
        """Return for each registered id its ancestors, topmost first, the VM itself last."""
        ids = set(ids)
        inside, parameter = in_list(ids)
        head = lineage.above(LINKS, start=f"id IN {inside}")
        rows = self._rows("JOIN line ON line.key = v.id", [parameter], head)
        parents = {row[0]: row[5] for row in rows}
        facts = {row[0]: self._json(row) for row in rows}
        lines = {vm_id: lineage.path_to(vm_id, parents) for vm_id in ids if vm_id in parents}
        return {vm_id: [facts[key] for key in line] for vm_id, line in lines.items()}

    def _rows(self, rest: str, values: Sequence[Any], head: str = "") -> list[Sequence[Any]]:
        return fetch_rows(_COLUMNS, f"FROM registry_vm v {rest}", values, head)

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
        facts["liveness"] = liveness.liveness_at(
            row[13], row[14], self._at, grace=self._grace
        ).value
        if vitals != "{}":
            facts["vitals"] = self._parse(vitals)
        return facts


def _fragment(text: str) -> orjson.Fragment:
    """Embed stored JSON, which is compact, as it is."""
    return orjson.Fragment(text)


_COLUMNS = (
    "v.id, v.name, v.role, v.status, v.address, v.parent_vm_id, v.services, v.reef_config,"
    " v.registered_by, v.registered_at, v.last_seen, v.metadata, v.has_metadata, v.late_after,"
    " v.silent_after, v.vitals"
)
