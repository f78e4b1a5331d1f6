"""HTTP API of configuration, `/vers-config/…`, as the wire contract defines it."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import outside
from reef_site.common.errors import NotFound
from reef_site.common.outside_answers import api_answer, api_state
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes, takes_anything
from reef_site.common.request_values import is_dry_run, query_cursor, query_limit
from versconfig import checks, config, history, impact, keys, scopes, services
from versconfig.models import Setting, What
from versconfig.serializers import (
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

MAX_VERSIONS = 1000
# Fields of a change in body or query, besides the value.
CHANGE_FIELDS = ("scope", "vm", "seen", "dryRun")

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


def _node_of(request: Request) -> Node | None:
    """Return the node of `?vm=`, else the caller's own; None is the fleet.

    Raises Forbidden unless the caller may read its config, inherited values included.
    """
    vm_id = request.query_params.get("vm", "")
    node = scopes.find(vm_id) if vm_id else permissions.node_of(request.user)
    permissions.check(request.user, Action.READ_CONFIG, node)
    return node


def _filter_node(request: Request) -> Node | None:
    """Return the node (perhaps removed) that `?vm=` narrows a list to. Raises Forbidden."""
    vm_id = request.query_params.get("vm", "")
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

    @takes(query=("vm",))
    def get(self, request: Request) -> Response:
        """Return the contract's seven values, with secrets masked; `?vm=` for one VM."""
        found = config.resolve_all([key.name for key in keys.WIRE], _node_of(request))
        return Response(overview_json(found, mask_for(request.user)))


class KeyDetail(ConfigView):
    """`/vers-config/<key>`"""

    @takes(query=CHANGE_FIELDS, body=("value", *CHANGE_FIELDS))
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

    @takes(query=CHANGE_FIELDS, body=CHANGE_FIELDS)
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

    @takes_anything
    def get(self, request: Request, name: str) -> Response:
        """Return 404: use `resolve` or `explain`."""
        raise NotFound("not found")


class Resolve(OperatorView):
    """`/vers-config/resolve/<key>`"""

    @takes(query=("vm",))
    def get(self, request: Request, name: str) -> Response:
        """Return the value in clear text, for the root token and operators; `?vm=` for one VM."""
        found = config.resolve(name.upper(), _node_of(request))
        source = {"key": found.key, "value": found.value, "source": found.source.value}
        return Response({**source, "problem": found.problem} if found.problem else source)


class Explain(ConfigView):
    """`/vers-config/explain/<key>`"""

    @takes(query=("vm",))
    def get(self, request: Request, name: str) -> Response:
        """Return every layer in order and which one overrides which; `?vm=` for one VM."""
        found = config.explain(name.upper(), _node_of(request))
        return Response(explain_json(found, mask_for(request.user)))


class Keys(ConfigView):
    """`/vers-config/keys`"""

    def get(self, request: Request) -> Response:
        """List all known keys."""
        found = [key_json(key, mask_for(request.user)) for key in keys.ALL.values()]
        return Response({"keys": found, "count": len(found)})


class Settings(ConfigView):
    """`/vers-config/settings`"""

    @takes(query=("vm",))
    def get(self, request: Request) -> Response:
        """List the stored settings that the caller may read; `?vm=` limits them to one VM."""
        rows = _readable_rows(Setting.objects.select_related("node"), request)
        if node := _filter_node(request):
            rows = rows.filter(node=node)
        found = [setting_json(row) for row in rows]
        return Response({"settings": found, "count": len(found)})


class History(ConfigView):
    """`/vers-config/history`"""

    @takes(query=("key", "vm", "limit", "cursor", "before"))
    def get(self, request: Request) -> Response:
        """List versions, newest first; `?key= vm=` filter, `?limit=` (200) and `?before=` page."""
        limit = query_limit(request, most=MAX_VERSIONS, default=200)
        params = request.query_params
        rows = history.versions(
            key=find_key(params["key"]).name if params.get("key") else "",
            node=_filter_node(request),
            before=query_cursor(request, "before"),
        )
        page, more = take_page(_readable_rows(rows, request), limit)
        found = [version_json(each) for each in page]
        last = found[-1]["id"] if more else None
        return Response({"history": found, "count": len(found), "next": last})


class Undo(ConfigView):
    """`/vers-config/history/<id>/undo`"""

    def post(self, request: Request, version_id: int) -> Response:
        """Undo this version; 409 if the setting was changed since."""
        return Response(version_json(services.undo(version_id, by=request.user)))


class PutBack(ConfigView):
    """`/vers-config/history/<id>/put-back`"""

    def post(self, request: Request, version_id: int) -> Response:
        """Restore the value after this version."""
        return Response(version_json(services.revert_to(version_id, by=request.user)))


class Test(OperatorView):
    """`/vers-config/test/<key>`"""

    @takes(query=("vm",))
    def post(self, request: Request, name: str) -> Response:
        """Test whether the value works; `good` is null when that is not known."""
        key, node = find_key(name).name, _node_of(request)
        if (found := checks.quick_finding(key, node)) is not None:
            return Response({"key": key, "good": found.good, "text": found.text})
        row = checks.start(key, node, by=request.user)
        return api_answer(row, f"/vers-config/tests/{row.pk}", lambda row: row.result)


class TestResult(OperatorView):
    """`/vers-config/tests/<id>`"""

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
