"""Use cases of the store: set, remove, undo, and preview of a change.

Reading is `versconfig.config`, whose functions are exported here, too. `by` is the caller: what
authentication found, or the name of a part of reef.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from django.db import IntegrityError, transaction

from reef_site.common import clock, database_locks
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, Forbidden, NotFound, ReefError
from reef_site.common.eventlog import recording
from versconfig import config as config
from versconfig import keys, scopes, values
from versconfig.config import boolean as boolean
from versconfig.config import explain as explain
from versconfig.config import integer as integer
from versconfig.config import lines as lines
from versconfig.config import names as names
from versconfig.config import pairs as pairs
from versconfig.config import required as required
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
from vmtree import permissions
from vmtree.models import Node

ANY = -1
# Limit for one node token.
MAX_CHANGES_PER_MINUTE = 30
NOT_STORED = "Key not found in overrides"


@dataclass(frozen=True)
class SettingChange:
    """A change: store this text for the key and scope; an empty text removes it.

    `seen` is the version that the caller knows as the newest (None: there was none); the change is
    rejected if it is not. `ANY` skips this check.
    """

    key: Key
    text: str
    target: Target = FLEET
    seen: int | None = ANY

    def __repr__(self) -> str:
        return f"<change of {self.key.name} for {self.target}>"


def build_change(
    name: str, text: str, target: Target = FLEET, seen: int | None = ANY
) -> SettingChange:
    """Build a change after checking key, scope and value. Raises BadInput, Conflict."""
    key = keys.get(name)
    text = text.strip()
    if text:
        scopes.check_fits(key, target)
    if text and (problem := values.problem(key, text)):
        raise BadInput(f"value: {problem}", "value")
    return SettingChange(key, text, target, seen)


def check_may_change(by: object, key: Key, target: Target) -> None:
    """Raise Forbidden unless the caller may change this key for this scope."""
    permissions.check(by, "write", target.node)
    if not permissions.is_operator(by) and not key.by_nodes:
        raise Forbidden(f"rule: only operators and the root token change {key.name}")


def put(change: SettingChange, *, by: object, what: What = What.SET) -> Version | None:
    """Carry out a change and record it. Raises Forbidden, Changed, TooManyChanges.

    Return the newest version if nothing had to change; None if there never was one.
    """
    check_may_change(by, change.key, change.target)
    try:
        return _change(change, by, what)
    except IntegrityError:
        # Another request stored the same key for the first time; now there is a row to lock.
        return _change(change, by, what)


def remove(name: str, target: Target = FLEET, *, by: object, seen: int | None = ANY) -> None:
    """Remove a stored value. Raises NotFound, Forbidden, Changed."""
    put(removal_of(name, target, by=by, seen=seen), by=by, what=What.REMOVED)


def removal_of(name: str, target: Target, *, by: object, seen: int | None = ANY) -> SettingChange:
    """Return the change that removes a stored value. Raises NotFound, Forbidden, Changed."""
    key = keys.ALL.get(name)
    if key is None:
        raise NotFound(NOT_STORED)
    check_may_change(by, key, target)
    change = SettingChange(key, "", target, seen)
    check_seen(change)
    if not Setting.objects.for_scope(name, target.scope, target.node).exists():
        raise NotFound(NOT_STORED)
    return change


def check_seen(change: SettingChange) -> Version | None:
    """Return the newest version. Raises Changed if the change is based on another one."""
    last = newest(change.key.name, change.target)
    if change.seen != ANY and change.seen != (last.pk if last else None):
        by = last.actor if last else "somebody"
        raise Changed(f"{change.key.name} was changed by {by} meanwhile")
    return last


def undo(version_id: int, *, by: object) -> Version:
    """Undo this version, which must be the newest of its key and scope.

    Raises NotFound, Forbidden, Conflict.
    """
    version = _version(version_id)
    _check_may_revert(by, version)
    change = build_revert(version, undoing=True)
    return put(change, by=by, what=What.UNDONE) or version


def revert_to(version_id: int, *, by: object) -> Version:
    """Restore the value after this version. Raises NotFound, Forbidden, Conflict."""
    version = _version(version_id)
    _check_may_revert(by, version)
    change = build_revert(version, undoing=False)
    return put(change, by=by, what=What.PUT_BACK) or version


def _check_may_revert(by: object, version: Version) -> None:
    """Raise Forbidden before the version is read."""
    check_may_change(by, keys.get(version.key), Target(Scope(version.scope), version.node))


def build_revert(version: Version, *, undoing: bool) -> SettingChange:
    """Return the change that undoes or restores this version. Raises Conflict, Unreadable."""
    target = Target(Scope(version.scope), version.node)
    if not undoing:
        return build_change(version.key, version.text(), target)
    before = version.previous
    return build_change(version.key, before.text() if before else "", target, version.pk)


def newest(name: str, target: Target) -> Version | None:
    """Return the last version of a key and scope."""
    found = Version.objects.filter(key=name, scope=target.scope, node=target.node)
    return found.order_by("-id").first()


# -- helpers -------------------------------------------------------------------------------------


@transaction.atomic
def _change(change: SettingChange, by: object, what: What) -> Version | None:
    database_locks.lock(DatabaseLock.VAULT_KEYS, shared=True)
    target, name = change.target, change.key.name
    rows = Setting.objects.select_for_update().for_scope(name, target.scope, target.node)
    row = rows.first()
    node = permissions.home_of(by)
    last = check_seen(change)
    if _same(row, change.text) and (row is None or row.stored_by in (None, node)):
        return last
    if node:
        _check_rate(node)
    if not change.text and what is What.SET:
        what = What.REMOVED
    version = Version(key=name, scope=target.scope, node=target.node, what=what, previous=last)
    version.at, version.actor, version.stored_by = clock.now(), str(by)[:200], node
    version.set_text(change.text, secret=values.is_secret(change.key, change.text))
    version.save(force_insert=True)
    _store(row, version)
    detail = {"scope": str(target.scope), "version": version.pk}
    vm_id = target.node.vm_id if target.node else ""
    recording.record(f"config.{what.value}", name, actor=by, detail=detail, vm_id=vm_id)
    return version


def _check_rate(node: Node) -> None:
    """Raise TooManyChanges. Each version is stored for ever, and screened for if it is secret."""
    since = clock.now() - timedelta(minutes=1)
    times = Version.objects.filter(stored_by=node, at__gt=since).values_list("at", flat=True)
    if len(times) >= MAX_CHANGES_PER_MINUTE:
        wait = (min(times) - since).total_seconds()
        raise TooManyChanges(MAX_CHANGES_PER_MINUTE, max(1, math.ceil(wait)))


def _store(row: Setting | None, version: Version) -> None:
    """Make the setting equal to the version."""
    if version.is_empty:
        if row:
            row.delete()
        return
    row = row or Setting(key=version.key, scope=version.scope, node=version.node)
    row.clear, row.sealed, row.version = version.clear, version.sealed, version
    row.at, row.actor, row.stored_by = version.at, version.actor, version.stored_by
    row.save()


def _same(row: Setting | None, text: str) -> bool:
    """Return whether this text is stored already; an unreadable value counts as different."""
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
