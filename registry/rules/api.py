"""API of lifecycle rules for operators: `/registry/rules`, `/registry/firings`."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Cursor
from reef_site.common.api.serializers import list_of
from reef_site.common.errors import NotFound
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_names import takes_anything
from registry.rules import engine, services
from registry.rules.models import Firing, Rule
from registry.rules.serializers import (
    FiringResponse,
    FiringsQuery,
    RuleBody,
    RuleChangeBody,
    RuleDryRunResponse,
    RuleResponse,
    WrittenRuleResponse,
    dry_run_json,
    firing_json,
    rule_json,
)
from registry.serializers import DeletedResponse
from vmtree import permissions

FORBIDDEN = {403: f"rule: {permissions.RULE}. vm-7 may not manage the rules of the fleet"}
NOT_FOUND = {404: "rule not found"}
TAKEN = {409: "name: there is a rule 'note silent VMs' already"}


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

    @endpoint(response=list_of("rules", RuleResponse), errors=FORBIDDEN)
    def get(self, request: Request) -> Response:
        """Return all rules, by name."""
        found = [rule_json(rule) for rule in Rule.objects.all()]
        return Response({"rules": found, "count": len(found)})

    @endpoint(body=RuleBody, response=WrittenRuleResponse, status=201, errors=TAKEN)
    def post(self, request: Request) -> Response:
        """Create a rule; a generated webhook secret is returned this once."""
        fields = RuleBody.parse(request)
        key = fields.pop("key", None)
        rule, made = services.create(fields, by=request.user, key=key)
        return Response(_with_secret(rule, made), status=201)


class RuleDetail(RuleView):
    """`/registry/rules/<id>`"""

    @endpoint(response=RuleResponse, errors=FORBIDDEN | NOT_FOUND)
    def get(self, request: Request, rule_id: str) -> Response:
        """Return a rule."""
        return Response(rule_json(services.find(int(rule_id), by=request.user)))

    @endpoint(body=RuleChangeBody, response=WrittenRuleResponse, errors=NOT_FOUND | TAKEN)
    def patch(self, request: Request, rule_id: str) -> Response:
        """Update the given fields of a rule."""
        fields = RuleChangeBody.parse(request)
        key = fields.pop("key", None)
        rule, made = services.change(int(rule_id), fields, by=request.user, key=key)
        return Response(_with_secret(rule, made))

    @endpoint(response=DeletedResponse, errors=NOT_FOUND)
    def delete(self, request: Request, rule_id: str) -> Response:
        """Delete a rule; its firings are kept."""
        services.delete(int(rule_id), by=request.user)
        return Response({"deleted": True})


class RuleDryRun(RuleView):
    """`/registry/rules/<id>/dry-run`"""

    @endpoint(response=RuleDryRunResponse, errors=FORBIDDEN | NOT_FOUND)
    def get(self, request: Request, rule_id: str) -> Response:
        """Return what the rule would do now; changes nothing."""
        rule = services.find(int(rule_id), by=request.user)
        return Response(dry_run_json(engine.dry_run(rule)))

    post = get


class FiringList(RuleView):
    """`GET /registry/firings`"""

    @endpoint(
        query=FiringsQuery,
        response=list_of("firings", FiringResponse, next_page=Cursor),
        errors=FORBIDDEN,
    )
    def get(self, request: Request) -> Response:
        """List firings, newest first."""
        query = FiringsQuery.parse(request)
        limit, cursor = query.pop("limit"), query.pop("cursor")
        rows = Firing.objects.filter(**{k: v for k, v in query.items() if v})
        found, following = take_page_by_key(rows, limit, cursor, newest_first=True)
        firings = [firing_json(each) for each in found]
        return Response({"firings": firings, "count": len(firings), "next": following})


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
