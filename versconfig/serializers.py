"""Configuration as JSON, and requests as changes. Secrets are masked."""

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
from versconfig.services import ANY, SettingChange
from vmtree import permissions

Json = dict[str, Any]


def mask_for(user: object) -> int:
    """Return how many characters of a secret this caller may see."""
    return values.MASK_NODE if permissions.node_of(user) else values.MASK_OPERATOR


def overview_json(found: dict[str, Resolved], mask: int = values.MASK_OPERATOR) -> Json:
    """Return the contract's seven values and their sources."""
    data: Json = {key.wire: values.shown(key, found[key.name].value, mask) for key in keys.WIRE}
    first = ("apiKey", "infraUrl", "authToken")
    ordered = sorted(keys.WIRE, key=lambda key: key.wire not in first)
    data["sources"] = {key.wire: found[key.name].source.value for key in ordered}
    data["problems"] = collect_problems(found)
    return data


def collect_problems(found: dict[str, Resolved]) -> list[str]:
    """Return problems with files and stored values, without duplicates."""
    problems = [problem for each in found.values() for problem in each.problems]
    problems += [
        f"{each.key} ({each.where}): {each.problem}" for each in found.values() if each.problem
    ]
    return list(dict.fromkeys(problems))


def key_json(key: Key, mask: int = values.MASK_OPERATOR) -> Json:
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
    """Return all layers in order."""
    key = keys.get(found.key)
    return {
        "key": key.name,
        "value": values.shown(key, found.value, mask),
        "source": found.source.value,
        "scope": found.scope or None,
        "vmId": found.vm_id or None,
        "effective": found.effective,
        "chain": [_layer_json(key, layer, mask) for layer in found.layers],
        "problems": collect_problems({key.name: found}),
    }


def _layer_json(key: Key, layer: Layer, mask: int) -> Json:
    return {
        "source": layer.source.value,
        "where": layer.where,
        "scope": layer.scope or None,
        "vmId": layer.vm_id or None,
        "value": values.shown(key, layer.value, mask),
        "effective": layer.is_effective,
        "shadowedBy": layer.overridden_by or None,
        "skipped": layer.skipped or None,
        "problem": layer.problem or None,
    }


def setting_json(row: Setting) -> Json:
    """Return a stored setting; a secret is not even decrypted."""
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
    """Return a version, without a secret's value."""
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
    """Return which nodes get another value, and what must be restarted."""
    return {
        "changes": impact.changes,
        "before": impact.before,
        "after": impact.after,
        "count": impact.count,
        "names": list(impact.names),
        "keepTheirOwn": impact.keep,
        "shadowedBy": impact.overridden_by or None,
        "takesEffect": impact.takes.value,
        "restart": list(impact.restart),
    }


def put_json(change: SettingChange, impact: Impact, version: Version | None, *, had: bool) -> Json:
    """Return the response to a PUT; `had` says whether a value was stored before."""
    data: Json = {"key": change.key.name, "set": True, "source": "store"}
    data["effective"] = not impact.overridden_by
    data["did"] = "stored" if change.text else "removed" if had else "nothing"
    if not change.text:
        note = "what was stored is removed" if had else "nothing was stored, nothing changed"
        data["note"] = f"an empty text is no value: {note}"
    elif impact.overridden_by:
        data["note"] = f"stored, but {impact.overridden_by} shadows it"
    return {
        **data,
        "scope": change.target.scope.value,
        "vmId": change.target.node.vm_id if change.target.node else None,
        "version": version.pk if version else None,
        "impact": impact_json(impact),
    }


def removed_json(change: SettingChange, impact: Impact, version: Version | None) -> Json:
    """Return the response to a DELETE."""
    return {
        "key": change.key.name,
        "deleted": True,
        "did": "removed",
        "scope": change.target.scope.value,
        "vmId": change.target.node.vm_id if change.target.node else None,
        "version": version.pk if version else None,
        "impact": impact_json(impact),
    }


# -- parsing requests ----------------------------------------------------------------------------


def find_key(name: str) -> Key:
    """Return the key of a path, ignoring case. Raises BadInput with the contract's text."""
    key = keys.ALL.get(name.upper())
    if key is None:
        valid = ", ".join(keys.ALL)
        raise BadInput(f"Invalid config key: {name.upper()}. Valid: {valid}", "key")
    return key


def parse_change(key: Key, request: Request, target: Target) -> SettingChange:
    """Parse a PUT; `seen` may name the version that it is based on. Raises BadInput."""
    value = body_of(request).get("value")
    if not isinstance(value, str):
        raise BadInput("value must be a string", "value")
    return services.build_change(key.name, value, target, parse_seen(request))


def parse_target(request: Request) -> Target:
    """Return the scope in body or query. Raises BadInput, NotFound."""
    body = body_of(request)
    scope, vm_id = (
        body.get(name, request.query_params.get(name, "")) or "" for name in ("scope", "vm")
    )
    if not isinstance(scope, str) or not isinstance(vm_id, str):
        raise BadInput("scope: scope and vm must be strings", "scope")
    return scopes.target_of(scope, vm_id)


def parse_seen(request: Request) -> int | None:
    """Return the version that body or query are based on; ANY if absent. Raises BadInput."""
    body, given = body_of(request), request.query_params.get("seen", "")
    if "seen" not in body and not given:
        return ANY
    if "seen" not in body and given == "null":
        return None
    seen = body["seen"] if "seen" in body else query_number(request, "seen")
    if seen is not None and (isinstance(seen, bool) or not isinstance(seen, int) or seen < 0):
        raise BadInput("seen: must be the number of a version, or null", "seen")
    return seen
