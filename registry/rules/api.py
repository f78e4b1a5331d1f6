"""API of lifecycle rules for operators: `/registry/rules`, `/registry/firings`."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common.errors import NotFound
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes, takes_anything
from reef_site.common.request_values import (
    body_of,
    query_choice,
    query_cursor,
    query_limit,
    query_number,
)
from reef_site.common.text import to_storable
from registry.rules import engine, services
from registry.rules.models import Firing, FiringState, Rule
from registry.rules.serializers import FIELDS, dry_run_json, firing_json, parse_rule, rule_json
from vmtree import aliases, permissions

MAX_ROWS = 1000
DEFAULT_ROWS = 100


class NoNodes(BasePermission):
    """Allows root and operators only; node tokens may not even read rules."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True, or raise Forbidden."""
        permissions.check(request.user, permissions.Action.MANAGE_RULES, None)
        return True


class RuleView(APIView):
    """Base of the views below."""

    checks_permission = True

    def get_permissions(self) -> list[Any]:
        """Return the default permissions and `NoNodes`."""
        return [*super().get_permissions(), NoNodes()]


class RuleList(RuleView):
    """`/registry/rules`"""

    def get(self, request: Request) -> Response:
        """Return all rules, by name."""
        found = [rule_json(rule) for rule in Rule.objects.all()]
        return Response({"rules": found, "count": len(found)})

    @takes(body=FIELDS)
    def post(self, request: Request) -> Response:
        """Create a rule; a generated webhook secret is returned this once."""
        fields, key = parse_rule(body_of(request), new=True)
        rule, made = services.create(fields, by=request.user, key=key)
        return Response(_with_secret(rule, made), status=201)


class RuleDetail(RuleView):
    """`/registry/rules/<id>`"""

    def get(self, request: Request, rule_id: str) -> Response:
        """Return a rule."""
        return Response(rule_json(services.find(int(rule_id), by=request.user)))

    @takes(body=FIELDS)
    def patch(self, request: Request, rule_id: str) -> Response:
        """Update the given fields of a rule."""
        fields, key = parse_rule(body_of(request))
        rule, made = services.change(int(rule_id), fields, by=request.user, key=key)
        return Response(_with_secret(rule, made))

    def delete(self, request: Request, rule_id: str) -> Response:
        """Delete a rule; its firings are kept."""
        services.delete(int(rule_id), by=request.user)
        return Response({"deleted": True})


class RuleDryRun(RuleView):
    """`/registry/rules/<id>/dry-run`"""

    def get(self, request: Request, rule_id: str) -> Response:
        """Return what the rule would do now; changes nothing."""
        rule = services.find(int(rule_id), by=request.user)
        return Response(dry_run_json(engine.dry_run(rule)))

    post = get


class FiringList(RuleView):
    """`GET /registry/firings`"""

    @takes(query=("rule", "vmId", "state", "limit", "cursor", "before"))
    def get(self, request: Request) -> Response:
        """Return firings, newest first. Filters: `?rule= vmId= state=`."""
        params, rows = request.query_params, Firing.objects.all()
        if rule := query_number(request, "rule"):
            rows = rows.filter(rule=rule)
        if vm_id := params.get("vmId", ""):
            rows = rows.filter(subject=aliases.resolve(to_storable(vm_id)))
        if state := query_choice(request, "state", FiringState.values):
            rows = rows.filter(state=state)
        if before := query_cursor(request, "before"):
            rows = rows.filter(pk__lt=before)
        limit = query_limit(request, most=MAX_ROWS, default=DEFAULT_ROWS)
        found, more = take_page(rows, limit)
        firings = [firing_json(each) for each in found]
        last = found[-1].pk if more else None
        return Response({"firings": firings, "count": len(firings), "next": last})


class UnknownPath(RuleView):
    """Answers 404 to unknown paths below rules and firings."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse


def _with_secret(rule: Rule, made: str) -> dict[str, Any]:
    return {**rule_json(rule), "webhookSecret": made} if made else rule_json(rule)


_RULE = r"^registry/rules/(?P<rule_id>[0-9]{1,18})"

urlpatterns = [
    re_path(r"^registry/rules/?$", RuleList.as_view(), name="rules"),
    re_path(rf"{_RULE}/?$", RuleDetail.as_view(), name="rule"),
    re_path(rf"{_RULE}/dry-run/?$", RuleDryRun.as_view(), name="rule-dry-run"),
    re_path(r"^registry/firings/?$", FiringList.as_view(), name="firings"),
    re_path(r"^registry/(?:rules|firings)/.*$", UnknownPath.as_view()),
]
