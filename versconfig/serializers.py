"""What the API says of configuration, and what it takes from a request. Secrets are masked."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request

from reef_site.common.errors import BadInput
from reef_site.common.request_values import body_of, query_number
from versconfig import checks, config, keys, scopes, services, values
from versconfig.impact import Impact
from versconfig.keys import Key
from versconfig.models import Setting, Version
from versconfig.resolve import Layer, Resolved
from versconfig.scopes import Target
from versconfig.services import ANY, Wish
from vmtree import permissions

Json = dict[str, Any]


def mask_for(user: object) -> int:
    """Return how many characters of a secret this caller may see."""
    return values.MASK_NODE if permissions.node_of(user) else values.MASK_OPERATOR


def overview_json(found: dict[str, Resolved], mask: int = values.MASK_OPERATOR) -> Json:
    """The contract's seven values and where they come from."""
    said: Json = {key.wire: values.shown(key, found[key.name].value, mask) for key in keys.WIRE}
    first = ("apiKey", "infraUrl", "authToken")
    ordered = sorted(keys.WIRE, key=lambda key: key.wire not in first)
    said["sources"] = {key.wire: found[key.name].source.value for key in ordered}
    said["problems"] = problems_of(found)
    return said


def problems_of(found: dict[str, Resolved]) -> list[str]:
    """What is wrong with files and stored values, each once."""
    said = [problem for each in found.values() for problem in each.problems]
    said += [
        f"{each.key} ({each.where}): {each.problem}" for each in found.values() if each.problem
    ]
    return list(dict.fromkeys(said))


def key_json(key: Key, mask: int = values.MASK_OPERATOR) -> Json:
    """A key of the registry."""
    return {
        "key": key.name,
        "group": key.group.value,
        "about": key.about,
        "type": key.kind.value,
        "secret": key.secret,
        "default": values.shown(key, config.default_of(key) or None, mask),
        "files": [str(place) for place in key.places],
        "scoped": key.scoped,
        "takesEffect": key.takes.value,
        "canBeTested": key.name in checks.key_checks,
        "byNodes": key.by_nodes,
    }


def explain_json(found: Resolved, mask: int = values.MASK_OPERATOR) -> Json:
    """Every place that was asked, in order."""
    key = keys.get(found.key)
    return {
        "key": key.name,
        "value": values.shown(key, found.value, mask),
        "source": found.source.value,
        "scope": found.scope or None,
        "vmId": found.vm_id or None,
        "effective": found.effective,
        "chain": [_layer_json(key, layer, mask) for layer in found.layers],
        "problems": problems_of({key.name: found}),
    }


def _layer_json(key: Key, layer: Layer, mask: int) -> Json:
    return {
        "source": layer.source.value,
        "where": layer.where,
        "scope": layer.scope or None,
        "vmId": layer.vm_id or None,
        "value": values.shown(key, layer.value, mask),
        "effective": layer.holds,
        "shadowedBy": layer.shadowed_by or None,
        "skipped": layer.skipped or None,
        "problem": layer.problem or None,
    }


def setting_json(row: Setting) -> Json:
    """A stored value; a secret's beginning is not even opened here."""
    return {
        "key": row.key,
        "scope": row.scope,
        "vmId": row.vm_id or None,
        "value": None if row.sealed else row.clear,
        "secret": bool(row.sealed),
        "version": row.version_id,
        "at": row.at,
        "actor": row.actor,
    }


def version_json(version: Version) -> Json:
    """A change. Nothing of a secret is shown."""
    return {
        "id": version.pk,
        "at": version.at,
        "actor": version.actor,
        "what": version.what,
        "key": version.key,
        "scope": version.scope,
        "vmId": version.vm_id or None,
        "value": None if version.sealed else version.clear or None,
        "secret": bool(version.sealed),
        "previous": version.previous_id,
    }


def impact_json(impact: Impact) -> Json:
    """Who gets another value, and what must be started anew."""
    return {
        "changes": impact.changes,
        "before": impact.before,
        "after": impact.after,
        "count": impact.count,
        "names": list(impact.names),
        "keepTheirOwn": impact.keep,
        "shadowedBy": impact.shadowed_by or None,
        "takesEffect": impact.takes.value,
        "restart": list(impact.restart),
    }


def put_json(wish: Wish, impact: Impact, version: Version | None, *, had: bool) -> Json:
    """The contract's answer to a PUT, with what came of it; `had` is whether one was stored."""
    said: Json = {"key": wish.key.name, "set": True, "source": "store"}
    said["effective"] = not impact.shadowed_by
    said["did"] = "stored" if wish.text else "removed" if had else "nothing"
    if not wish.text:
        what = "what was stored is removed" if had else "nothing was stored, nothing changed"
        said["note"] = f"an empty text is no value: {what}"
    elif impact.shadowed_by:
        said["note"] = f"stored, but {impact.shadowed_by} shadows it"
    return {
        **said,
        "scope": wish.target.scope.value,
        "vmId": wish.target.node.vm_id if wish.target.node else None,
        "version": version.pk if version else None,
        "impact": impact_json(impact),
    }


def removed_json(wish: Wish, impact: Impact, version: Version | None) -> Json:
    """The contract's answer to a DELETE, with what came of it."""
    return {
        "key": wish.key.name,
        "deleted": True,
        "did": "removed",
        "scope": wish.target.scope.value,
        "vmId": wish.target.node.vm_id if wish.target.node else None,
        "version": version.pk if version else None,
        "impact": impact_json(impact),
    }


# -- what requests say ---------------------------------------------------------------------------


def key_of(name: str) -> Key:
    """The key of a path, in any case. Raises BadInput with the contract's text."""
    key = keys.ALL.get(name.upper())
    if key is None:
        valid = ", ".join(keys.ALL)
        raise BadInput(f"Invalid config key: {name.upper()}. Valid: {valid}", "key")
    return key


def wish_of(key: Key, request: Request, target: Target) -> Wish:
    """What a PUT wants; `seen` may name the version that it builds on. Raises BadInput."""
    value = body_of(request).get("value")
    if not isinstance(value, str):
        raise BadInput("value must be a string", "value")
    return services.wish_of(key.name, value, target, seen_of(request))


def target_of(request: Request) -> Target:
    """The scope that body or query name. Raises BadInput, NotFound."""
    body = body_of(request)
    scope, vm_id = (
        body.get(name, request.query_params.get(name, "")) or "" for name in ("scope", "vm")
    )
    if not isinstance(scope, str) or not isinstance(vm_id, str):
        raise BadInput("scope: scope and vm must be strings", "scope")
    return scopes.target_of(scope, vm_id)


def seen_of(request: Request) -> int | None:
    """Return the version that body or query build on; ANY if they say none. Raises BadInput."""
    body, given = body_of(request), request.query_params.get("seen", "")
    if "seen" not in body and not given:
        return ANY
    if "seen" not in body and given == "null":
        return None
    seen = body["seen"] if "seen" in body else query_number(request, "seen")
    if seen is not None and (isinstance(seen, bool) or not isinstance(seen, int) or seen < 0):
        raise BadInput("seen: must be the number of a version, or null", "seen")
    return seen
