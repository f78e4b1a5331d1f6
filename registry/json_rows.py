"""VMs in the wire format straight from their table, without model objects.

Both this and `serializers.vm_json` follow the fields of `VMResponse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import orjson
from django.db import connection

from reef_site.common import clock
from reef_site.common.api.rows import PositionalReader
from reef_site.common.queries import DriverTime, to_driver_time
from registry import liveness, queries
from registry.heartbeats import wire_date
from registry.models import Watch
from registry.serializers import OPTIONAL, VMResponse
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
        return {row[0]: self._json(row) for row in queries.rows_of_vms(_COLUMNS, ids)}

    def discover(self, role: str) -> list[Json]:
        """Return VMs of this role that are running and not silent, most recently seen first."""
        silent_after = None if self._grace else self._at
        rows = sorted(queries.rows_of_running(_COLUMNS, role, silent_after), key=itemgetter(0))
        rows.sort(key=itemgetter(10), reverse=True)
        return [self._json(row) for row in rows]

    def ancestors(self, ids: Iterable[str]) -> dict[str, list[Json]]:
        """Return for each registered id its ancestors, topmost first, the VM itself last."""
        ids = set(ids)
        rows = queries.rows_of_ancestors(_COLUMNS, ids)
        parents = {row[0]: row[5] for row in rows}
        facts = {row[0]: self._json(row) for row in rows}
        lines = {vm_id: lineage.path_to(vm_id, parents) for vm_id in ids if vm_id in parents}
        return {vm_id: [facts[key] for key in line] for vm_id, line in lines.items()}

    def _json(self, row: Sequence[Any]) -> Json:
        late_after, silent_after = row[-2:]
        state = liveness.liveness_at(late_after, silent_after, self._at, grace=self._grace)
        return _READER.read(row, self._parse, wire_date, state.value)


def _fragment(text: str) -> orjson.Fragment:
    """Embed stored JSON, which is compact, as it is."""
    return orjson.Fragment(text)


_READER = PositionalReader(VMResponse, "v", given=["liveness"], present=OPTIONAL)
# The last two are read by their position: liveness is calculated from them.
_COLUMNS = ", ".join([*_READER.columns, "v.late_after", "v.silent_after"])
