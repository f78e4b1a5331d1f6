"""Resources: what an MCP client may read, and at which path of the API each is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import quote, unquote

from reef_site.edge.mcp.web import Json, Web

JSON, MARKDOWN = "application/json", "text/markdown"
LIEUTENANTS = "/lieutenant/lieutenants"


class Kind(NamedTuple):
    """A kind of resource; braces in its URI and its path stand for a part of both."""

    uri: str
    path: str
    name: str
    about: str
    mime_type: str = JSON

    @property
    def is_template(self) -> bool:
        return "{" in self.uri

    def path_of(self, uri: str) -> str:
        """Return the path of this URI; empty if it is of another kind."""
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.uri))
        found = re.fullmatch(pattern, uri)
        if found is None:
            return ""
        parts = {name: quote(unquote(part), safe="") for name, part in found.groupdict().items()}
        return self.path.format(**parts)


TREE = Kind(
    "reef://tree", "/vm-tree/tree", "tree", "The tree of all VMs and lieutenants of the fleet."
)
ALL = Kind("reef://lieutenants", f"{LIEUTENANTS}?brief=true", "lieutenants", "All lieutenants.")
TRANSCRIPT = Kind(
    "reef://lieutenants/{name}/transcript",
    LIEUTENANTS + "/{name}/export?format=markdown",
    "transcript",
    "The whole transcript of a lieutenant.",
    MARKDOWN,
)
SNAPSHOTS = Kind("reef://snapshots", "/vm-tree/snapshots", "snapshots", "Snapshots of the fleet.")
SNAPSHOT = Kind(
    "reef://snapshots/{id}", "/vm-tree/snapshots/{id}", "snapshot", "One snapshot of the fleet."
)
KINDS = (TREE, ALL, TRANSCRIPT, SNAPSHOTS, SNAPSHOT)


class Resource(NamedTuple):
    """A resource that the caller may read."""

    uri: str
    name: str
    about: str
    mime_type: str


def find(uri: str) -> tuple[Kind, str] | None:
    """Return the kind and the path of a URI; None if there is no such resource."""
    return next(((kind, path) for kind in KINDS if (path := kind.path_of(uri))), None)


async def readable(web: Web) -> AsyncIterator[Resource]:
    """Yield the resources that the caller may read. Raises httpx.HTTPError."""
    yield _whole(TREE)
    listed = await web.get(ALL.path)
    if listed.status == 200:
        yield _whole(ALL)
        for row in listed.json()["lieutenants"]:
            # Rows of which the caller may not read more have only what is public.
            if "usage" in row:
                yield _one(TRANSCRIPT, row, "name")
    snapshots = await web.get(SNAPSHOTS.path)
    if snapshots.status == 200:
        yield _whole(SNAPSHOTS)
        for row in snapshots.json()["snapshots"]:
            yield _one(SNAPSHOT, row, "id")


def _whole(kind: Kind) -> Resource:
    return Resource(kind.uri, kind.name, kind.about, kind.mime_type)


def _one(kind: Kind, row: Json, key: str) -> Resource:
    part = str(row[key])
    uri = kind.uri.format(**{key: quote(part, safe="")})
    return Resource(uri, f"{kind.name} {part}", kind.about, kind.mime_type)
