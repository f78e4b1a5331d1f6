"""Requests and responses of the grants' API, in the wire format."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from bootloader.grants import services as grants
from bootloader.grants.budgets import Budget
from bootloader.serializers import TextList
from reef_site.common.api.fields import (
    AnyText,
    ApiField,
    Flag,
    ListOf,
    Number,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, ResponseBody
from reef_site.common.clock import format_timestamp

Json = dict[str, Any]
MAX_PROFILES = 10_000


class GrantResponse(ResponseBody):
    """The grant of a node."""

    vmId = Text(source="node.vm_id")
    vms = WholeNumber(help_text="How many more VMs it may provision.")
    profiles = ListOf(Text(), most=MAX_PROFILES, help_text="Types; an empty list allows all.")
    levels = WholeNumber(help_text="How far below the node VMs may be.")
    lieutenants = WholeNumber(
        allow_null=True,
        help_text="How many more lieutenants it and its descendants may create; null: no limit.",
    )
    lieutenantLevels = WholeNumber(
        source="lieutenant_levels",
        allow_null=True,
        help_text="How far below the node lieutenants may be; null: no limit.",
    )
    dollars = Number(
        source="dollars_number",
        allow_null=True,
        help_text="What its lieutenants and those below it may cost; null: no limit.",
    )
    dollarsSince = Timestamp(
        source="dollars_since", allow_null=True, help_text="Usage counts from this time."
    )


class BudgetResponse(ResponseBody):
    """A budget, in US dollars."""

    limit = Number()
    spent = Number(help_text="By the lieutenants of the node and everything below it.")
    left = Number()
    node = Text(help_text="Id of the VM whose grant it is.")
    since = Timestamp()


BUDGET_EXAMPLE: Json = {
    "limit": 5.0,
    "spent": 1.25,
    "left": 3.75,
    "node": "vm-7",
    "since": "2026-11-22T06:21:09.098Z",
}


class OneGrantResponse(ResponseBody):
    grant = GrantResponse()

    example = {
        "grant": {
            "vmId": "vm-7",
            "vms": 10,
            "profiles": ["swarm"],
            "levels": 1,
            "lieutenants": 5,
            "lieutenantLevels": None,
            "dollars": 5.0,
            "dollarsSince": "2026-11-22T06:21:09.098Z",
        }
    }


grant_json = object_reader(GrantResponse)


def budget_json(budget: Budget | None) -> Json | None:
    """Return a budget as JSON; None if there is none."""
    if budget is None:
        return None
    return {
        "limit": float(budget.limit),
        "spent": float(budget.spent),
        "left": float(budget.left),
        "node": budget.vm_id,
        "since": format_timestamp(budget.since),
    }


class Dollars(ApiField):
    """An amount of US dollars; more than six digits behind the point are rounded."""

    def to_internal_value(self, data: Any) -> Decimal:
        is_number = isinstance(data, int | float | Decimal) and not isinstance(data, bool)
        if not is_number or not 0 <= data <= grants.MAX_DOLLARS:
            self.refuse(f"must be a number from 0 to {grants.MAX_DOLLARS}")
        return round(Decimal(str(data)), 6)

    def schema(self) -> Json:
        return {"type": "number", "minimum": 0, "maximum": grants.MAX_DOLLARS}


class ProfileTypes(TextList):
    """Types of profiles without duplicates; null counts as an empty list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(AnyText(), most=MAX_PROFILES, **kwargs)

    def to_internal_value(self, data: Any) -> list[Any]:
        return [] if data is None else list(dict.fromkeys(super().to_internal_value(data)))

    def schema(self) -> Json:
        return {**super().schema(), "type": ["array", "null"]}


class GrantBody(Body):
    vms = WholeNumber(most=grants.MAX_VMS)
    profiles = ProfileTypes(default=list, help_text="Absent or empty: all.")
    levels = WholeNumber(least=1, most=grants.MAX_LEVELS, default=1)
    lieutenants = WholeNumber(
        most=grants.MAX_LIEUTENANTS, allow_null=True, default=None, help_text="Absent: no limit."
    )
    lieutenantLevels = WholeNumber(
        source="lieutenant_levels",
        least=1,
        most=grants.MAX_LEVELS,
        allow_null=True,
        default=None,
        help_text="Absent: no limit.",
    )
    dollars = Dollars(
        allow_null=True,
        default=None,
        help_text="What its lieutenants and those below it may cost; absent: no limit.",
    )
    renewDollars = Flag(
        source="renew_dollars",
        default=False,
        help_text="True: the budget begins now. Otherwise what was spent since `dollarsSince`"
        " still counts.",
    )

    example = {"vms": 10, "profiles": ["swarm"], "lieutenants": 5, "dollars": 5}
