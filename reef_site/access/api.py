"""`GET /whoami` and `GET /can`, for every kind of caller, join tokens included."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response

from bootloader.grants import budgets
from bootloader.grants import services as grants
from bootloader.grants.serializers import budget_json, grant_json
from bootloader.join import tokens as join_tokens
from bootloader.join.api import JoinTokenCaller, MemberView
from bootloader.models import ProvisionGrant
from reef_site.access import decisions
from reef_site.access.serializers import CanQuery, CanResponse, WhoAmIResponse
from reef_site.audit.addresses import client_address
from reef_site.common.api.endpoints import endpoint
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import BadInput, NotFound
from versconfig import scopes
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

Json = dict[str, Any]
ACTIONS = {action.slug: action for action in Action}


class WhoAmI(MemberView):
    """`GET /whoami`"""

    allows_join_tokens = True

    @endpoint(response=WhoAmIResponse)
    def get(self, request: Request) -> Response:
        """Return who the caller is, its rights, grants, and when its token expires."""
        caller = request.user
        expires_at = _expiry(request)
        node, token = permissions.node_of(caller), permissions.operator_token_of(caller)
        home = permissions.home_of(caller)
        grant = ProvisionGrant.objects.select_related("node").filter(pk=home.pk) if home else ()
        limits = grants.limits_of(home) if home else ()
        rights = [
            {"action": right.action.slug, "to": sorted(right.relations), "rule": right.rule}
            for right in decisions.rights_of(caller)
            if right.relations
        ]
        body: Json = {
            "kind": decisions.kind_slug(permissions.kind_of(caller)),
            "name": str(caller),
            "node": _node_json(node),
            "subtree": _node_json(token.subtree if token else None),
            "rights": rights,
            "grant": next((grant_json(row) for row in grant), None),
            "limits": [grant_json(row) for row in limits],
            "budget": budget_json(budgets.tightest_for(caller)),
            "expiresAt": format_timestamp(expires_at) if expires_at else None,
        }
        return Response(body)


class Can(MemberView):
    """`GET /can`"""

    allows_join_tokens = True

    @endpoint(query=CanQuery, response=CanResponse)
    def get(self, request: Request) -> Response:
        """Return whether the caller may do `action` to `target`, and the rule that decides."""
        _expiry(request)
        query = CanQuery.parse(request)
        if query["action"] is None:
            raise BadInput("action is required", "action")
        decision = decisions.decide(
            request.user, ACTIONS[query["action"]], _target_id(query["target"], request.user)
        )
        body: Json = {
            "allowed": decision.allowed,
            "action": decision.action.slug,
            "target": decision.target,
            "relation": decision.relation,
            "rule": decision.rule,
        }
        return Response(body)


def _expiry(request: Request) -> datetime | None:
    """Return when the caller's token expires; None if never. Raises JoinRefused."""
    caller = request.user
    if isinstance(caller, JoinTokenCaller):
        remote = client_address(request._request)
        return join_tokens.find_valid(caller.text, remote=remote).expires_at
    token = permissions.operator_token_of(caller)
    return token.expires_at if token else None


def _target_id(query: str, caller: object) -> str | None:
    """Return the VM id that an id, alias or name refers to; None for the whole fleet.

    A caller that may not read the fleet learns no ids, so its text is returned as it is. Raises
    BadInput if several VMs have the name.
    """
    if not query:
        return None
    if not permissions.may(caller, Action.READ, None):
        return query
    try:
        return scopes.find(query, removed=True).vm_id
    except NotFound:
        # It may be registered without a place in the tree.
        return query


def _node_json(node: Node | None) -> Json | None:
    if node is None:
        return None
    return {"vmId": node.vm_id, "name": node.name, "category": node.category}


urlpatterns = [
    re_path(r"^whoami/?$", WhoAmI.as_view(), name="whoami"),
    re_path(r"^can/?$", Can.as_view(), name="can"),
]
