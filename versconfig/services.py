"""What may be asked of the store: set, remove, undo, and what a change would do before it is made.

Reading is `versconfig.config`; its functions can be had here, too. `by` is whoever asks: a caller
as authentication found it, or the name of a part of reef.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from django.db import IntegrityError, transaction

from reef_site.common import clock, database_locks
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, Forbidden, NotFound, ReefError
from versconfig import config as config
from versconfig import keys, scopes, values
from versconfig.config import boolean as boolean
from versconfig.config import explain as explain
from versconfig.config import integer as integer
from versconfig.config import lines as lines
from versconfig.config import names as names
from versconfig.config import needed as needed
from versconfig.config import pairs as pairs
from versconfig.config import resolve as resolve
from versconfig.config import resolve_all as resolve_all
from versconfig.config import secret as secret
from versconfig.config import text as text
from versconfig.exceptions import Changed, TooManyChanges
from versconfig.keys import Key
from versconfig.models import Scope, Setting, Version, What
from versconfig.resolve import Resolved as Resolved
from versconfig.scopes import FLEET as FLEET
from versconfig.scopes import Target as Target
from vmtree import authority
from vmtree.models import Node

ANY = -1
# Of one node's token.
MAX_CHANGES_PER_MINUTE = 30
NOT_STORED = "Key not found in overrides"


@dataclass(frozen=True)
class Wish:
    """A change: this text for that key and scope; an empty text removes it.

    `seen` is the version that the asker knows to be the newest (None: there was none); the wish
    is refused if it is not. `ANY` does not ask.
    """

    key: Key
    text: str
    target: Target = FLEET
    seen: int | None = ANY

    def __repr__(self) -> str:
        return f"<wish for {self.key.name} of {self.target}>"


def wish_of(name: str, text: str, target: Target = FLEET, seen: int | None = ANY) -> Wish:
    """A change that is possible as such. Raises BadInput, Conflict."""
    key = keys.get(name)
    text = text.strip()
    if text:
        scopes.check_fits(key, target)
    if text and (problem := values.problem(key, text)):
        raise BadInput(f"value: {problem}", "value")
    return Wish(key, text, target, seen)


def check_may(by: object, key: Key, target: Target) -> None:
    """Raise Forbidden unless the caller may change this key for this scope."""
    authority.check(by, "write", target.node)
    if authority.node_of(by) is not None and not key.by_nodes:
        raise Forbidden(f"rule: only operators and the root token change {key.name}")


def put(wish: Wish, *, by: object, what: What = What.SET) -> Version | None:
    """Make the wish true and write it down. Raises Forbidden, Changed, TooManyChanges.

    The newest version there is if all is as wished already; None if there never was one.
    """
    check_may(by, wish.key, wish.target)
    try:
        return _change(wish, by, what)
    except IntegrityError:
        # Two set the same key for the first time; now there is a row to wait for.
        return _change(wish, by, what)


def remove(name: str, target: Target = FLEET, *, by: object, seen: int | None = ANY) -> None:
    """Take a stored value away. Raises NotFound, Forbidden, Changed."""
    put(removal_of(name, target, by=by, seen=seen), by=by, what=What.REMOVED)


def removal_of(name: str, target: Target, *, by: object, seen: int | None = ANY) -> Wish:
    """Return the change that takes a stored value away. Raises NotFound, Forbidden, Changed."""
    key = keys.ALL.get(name)
    if key is None:
        raise NotFound(NOT_STORED)
    check_may(by, key, target)
    wish = Wish(key, "", target, seen)
    check_seen(wish)
    if not Setting.objects.at_place(name, target.scope, target.node).exists():
        raise NotFound(NOT_STORED)
    return wish


def check_seen(wish: Wish) -> Version | None:
    """Return the newest version. Raises Changed if the wish builds on another one."""
    last = newest(wish.key.name, wish.target)
    if wish.seen != ANY and wish.seen != (last.pk if last else None):
        by = last.actor if last else "somebody"
        raise Changed(f"{wish.key.name} was changed by {by} meanwhile")
    return last


def undo(version_id: int, *, by: object) -> Version:
    """Make what this version did undone; only of the newest one of its key and scope.

    Raises NotFound, Forbidden, Conflict.
    """
    version = _version(version_id)
    _check_may_go_back(by, version)
    wish = wish_back(version, undoing=True)
    return put(wish, by=by, what=What.UNDONE) or version


def put_back(version_id: int, *, by: object) -> Version:
    """Have again what held after this version. Raises NotFound, Forbidden, Conflict."""
    version = _version(version_id)
    _check_may_go_back(by, version)
    wish = wish_back(version, undoing=False)
    return put(wish, by=by, what=What.PUT_BACK) or version


def _check_may_go_back(by: object, version: Version) -> None:
    """Raise Forbidden before anything of the version is looked at."""
    check_may(by, keys.get(version.key), Target(Scope(version.scope), version.node))


def wish_back(version: Version, *, undoing: bool) -> Wish:
    """What undoing this version, or putting it back, comes to. Raises Conflict, Unreadable."""
    target = Target(Scope(version.scope), version.node)
    if not undoing:
        return wish_of(version.key, version.text(), target)
    before = version.previous
    return wish_of(version.key, before.text() if before else "", target, version.pk)


def newest(name: str, target: Target) -> Version | None:
    """The last change of a key and scope."""
    found = Version.objects.filter(key=name, scope=target.scope, node=target.node)
    return found.order_by("-id").first()


# -- rules of the above --------------------------------------------------------------------------


@transaction.atomic
def _change(wish: Wish, by: object, what: What) -> Version | None:
    database_locks.lock(DatabaseLock.VAULT_KEYS, shared=True)
    target, name = wish.target, wish.key.name
    rows = Setting.objects.select_for_update().at_place(name, target.scope, target.node)
    row = rows.first()
    node = authority.node_of(by)
    last = check_seen(wish)
    if _same(row, wish.text) and (row is None or row.stored_by in (None, node)):
        return last
    if node:
        _check_rate(node)
    if not wish.text and what is What.SET:
        what = What.REMOVED
    version = Version(key=name, scope=target.scope, node=target.node, what=what, previous=last)
    version.at, version.actor, version.stored_by = clock.now(), str(by)[:200], node
    version.hold(wish.text, secret=values.is_secret(wish.key, wish.text))
    version.save(force_insert=True)
    _store(row, version)
    return version


def _check_rate(node: Node) -> None:
    """Raise TooManyChanges: each version is kept, and screened for if it is a secret."""
    since = clock.now() - timedelta(minutes=1)
    times = Version.objects.filter(stored_by=node, at__gt=since).values_list("at", flat=True)
    if len(times) >= MAX_CHANGES_PER_MINUTE:
        wait = (min(times) - since).total_seconds()
        raise TooManyChanges(MAX_CHANGES_PER_MINUTE, max(1, math.ceil(wait)))


def _store(row: Setting | None, version: Version) -> None:
    """The setting is what the version says."""
    if version.is_empty:
        if row:
            row.delete()
        return
    row = row or Setting(key=version.key, scope=version.scope, node=version.node)
    row.clear, row.sealed, row.version = version.clear, version.sealed, version
    row.at, row.actor, row.stored_by = version.at, version.actor, version.stored_by
    row.save()


def _same(row: Setting | None, text: str) -> bool:
    """Whether this is stored already; what cannot be read is something else."""
    if row is None:
        return not text
    try:
        return row.text() == text
    except ReefError:
        return False


def _version(version_id: int) -> Version:
    found = Version.objects.select_related("node", "previous").filter(pk=version_id).first()
    if found is None:
        raise NotFound("There is no such version")
    return found
