"""Queries and responses of `/whoami` and `/can`."""

from __future__ import annotations

from typing import Any

from bootloader.grants.serializers import BUDGET_EXAMPLE, BudgetResponse, GrantResponse
from reef_site.access.decisions import kind_slug
from reef_site.common.api.fields import Choice, Flag, ListOf, Text, Timestamp
from reef_site.common.api.serializers import Query, ResponseBody
from vmtree.permissions import RULE, Action, CallerKind, Relation

SLUGS = [action.slug for action in Action]
RELATIONS = list(Relation)


class CallerNodeResponse(ResponseBody):
    """The node of a caller."""

    vmId = Text()
    name = Text()
    category = Text()


class RightResponse(ResponseBody):
    """An action, and the relations to the caller for which it is allowed."""

    action = Choice(SLUGS)
    to = ListOf(Choice(RELATIONS), most=len(Relation))
    rule = Text(help_text="The rule that allows it.")


class WhoAmIResponse(ResponseBody):
    """The caller of the request."""

    kind = Choice([kind_slug(kind) for kind in CallerKind])
    name = Text()
    node = CallerNodeResponse(allow_null=True, help_text="Null but for node tokens.")
    subtree = CallerNodeResponse(
        allow_null=True, help_text="The subtree that an operator token is limited to."
    )
    rights = RightResponse(many=True, help_text="Actions that are missing are refused.")
    grant = GrantResponse(allow_null=True, help_text="The node's own grant.")
    limits = GrantResponse(
        many=True, help_text="The grants of the node and its ancestors that limit its lieutenants."
    )
    budget = BudgetResponse(
        allow_null=True,
        help_text="The tightest budget among `limits`; null: no limit of money.",
    )
    expiresAt = Timestamp(allow_null=True, help_text="When the token expires; null: never.")

    example = {
        "kind": "local-agent",
        "name": "node 01KAJ8Z4N3M5T7V9X1B2C3D4E5",
        "node": {
            "vmId": "01KAJ8Z4N3M5T7V9X1B2C3D4E5",
            "name": "ada",
            "category": "lieutenant",
        },
        "subtree": None,
        "rights": [
            {
                "action": "command",
                "to": ["descendant"],
                "rule": "a lieutenant that runs on a host of reef may command its descendants",
            }
        ],
        "grant": None,
        "limits": [],
        "budget": BUDGET_EXAMPLE,
        "expiresAt": None,
    }


class CanQuery(Query):
    action = Choice(SLUGS, help_text="Required.")
    target = Text(length=255, help_text="Id or name of a VM or lieutenant; absent: all.")


class CanResponse(ResponseBody):
    """The answer to whether the caller may do something, and why."""

    allowed = Flag()
    action = Choice(SLUGS)
    target = Text(allow_null=True, help_text="Null is the whole fleet.")
    relation = Choice(
        RELATIONS,
        allow_null=True,
        help_text="How the target is related to the caller's node; null for callers without one."
        " An id without a node counts as the fleet.",
    )
    rule = Text(help_text="The rule that decides.")

    example: dict[str, Any] = {
        "allowed": False,
        "action": "command",
        "target": "vm-7",
        "relation": "other",
        "rule": RULE,
    }
