"""Responses of the API of hosts, in the wire format."""

from __future__ import annotations

from typing import Any

from lieutenants.hosts.liveness import Host
from reef_site.common.api.fields import Flag, Text, Timestamp, WholeNumber
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody


class HostResponse(ResponseBody):
    """A data folder with its host."""

    id = Text(help_text="Of the data folder; empty in rows of earlier versions.")
    host = Text(source="name")
    here = Flag(source="is_here")
    answers = Flag()
    seenAt = Timestamp(source="seen_at", allow_null=True)
    lieutenants = WholeNumber()
    agentsToEnd = WholeNumber(source="leftovers", help_text="Agents of destroyed lieutenants.")
    path = Text(required=False)
    why = Text(source="trouble", required=False, help_text="Why nothing happens there.")
    rival = Text(required=False, help_text="Another host with the same data folder.")

    example = {
        "id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "host": "reef-1",
        "here": True,
        "answers": True,
        "seenAt": "2026-11-22T06:25:10.120Z",
        "lieutenants": 3,
        "agentsToEnd": 0,
        "path": "/srv/reef/data",
    }


_read = object_reader(HostResponse, blank_as_null=True)


def host_json(host: Host) -> dict[str, Any]:
    """Return a host as JSON, without empty texts that are optional."""
    facts = _read(host)
    optional = ("path", "why", "rival")
    return {key: value for key, value in facts.items() if value or key not in optional}
