"""Secrets in the store: those stored by operators are masked everywhere, those of nodes are not.

A node could otherwise hide words in everybody's transcripts by storing values of its choice. So its
secrets are masked only in texts of the node itself and its descendants.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache, partial

from django.db.models import F, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from reef_site.common.errors import ReefError
from versconfig import vault
from versconfig.models import Setting, Version
from versconfig.screening.screen import Secret
from vmtree.lineage import ancestor_keys
from vmtree.models import LINKS, Node

logger = logging.getLogger(__name__)

# Old values may be in the environment of running agents: this many of each key and scope are
# masked, and in all this many of those stored by a node and its ancestors. Current values are
# always masked.
MAX_OLD, MAX_OLD_OF_LINE = 20, 200
# How long a node's ancestors are cached.
_LINE_SECONDS = 30.0
_MAX_LINES = 10_000
# How old the cached state of the store may be.
CHECK_SECONDS = 1.0

_newest_by_nodes: tuple[float, tuple[int, str] | None] = (float("-inf"), None)
_lines: dict[str, tuple[float, Hashable, tuple[Secret, ...]]] = {}


def fingerprint() -> Hashable:
    """Return a value that differs after each change of a secret that no node stored."""
    return _newest(Q(stored_by=None))


def everywhere() -> list[Secret]:
    """Return the secrets that no node stored."""
    return _opened(_rows(Q(stored_by=None)))


def recheck() -> None:
    """Look for secrets stored by nodes now, and read each node's ancestors again when asked."""
    global _newest_by_nodes
    _newest_by_nodes = (time.monotonic(), _newest(Q(stored_by__isnull=False)))
    _lines.clear()


def of_line(vm_id: str, *, recheck: bool = False) -> tuple[Secret, ...]:
    """Return the secrets that this node or an ancestor stored."""
    global _newest_by_nodes
    now = time.monotonic()
    if recheck or now - _newest_by_nodes[0] >= CHECK_SECONDS:
        _newest_by_nodes = (now, _newest(Q(stored_by__isnull=False)))
    newest = _newest_by_nodes[1]
    if newest is None:
        return ()
    known = _lines.get(vm_id)
    if known and known[1] == newest and not recheck and now - known[0] < _LINE_SECONDS:
        return known[2]
    pk = Node.objects.filter(vm_id=vm_id).values_list("pk", flat=True).first()
    by_line = Q(stored_by__in=ancestor_keys(LINKS, pk) if pk else [])
    found = tuple(_opened(_rows(by_line, MAX_OLD_OF_LINE)))
    if len(_lines) > _MAX_LINES:
        _lines.clear()
    _lines[vm_id] = (now, newest, found)
    return found


def of_versions(versions: Sequence[int]) -> list[Secret]:
    """Return the secrets of these versions."""
    rows = Version.objects.filter(pk__in=versions).exclude(sealed="").order_by("-pk")
    return _opened(rows.values_list("key", "sealed"))


def unseal(what: str, opened: Callable[[], str]) -> str:
    """Return the result of `opened`; empty, with a log line, if it cannot be decrypted."""
    try:
        return opened()
    except ReefError as error:
        logger.warning("%s cannot be read, so it is not covered in texts: %s", what, error)
        return ""


def _newest(whose: Q) -> tuple[int, str] | None:
    rows = Version.objects.filter(whose).exclude(sealed="").order_by("-pk")
    return rows.values_list("pk", "sealed").first()


def _rows(whose: Q, most: int | None = None) -> list[tuple[str, str]]:
    """Return key and encrypted value of current settings and of the newest old versions."""
    now = Setting.objects.filter(whose).exclude(sealed="").order_by("-version")
    place = [F("key"), F("scope"), F("node")]
    number = Window(RowNumber(), partition_by=place, order_by=F("pk").desc())
    old: QuerySet[Version] = Version.objects.filter(whose).exclude(sealed="")
    capped = old.annotate(number=number).filter(number__lte=MAX_OLD).order_by("-pk")
    pairs = ("key", "sealed")
    return list(dict.fromkeys([*now.values_list(*pairs), *capped.values_list(*pairs)[:most]]))


def _opened(rows: Iterable[tuple[str, str]]) -> list[Secret]:
    found = [Secret(key, unseal(key, partial(_unseal, key, sealed))) for key, sealed in rows]
    return [each for each in found if each.value]


@lru_cache(4096)
def _unseal(key: str, sealed: str) -> str:
    """Cache decrypted values. Raises Unreadable each time for an unreadable one."""
    return vault.unseal(key, sealed)
