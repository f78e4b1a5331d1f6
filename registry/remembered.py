"""Memory of the edge that holds for one version of the tree: responses, and owners of tokens.

Only while the version of the tree stays, see `vmtree.queries.tree_version`.
"""

from __future__ import annotations

from collections.abc import Iterable

from reef_site.common.asgi import JSONResponse
from reef_site.common.compression import MIN_COMPRESSED
from reef_site.common.fast_routes import FastRoute
from reef_site.common.queries import LoopConnection
from registry.bearer_tokens import TokenOwner, owners_of
from vmtree.queries import tree_version

# Bytes of responses that are remembered at most, and those of one beside its body and key.
MAX_REMEMBERED, OVERHEAD = 64 << 20, 1 << 10


# A route, a key, and whether the body is compressed.
Wanted = tuple[FastRoute, str, bool]


class Memory:
    """Responses and owners of tokens at one version of the tree."""

    def __init__(self, version: int | None = None) -> None:
        self.version = version
        self.responses: dict[Wanted, JSONResponse] = {}
        self.owners: dict[str, TokenOwner] = {}
        self._size = 0

    def keep(self, wanted: Wanted, response: JSONResponse) -> None:
        """Remember a response, and forget all others if they take too much."""
        size = len(response.body) + len(wanted[1]) + OVERHEAD
        self._size += size
        if self._size > MAX_REMEMBERED:
            self.responses, self._size = {}, size
        self.responses[wanted] = response


class Remembered:
    """The memory of all readers of an edge, for the newest version of the tree that they know."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._has_version: bool | None = None

    def now(self, link: LoopConnection | None = None) -> Memory:
        """Return what is remembered and still true; to be called before anything is read.

        A transaction calls it before its first write, which could be rolled back. If the version
        is not kept, nothing is remembered. `link` is for the event loop.
        """
        if self._has_version is None:
            self._has_version = tree_version.is_kept(link)
        if not self._has_version:
            return Memory()
        version = tree_version.current(link)
        memory = self._memory
        if version != memory.version:
            memory = self._memory = Memory(version)
        return memory

    def has(self, wanted: Wanted) -> bool:
        """Return whether a response is remembered in this form, perhaps of an older tree."""
        responses, (route, key, is_packed) = self._memory.responses, wanted
        plain = responses.get((route, key, False))
        if plain is None:
            return False
        return not is_packed or len(plain.body) < MIN_COMPRESSED or wanted in responses


def find_owners(
    digests: Iterable[str | None], memory: Memory, link: LoopConnection | None = None
) -> dict[str, TokenOwner]:
    """Return all remembered owners of tokens, those of these hashes included."""
    unknown = {digest for digest in digests if digest and digest not in memory.owners}
    if unknown:
        # Only valid tokens are remembered, so their number is limited.
        memory.owners.update(owners_of(unknown, link))
    return memory.owners
