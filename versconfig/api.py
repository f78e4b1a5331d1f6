"""The agents' door to configuration, by the wire contract: `/vers-config/…`."""

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
    impact_json,
    key_json,
    key_of,
    mask_for,
    overview_json,
    put_json,
    removed_json,
    seen_of,
    setting_json,
    target_of,
    version_json,
    wish_of,
)
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

MOST_VERSIONS = 1000
# What body and query may say of a change, beside the value.
CHANGE = ("scope", "vm", "seen", "dryRun")

Row = TypeVar("Row", bound=Model)


class NoNodes(BasePermission):
    """Root and operators come in; nodes' tokens and other accounts do not."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """True, or Forbidden in words."""
        permissions.check(request.user, Action.READ_SECRETS, None)
        return True


class ConfigView(APIView):
    """Base of the views below; `versconfig.services` asks the rule wherever something changes."""

    asks_authority = True


class OperatorView(ConfigView):
    """A door that is shut to nodes."""

    def get_permissions(self) -> list[Any]:
        """Those of every door, and ours."""
        return [*super().get_permissions(), NoNodes()]


def _node_of(request: Request) -> Node | None:
    """The node that a question is about: `?vm=`, else the caller's own; None is the fleet.

    Raises Forbidden unless the caller may read its config, also what it inherits from above.
    """
    vm_id = request.query_params.get("vm", "")
    node = scopes.find(vm_id) if vm_id else permissions.node_of(request.user)
    permissions.check(request.user, Action.READ_CONFIG, node)
    return node


def _stored_for(request: Request) -> Node | None:
    """The node, also a removed one, that `?vm=` narrows a list to. Raises Forbidden."""
    vm_id = request.query_params.get("vm", "")
    if not vm_id:
        return None
    node = scopes.find(vm_id, removed=True)
    permissions.check(request.user, Action.READ_CONFIG, node)
    return node


def _legible(rows: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """The rows that the caller may read: a node's those of itself and its descendants."""
    line = permissions.readable(request.user, Action.READ_CONFIG)
    return rows if line is None else rows.filter(node__in=line)


class Overview(ConfigView):
    """`/vers-config/`"""

    @takes(query=("vm",))
    def get(self, request: Request) -> Response:
        """The contract's seven values, masked where secret; `?vm=` for one VM."""
        found = config.resolve_all([key.name for key in keys.WIRE], _node_of(request))
        return Response(overview_json(found, mask_for(request.user)))


class OneKey(ConfigView):
    """`/vers-config/<key>`"""

    @takes(query=CHANGE, body=("value", *CHANGE))
    def put(self, request: Request, name: str) -> Response:
        """Store a value; `scope`, `vm`, `seen` narrow it, `dryRun` only tells what it would do."""
        key, target = key_of(name), target_of(request)
        # The right comes before the value: who may not change it learns nothing about values.
        services.check_may(request.user, key, target)
        wish = wish_of(key, request, target)
        services.check_seen(wish)
        expected = impact.of(wish, mask_for(request.user))
        if is_dry_run(request):
            return Response({"key": key.name, "dryRun": True, "impact": impact_json(expected)})
        had = Setting.objects.at_place(key.name, wish.target.scope, wish.target.node).exists()
        version = services.put(wish, by=request.user)
        return Response(put_json(wish, expected, version, had=had))

    @takes(query=CHANGE, body=CHANGE)
    def delete(self, request: Request, name: str) -> Response:
        """Take a stored value away; `scope`, `vm`, `seen` and `dryRun` in body or query."""
        target, seen, dry_run = target_of(request), seen_of(request), is_dry_run(request)
        removal = services.removal_of(name.upper(), target, by=request.user, seen=seen)
        expected = impact.of(removal, mask_for(request.user))
        if dry_run:
            told = {"key": removal.key.name, "dryRun": True, "impact": impact_json(expected)}
            return Response(told)
        version = services.put(removal, by=request.user, what=What.REMOVED)
        return Response(removed_json(removal, expected, version))

    @takes_anything
    def get(self, request: Request, name: str) -> Response:
        """There is no such route: `resolve` and `explain` are."""
        raise NotFound("not found")


class Resolve(OperatorView):
    """`/vers-config/resolve/<key>`"""

    @takes(query=("vm",))
    def get(self, request: Request, name: str) -> Response:
        """The value in clear text, for the root token and operators; `?vm=` for one VM."""
        found = config.resolve(name.upper(), _node_of(request))
        source = {"key": found.key, "value": found.value, "source": found.source.value}
        return Response({**source, "problem": found.problem} if found.problem else source)


class Explain(ConfigView):
    """`/vers-config/explain/<key>`"""

    @takes(query=("vm",))
    def get(self, request: Request, name: str) -> Response:
        """Every place that was asked and who shadows whom; `?vm=` for one VM."""
        found = config.explain(name.upper(), _node_of(request))
        return Response(explain_json(found, mask_for(request.user)))


class Keys(ConfigView):
    """`/vers-config/keys`"""

    def get(self, request: Request) -> Response:
        """All keys there are."""
        found = [key_json(key, mask_for(request.user)) for key in keys.ALL.values()]
        return Response({"keys": found, "count": len(found)})


class Settings(ConfigView):
    """`/vers-config/settings`"""

    @takes(query=("vm",))
    def get(self, request: Request) -> Response:
        """Everything that is stored and that the caller may read; `?vm=` only for that VM."""
        rows = _legible(Setting.objects.select_related("node"), request)
        if node := _stored_for(request):
            rows = rows.filter(node=node)
        found = [setting_json(row) for row in rows]
        return Response({"settings": found, "count": len(found)})


class History(ConfigView):
    """`/vers-config/history`"""

    @takes(query=("key", "vm", "limit", "cursor", "before"))
    def get(self, request: Request) -> Response:
        """Newest first, at most `?limit=` (200) below id `?before=`; `?key= vm=` narrow."""
        limit = query_limit(request, most=MOST_VERSIONS, default=200)
        asked = request.query_params
        rows = history.of(
            key=key_of(asked["key"]).name if asked.get("key") else "",
            node=_stored_for(request),
            before=query_cursor(request, "before"),
        )
        page, more = take_page(_legible(rows, request), limit)
        found = [version_json(each) for each in page]
        last = found[-1]["id"] if more else None
        return Response({"history": found, "count": len(found), "next": last})


class Undo(ConfigView):
    """`/vers-config/history/<id>/undo`"""

    def post(self, request: Request, version_id: int) -> Response:
        """Make undone what this version did; 409 if something was changed since."""
        return Response(version_json(services.undo(version_id, by=request.user)))


class PutBack(ConfigView):
    """`/vers-config/history/<id>/put-back`"""

    def post(self, request: Request, version_id: int) -> Response:
        """Have again what held after this version."""
        return Response(version_json(services.put_back(version_id, by=request.user)))


class Test(OperatorView):
    """`/vers-config/test/<key>`"""

    @takes(query=("vm",))
    def post(self, request: Request, name: str) -> Response:
        """Ask whoever knows whether the value is good; `good` is null when nobody could tell."""
        key, node = key_of(name).name, _node_of(request)
        if (found := checks.without_asking(key, node)) is not None:
            return Response({"key": key, "good": found.good, "text": found.text})
        row = checks.start(key, node, by=request.user)
        return api_answer(row, f"/vers-config/tests/{row.pk}", lambda row: row.result)


class TestResult(OperatorView):
    """`/vers-config/tests/<id>`"""

    def get(self, request: Request, call_id: str) -> Response:
        """What came of a test that was answered with 202; `state` says whether it is over."""
        row = outside.find(call_id, checks.KIND)
        if row is None:
            raise NotFound("there is no such test")
        return api_state(row, lambda row: row.result)


class Nothing(ConfigView):
    """An unknown path of this service: 404 for those who may come in, else 401."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse
