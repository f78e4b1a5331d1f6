"""HTTP API of configuration, `/vers-config/…`, as the wire contract defines it."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import outside
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Cursor
from reef_site.common.api.serializers import ErrorResponse, list_of
from reef_site.common.errors import NotFound
from reef_site.common.outside_answers import api_answer, api_state
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_names import takes_anything
from reef_site.common.request_values import is_dry_run
from versconfig import checks, config, history, impact, keys, scopes, services
from versconfig.exceptions import TooManyChanges
from versconfig.models import Setting, What
from versconfig.serializers import (
    ChangeQuery,
    ExplainedResponse,
    HistoryQuery,
    KeyResponse,
    KeyTestResponse,
    KeyTestStateResponse,
    OverviewResponse,
    RemovalBody,
    ResolvedResponse,
    RunningTestResponse,
    SettingBody,
    SettingRemovedResponse,
    SettingResponse,
    StoredResponse,
    VersionResponse,
    VmQuery,
    explain_json,
    find_key,
    impact_json,
    key_json,
    mask_for,
    overview_json,
    parse_change,
    parse_seen,
    parse_target,
    put_json,
    removed_json,
    setting_json,
    version_json,
)
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

FORBIDDEN = {403: f"rule: {permissions.RULE}. vm-7 may not read the config of vm-8"}
OPERATORS_ONLY = {403: f"rule: {permissions.RULE}. vm-7 may not read secrets of the fleet"}
NO_VM = {404: "VM not found"}
NO_VERSION = {404: "There is no such version"}
NOT_CHANGED = {
    409: "REEF_VM_VCPUS was changed by ada meanwhile",
    429: str(TooManyChanges(services.MAX_CHANGES_PER_MINUTE, 7)),
}

Row = TypeVar("Row", bound=Model)


class RefuseNodeTokens(BasePermission):
    """Allows the root token and operators; refuses node tokens and other accounts."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True. Raises Forbidden with the broken rule."""
        permissions.check(request.user, Action.READ_SECRETS, None)
        return True


class ConfigView(APIView):
    """Base of the views below. Permissions for changes are checked in `versconfig.services`."""

    checks_permission = True


class OperatorView(ConfigView):
    """A view that refuses node tokens."""

    def get_permissions(self) -> list[Any]:
        """Add NoNodes to the default permissions."""
        return [*super().get_permissions(), RefuseNodeTokens()]


def _node_of(request: Request, vm_id: str) -> Node | None:
    """Return the node of this VM, else the caller's home; None is the fleet.

    Raises Forbidden unless the caller may read its config, inherited values included.
    """
    node = scopes.find(vm_id) if vm_id else permissions.home_of(request.user)
    permissions.check(request.user, Action.READ_CONFIG, node)
    return node


def _filter_node(request: Request, vm_id: str) -> Node | None:
    """Return the node (perhaps removed) that `vm_id` narrows a list to. Raises Forbidden."""
    if not vm_id:
        return None
    node = scopes.find(vm_id, removed=True)
    permissions.check(request.user, Action.READ_CONFIG, node)
    return node


def _readable_rows(rows: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """Return the rows that the caller may read: a node's own and those of its descendants."""
    line = permissions.readable(request.user, Action.READ_CONFIG)
    return rows if line is None else rows.filter(node__in=line)


class Overview(ConfigView):
    """`/vers-config/`"""

    @endpoint(query=VmQuery, response=OverviewResponse, errors=FORBIDDEN | NO_VM)
    def get(self, request: Request) -> Response:
        """Return the contract's seven values, with secrets masked; `?vm=` for one VM."""
        node = _node_of(request, VmQuery.parse(request)["vm"])
        found = config.resolve_all([key.name for key in keys.WIRE], node)
        return Response(overview_json(found, mask_for(request.user)))


class KeyDetail(ConfigView):
    """`/vers-config/<key>`"""

    @endpoint(
        query=ChangeQuery,
        body=SettingBody,
        response=StoredResponse,
        errors=NO_VM | NOT_CHANGED,
    )
    def put(self, request: Request, name: str) -> Response:
        """Store a value; `scope`, `vm` and `seen` narrow it, `dryRun` only previews it."""
        key, target = find_key(name), parse_target(request)
        # Permission is checked before the value, so that the response tells nothing about values.
        services.check_may_change(request.user, key, target)
        change = parse_change(key, request, target)
        services.check_seen(change)
        preview = impact.preview(change, mask_for(request.user))
        if is_dry_run(request):
            return Response({"key": key.name, "dryRun": True, "impact": impact_json(preview)})
        was_stored = Setting.objects.for_scope(
            key.name, change.target.scope, change.target.node
        ).exists()
        version = services.put(change, by=request.user)
        return Response(put_json(change, preview, version, had=was_stored))

    @endpoint(
        query=ChangeQuery,
        body=RemovalBody,
        response=SettingRemovedResponse,
        errors={404: services.NOT_STORED, **NOT_CHANGED},
    )
    def delete(self, request: Request, name: str) -> Response:
        """Remove a stored value; `scope`, `vm`, `seen` and `dryRun` in body or query."""
        target, seen, dry_run = parse_target(request), parse_seen(request), is_dry_run(request)
        removal = services.removal_of(name.upper(), target, by=request.user, seen=seen)
        preview = impact.preview(removal, mask_for(request.user))
        if dry_run:
            data = {"key": removal.key.name, "dryRun": True, "impact": impact_json(preview)}
            return Response(data)
        version = services.put(removal, by=request.user, what=What.REMOVED)
        return Response(removed_json(removal, preview, version))

    @endpoint(response=ErrorResponse, status=404, errors={404: "not found"}, ignores_unknown=True)
    def get(self, request: Request, name: str) -> Response:
        """Return 404: use `resolve` or `explain`."""
        raise NotFound("not found")


class Resolve(OperatorView):
    """`/vers-config/resolve/<key>`"""

    @endpoint(query=VmQuery, response=ResolvedResponse, errors=OPERATORS_ONLY | NO_VM)
    def get(self, request: Request, name: str) -> Response:
        """Return the value in clear text, for the root token and operators; `?vm=` for one VM."""
        node = _node_of(request, VmQuery.parse(request)["vm"])
        found = config.resolve(name.upper(), node)
        source = {"key": found.key, "value": found.value, "source": found.source.value}
        return Response({**source, "problem": found.problem} if found.problem else source)


class Explain(ConfigView):
    """`/vers-config/explain/<key>`"""

    @endpoint(query=VmQuery, response=ExplainedResponse, errors=FORBIDDEN | NO_VM)
    def get(self, request: Request, name: str) -> Response:
        """Return every layer in order and which one overrides which; `?vm=` for one VM."""
        node = _node_of(request, VmQuery.parse(request)["vm"])
        found = config.explain(name.upper(), node)
        return Response(explain_json(found, mask_for(request.user)))


class Keys(ConfigView):
    """`/vers-config/keys`"""

    @endpoint(response=list_of("keys", KeyResponse))
    def get(self, request: Request) -> Response:
        """List all known keys."""
        found = [key_json(key, mask_for(request.user)) for key in keys.ALL.values()]
        return Response({"keys": found, "count": len(found)})


class Settings(ConfigView):
    """`/vers-config/settings`"""

    @endpoint(
        query=VmQuery, response=list_of("settings", SettingResponse), errors=FORBIDDEN | NO_VM
    )
    def get(self, request: Request) -> Response:
        """List the stored settings that the caller may read; `?vm=` limits them to one VM."""
        rows = _readable_rows(Setting.objects.select_related("node"), request)
        if node := _filter_node(request, VmQuery.parse(request)["vm"]):
            rows = rows.filter(node=node)
        found = [setting_json(row) for row in rows]
        return Response({"settings": found, "count": len(found)})


class History(ConfigView):
    """`/vers-config/history`"""

    @endpoint(
        query=HistoryQuery,
        response=list_of("history", VersionResponse, next_page=Cursor),
        errors=FORBIDDEN | NO_VM,
    )
    def get(self, request: Request) -> Response:
        """List versions, newest first."""
        query = HistoryQuery.parse(request)
        key = find_key(query["key"]).name if query["key"] else ""
        rows = history.versions(key=key, node=_filter_node(request, query["vm"]))
        page, following = take_page_by_key(
            _readable_rows(rows, request), query["limit"], query["cursor"], newest_first=True
        )
        found = [version_json(each) for each in page]
        return Response({"history": found, "count": len(found), "next": following})


class Undo(ConfigView):
    """`/vers-config/history/<id>/undo`"""

    @endpoint(response=VersionResponse, errors=NO_VERSION | NOT_CHANGED)
    def post(self, request: Request, version_id: int) -> Response:
        """Undo this version; 409 if the setting was changed since."""
        return Response(version_json(services.undo(version_id, by=request.user)))


class PutBack(ConfigView):
    """`/vers-config/history/<id>/put-back`"""

    @endpoint(response=VersionResponse, errors=NO_VERSION | NOT_CHANGED)
    def post(self, request: Request, version_id: int) -> Response:
        """Restore the value after this version."""
        return Response(version_json(services.revert_to(version_id, by=request.user)))


class Test(OperatorView):
    """`/vers-config/test/<key>`"""

    @endpoint(
        query=VmQuery,
        response=KeyTestResponse,
        more_responses={202: RunningTestResponse},
        errors={404: "REEF_VM_VCPUS cannot be tried out", 504: "no answer within 10 s"},
    )
    def post(self, request: Request, name: str) -> Response:
        """Test whether the value works; `good` is null when that is not known."""
        key = find_key(name).name
        node = _node_of(request, VmQuery.parse(request)["vm"])
        if (found := checks.quick_finding(key, node)) is not None:
            return Response({"key": key, "good": found.good, "text": found.text})
        row = checks.start(key, node, by=request.user)
        return api_answer(row, f"/vers-config/tests/{row.pk}", lambda row: row.result)


class TestResult(OperatorView):
    """`/vers-config/tests/<id>`"""

    @endpoint(
        response=KeyTestStateResponse,
        errors={**OPERATORS_ONLY, 404: "there is no such test"},
    )
    def get(self, request: Request, call_id: str) -> Response:
        """Return the result of a test that was answered with 202; `state` says if it is done."""
        row = outside.find(call_id, checks.KIND)
        if row is None:
            raise NotFound("there is no such test")
        return api_state(row, lambda row: row.result)


class UnknownPath(ConfigView):
    """Unknown path below `/vers-config`: 404 for authenticated callers, else 401."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse
