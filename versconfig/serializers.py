"""Requests and responses of configuration, in the wire format. Secrets are masked."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request

from reef_site.common.api.fields import (
    SENTENCE,
    AnyText,
    Choice,
    Cursor,
    Flag,
    JsonValue,
    ListOf,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, DryRunQuery, Query, ResponseBody
from reef_site.common.errors import BadInput
from reef_site.common.models import CallState
from reef_site.common.outside_answers import RunningCallResponse
from reef_site.common.request_values import body_of
from versconfig import checks, config, keys, scopes, services, values
from versconfig.impact import Impact
from versconfig.keys import Group, Key, Kind, TakesEffect
from versconfig.models import Scope, Setting, Version, What
from versconfig.resolve import Resolved, Source
from versconfig.scopes import Target
from versconfig.services import ANY, SettingChange
from vmtree import permissions

Json = dict[str, Any]
MAX_VERSIONS = 1000
MAX_ROWS = 1000

# -- responses -----------------------------------------------------------------------------------


class OverviewResponse(ResponseBody):
    """The values of the wire contract, with secrets masked; null is unset."""

    apiKey = Text(allow_null=True)
    infraUrl = Text(allow_null=True)
    authToken = Text(allow_null=True)
    baseUrl = Text(allow_null=True)
    agentName = Text(allow_null=True)
    vmId = Text(allow_null=True)
    agentRole = Text(allow_null=True)
    sources = JsonValue("object", help_text="`env`, `store`, `file`, `default` or `unset` of each.")
    problems = ListOf(Text(), most=MAX_ROWS)

    example = {
        "apiKey": "vers_abc...",
        "infraUrl": "https://reef.example",
        "authToken": None,
        "baseUrl": None,
        "agentName": None,
        "vmId": None,
        "agentRole": None,
        "sources": {"apiKey": "store", "infraUrl": "env"},
        "problems": [],
    }


class KeyResponse(ResponseBody):
    """A configuration key."""

    key = Text()
    group = Choice([each.value for each in Group])
    about = Text()
    type = Choice([each.value for each in Kind])
    secret = Flag()
    default = Text(allow_null=True)
    files = ListOf(Text(), most=MAX_ROWS)
    scoped = Flag(help_text="Parts of the fleet may have values of their own.")
    takesEffect = Choice([each.value for each in TakesEffect])
    canBeTested = Flag()
    byNodes = Flag(help_text="Node tokens may set it.")


class LayerResponse(ResponseBody):
    """One place where a value may be."""

    source = Choice([each.value for each in Source])  # type: ignore[assignment]
    where = Text()
    scope = Choice(Scope.values, allow_null=True)
    vmId = Text(source="vm_id", allow_null=True)
    value = Text(allow_null=True)
    effective = Flag(source="is_effective")
    shadowedBy = Text(source="overridden_by", allow_null=True)
    skipped = Text(allow_null=True, help_text="Why a stored value does not count here.")
    problem = Text(allow_null=True)


class ExplainedResponse(ResponseBody):
    """The value of a key, and every layer in order."""

    key = Text()
    value = Text(allow_null=True)
    source = Choice([each.value for each in Source])  # type: ignore[assignment]
    scope = Choice(Scope.values, allow_null=True)
    vmId = Text(allow_null=True, source="vm_id")
    effective = Flag(help_text="False: a stored value does not win, or it cannot be used.")
    chain = LayerResponse(many=True)
    problems = ListOf(Text(), most=MAX_ROWS)

    example = {
        "key": "REEF_VM_VCPUS",
        "value": "2",
        "source": "default",
        "scope": None,
        "vmId": None,
        "effective": True,
        "chain": [],
        "problems": [],
    }


class ResolvedResponse(ResponseBody):
    """The value in clear text."""

    key = Text()
    value = Text(allow_null=True)
    source = Choice([each.value for each in Source])  # type: ignore[assignment]
    problem = Text(required=False)

    example = {"key": "REEF_VM_VCPUS", "value": "2", "source": "default"}


class SettingResponse(ResponseBody):
    """A stored setting; the value of a secret is null."""

    key = Text()
    scope = Choice(Scope.values)
    vmId = Text(source="vm_id", allow_null=True)
    value = Text(allow_null=True)
    secret = Flag()
    version = WholeNumber(source="version_id")
    at = Timestamp()
    actor = Text()


class VersionResponse(ResponseBody):
    """A change of a setting, with the value after it; null if it was removed, or is secret."""

    id = WholeNumber()
    at = Timestamp()
    actor = Text()
    what = Choice(What.values)
    key = Text()
    scope = Choice(Scope.values)
    vmId = Text(source="vm_id", allow_null=True)
    value = Text(allow_null=True)
    secret = Flag()
    previous = WholeNumber(source="previous_id", allow_null=True)

    example = {
        "id": 7,
        "at": "2026-11-22T06:21:09.098Z",
        "actor": "ada",
        "what": "set",
        "key": "REEF_VM_VCPUS",
        "scope": "vm",
        "vmId": "vm-7",
        "value": "4",
        "secret": False,
        "previous": None,
    }


class ImpactResponse(ResponseBody):
    """The effects of a change."""

    changes = Flag(help_text="Whether any node gets another value.")
    before = Text(allow_null=True)
    after = Text(allow_null=True)
    count = WholeNumber(help_text="How many nodes get another value.")
    names = ListOf(Text(), most=MAX_ROWS)  # type: ignore[assignment]
    keepTheirOwn = WholeNumber()
    shadowedBy = Text(allow_null=True, help_text="What overrides the whole store.")
    takesEffect = Choice([each.value for each in TakesEffect])
    restart = ListOf(Text(), most=MAX_ROWS, help_text="Names of what must be restarted.")

    example = {
        "changes": True,
        "before": "2",
        "after": "4",
        "count": 1,
        "names": ["builder"],
        "keepTheirOwn": 0,
        "shadowedBy": None,
        "takesEffect": "with the next VM",
        "restart": [],
    }


class StoredResponse(ResponseBody):
    """Stored value, or with `dryRun` only the impact."""

    key = Text()
    dryRun = Flag(required=False)
    set = Flag(required=False)
    source = Choice([Source.STORE.value], required=False)  # type: ignore[assignment]
    effective = Flag(required=False)
    did = Choice(["stored", "removed", "nothing"], required=False)
    note = Text(required=False)
    scope = Choice(Scope.values, required=False)
    vmId = Text(required=False, allow_null=True)
    version = WholeNumber(required=False, allow_null=True)
    impact = ImpactResponse()

    example = {
        "key": "REEF_VM_VCPUS",
        "set": True,
        "source": "store",
        "effective": True,
        "did": "stored",
        "scope": "vm",
        "vmId": "vm-7",
        "version": 7,
        "impact": ImpactResponse.example,
    }


class SettingRemovedResponse(ResponseBody):
    """Removed value, or with `dryRun` only the impact."""

    key = Text()
    dryRun = Flag(required=False)
    deleted = Flag(required=False)
    did = Choice(["removed"], required=False)
    scope = Choice(Scope.values, required=False)
    vmId = Text(required=False, allow_null=True)
    version = WholeNumber(required=False, allow_null=True)
    impact = ImpactResponse()

    example = {
        "key": "REEF_VM_VCPUS",
        "deleted": True,
        "did": "removed",
        "scope": "vm",
        "vmId": "vm-7",
        "version": 8,
        "impact": {**ImpactResponse.example, "before": "4", "after": "2"},
    }


class KeyTestResponse(ResponseBody):
    """The result of a test; `good` is null if that could not be determined."""

    key = Text()
    good = Flag(allow_null=True)
    text = Text()

    example = {"key": "VERS_API_KEY", "good": True, "text": "The platform accepts it."}


class RunningTestResponse(RunningCallResponse):
    """A test that a worker still makes; ask for its result at `path`."""

    example = {"id": "5f3a", "state": "running", "path": "/vers-config/tests/5f3a"}


class KeyTestStateResponse(ResponseBody):
    """The state of a test, and its result when it is done."""

    id = Text()
    state = Choice([CallState.RUNNING, CallState.DONE, CallState.FAILED])
    error = Text(required=False)
    key = Text(required=False)
    good = Flag(required=False, allow_null=True)
    text = Text(required=False)

    example = {"id": "5f3a", "state": "running"}


_read_layer = object_reader(LayerResponse, "value", blank_as_null=True)
_read_explained = object_reader(ExplainedResponse, "value", "chain", "problems", blank_as_null=True)
_read_setting = object_reader(SettingResponse, "value", "secret", blank_as_null=True)
_read_version = object_reader(VersionResponse, "value", "secret", blank_as_null=True)


def mask_for(user: object) -> int:
    """Return how many characters of a secret this caller may see."""
    return values.MASK_NODE if permissions.home_of(user) else values.MASK_OPERATOR


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
    return _read_explained(found) | {
        "value": values.shown(key, found.value, mask),
        "source": found.source.value,
        "chain": [
            _read_layer(layer)
            | {"source": layer.source.value, "value": values.shown(key, layer.value, mask)}
            for layer in found.layers
        ],
        "problems": collect_problems({key.name: found}),
    }


def setting_json(row: Setting) -> Json:
    """Return a stored setting; a secret is not even decrypted."""
    return _read_setting(row) | _stored_value(row)


def version_json(version: Version) -> Json:
    """Return a version, without a secret's value."""
    return _read_version(version) | _stored_value(version)


def _stored_value(row: Setting | Version) -> Json:
    is_secret = bool(row.sealed)
    return {"value": None if is_secret else row.clear or None, "secret": is_secret}


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


# -- requests ------------------------------------------------------------------------------------


class VmQuery(Query):
    vm = AnyText(default="", help_text="The id or name of a VM. Absent: the caller, or the fleet.")


class HistoryQuery(Query):
    key = AnyText(default="")
    vm = AnyText(default="", help_text="The id or name of a VM.")
    limit = WholeNumber(least=1, most=MAX_VERSIONS, default=200)
    cursor = Cursor()
    before = Cursor(older_name=True)


class ScopeText(Text):
    """Scope or VM; what is empty counts as absent."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data or "", str):
            self.refuse("scope: scope and vm must be strings", SENTENCE)
        return data or ""


SCOPE: Json = {"default": "", "help_text": f"One of {', '.join(Scope.values)}."}
VM: Json = {"default": "", "help_text": "The id or name of a VM."}


class ScopeBody(Body):
    scope = ScopeText(**SCOPE)
    vm = ScopeText(**VM)


class ScopeQuery(Query):
    scope = ScopeText(**SCOPE)
    vm = ScopeText(**VM)


class SeenVersion(WholeNumber):
    """The newest version that the caller knows; null if there was none."""

    def to_internal_value(self, data: Any) -> Any:
        if self.is_in_query:
            return None if data == "null" else super().to_internal_value(data)
        if not isinstance(data, int) or isinstance(data, bool) or data < 0:
            self.refuse("must be the number of a version, or null")
        return data


SEEN = "Refuse if another version is the newest one; null: if there is any."


class SeenBody(Body):
    seen = SeenVersion(required=False, allow_null=True, help_text=SEEN)


class SeenQuery(Query):
    seen = SeenVersion(help_text=SEEN)


class ChangeQuery(ScopeQuery, SeenQuery, DryRunQuery):
    pass


class RemovalBody(ScopeBody, SeenBody):
    dryRun = Flag(required=False, help_text="Return the impact and change nothing.")


class SettingValue(Text):
    """The text of a value; its key has the rules."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.refuse("value must be a string", SENTENCE)
        return data


class ValueBody(Body):
    value = SettingValue(help_text="An empty text removes what is stored.")


class SettingBody(ValueBody, RemovalBody):
    """Each field but `value` may be in the query instead."""

    example = {"value": "4", "scope": "vm", "vm": "vm-7"}


def find_key(name: str) -> Key:
    """Return the key of a path, ignoring case. Raises BadInput with the contract's text."""
    key = keys.ALL.get(name.upper())
    if key is None:
        valid = ", ".join(keys.ALL)
        raise BadInput(f"Invalid config key: {name.upper()}. Valid: {valid}", "key")
    return key


def parse_change(key: Key, request: Request, target: Target) -> SettingChange:
    """Parse a PUT; `seen` may name the version that it is based on. Raises BadInput."""
    value = ValueBody.parse(request)["value"]
    return services.build_change(key.name, value, target, parse_seen(request))


def parse_target(request: Request) -> Target:
    """Return the scope in body or query. Raises BadInput, NotFound."""
    given = {**request.query_params.dict(), **body_of(request)}
    values = ScopeBody.parse_data(given)
    return scopes.target_of(values["scope"], values["vm"])


def parse_seen(request: Request) -> int | None:
    """Return the version that body or query are based on; ANY if absent. Raises BadInput."""
    if "seen" in body_of(request):
        seen: int | None = SeenBody.parse(request)["seen"]
        return seen
    return SeenQuery.parse(request)["seen"] if request.query_params.get("seen") else ANY
