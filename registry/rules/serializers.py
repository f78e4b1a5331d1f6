"""Requests and responses of rules and firings, in the wire format."""

from __future__ import annotations

from typing import Any

from reef_site.common.api.fields import (
    Choice,
    Cursor,
    Flag,
    JsonValue,
    NullableText,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, OrderedFields, Query, ResponseBody
from registry.models import Role
from registry.rules.engine import DryRun, DryRunCase
from registry.rules.models import Action, Event, Firing, FiringState, Rule
from vmtree.fields import AnyVM
from vmtree.models import Category

Json = dict[str, Any]
MAX_MINUTES = 366 * 24 * 60
MAX_AN_HOUR = 100_000
MAX_ROWS = 1000
DEFAULT_ROWS = 100
REQUIRED = ("name", "event", "action")

# -- responses -----------------------------------------------------------------------------------


class RuleResponse(ResponseBody):
    """A rule, without its webhook secret."""

    id = WholeNumber()
    name = Text()
    about = Text()
    enabled = Flag()
    event = Choice(Event.values)
    minutes = WholeNumber(help_text="For how long the event must have held.")
    role = Choice(Role.values, allow_null=True)
    category = Choice(Category.values, allow_null=True)
    namePattern = Text(source="name_pattern", allow_null=True)
    action = Choice(Action.values)
    graceMinutes = WholeNumber(source="grace_minutes")
    mostAnHour = WholeNumber(source="most_an_hour")
    text = Text()
    webhookUrl = Text(source="webhook_url", allow_null=True)
    hasWebhookSecret = Flag()
    sentence = Text(help_text="The rule in words.")
    createdAt = Timestamp(source="created_at")
    updatedAt = Timestamp(source="updated_at")

    example = {
        "id": 7,
        "name": "note silent builders",
        "about": "",
        "enabled": True,
        "event": "vm-silent",
        "minutes": 10,
        "role": "worker",
        "category": None,
        "namePattern": "builder*",
        "action": "note",
        "graceMinutes": 0,
        "mostAnHour": 100,
        "text": "",
        "webhookUrl": None,
        "hasWebhookSecret": False,
        "sentence": "When VM is silent for 10 min (worker, builder*), write it down.",
        "createdAt": "2026-11-22T06:21:09.098Z",
        "updatedAt": "2026-11-22T06:21:09.098Z",
    }


class WrittenRuleResponse(RuleResponse):
    webhookSecret = Text(required=False, help_text="A generated one, shown this once.")


class FiringResponse(ResponseBody):
    """One time that a rule applied, with evidence and outcome."""

    id = WholeNumber()
    ruleId = WholeNumber(source="rule_id", allow_null=True)
    rule = Text(source="rule_name")
    event = Choice(Event.values)
    action = Choice(Action.values)
    vmId = Text(source="subject")
    name = Text(source="subject_name")
    causeAt = Timestamp(source="cause_at")
    evidence = JsonValue("object")
    state = Choice(FiringState.values)
    outcome = Text(allow_null=True)
    attempts = WholeNumber()
    at = Timestamp()
    dueAt = Timestamp(source="due_at", allow_null=True, help_text="Null when it has ended.")
    endedAt = Timestamp(source="ended_at", allow_null=True)


class ProofResponse(ResponseBody):
    """The statement of one source: `holds` if it says that the VM is dead."""

    source = Text()  # type: ignore[assignment]
    holds = Flag()
    text = Text()


class DryRunCaseResponse(ResponseBody):
    vmId = Text()
    name = Text()
    causeAt = Timestamp()
    evidence = JsonValue("object")
    acts = Flag(help_text="False: the proofs are not sufficient.")
    proofs = ProofResponse(many=True, required=False)


class RuleDryRunResponse(ResponseBody):
    """Effects that the rule would have now, if it were enabled."""

    rule = RuleResponse()
    at = Timestamp()
    grace = Flag(help_text="Reef was away, so no VM counts as late or silent.")
    would = DryRunCaseResponse(many=True)
    count = WholeNumber()
    more = Flag()

    example = {
        "rule": RuleResponse.example,
        "at": "2026-11-22T06:21:09.098Z",
        "grace": False,
        "would": [],
        "count": 0,
        "more": False,
    }


_read_rule = object_reader(RuleResponse, "hasWebhookSecret", blank_as_null=True)
_read_firing = object_reader(FiringResponse, blank_as_null=True)


def rule_json(rule: Rule) -> Json:
    """Return a rule, without its webhook secret."""
    return _read_rule(rule) | {"hasWebhookSecret": bool(rule.sealed_secret)}


def firing_json(firing: Firing) -> Json:
    """Return a firing with its evidence and outcome."""
    data = _read_firing(firing)
    return data if firing.ended_at is None else data | {"dueAt": None}


def dry_run_json(found: DryRun) -> Json:
    """Return the result of a dry run."""
    return {
        "rule": rule_json(found.rule),
        "at": found.at,
        "grace": found.grace,
        "would": [_dry_run_case_json(each) for each in found.cases],
        "count": len(found.cases),
        "more": found.more,
    }


def _dry_run_case_json(each: DryRunCase) -> Json:
    facts: Json = {
        "vmId": each.case.subject,
        "name": each.case.name,
        "causeAt": each.case.since,
        "evidence": each.case.evidence,
        "acts": each.acts,
    }
    return {**facts, "proofs": [vars(one) for one in each.evidence]} if each.evidence else facts


# -- requests ------------------------------------------------------------------------------------


class RequiredChoice(Choice):
    def to_internal_value(self, data: Any) -> str:
        if data in (None, ""):
            self.refuse("is required", "required")
        return super().to_internal_value(data)


class OptionalChoice(Choice):
    """A choice, or none: null or an empty text."""

    def to_internal_value(self, data: Any) -> str:
        return "" if data in (None, "") else super().to_internal_value(data)

    def schema(self) -> Json:
        return {"type": ["string", "null"], "enum": [*self.choices, "", None]}


class RuleChangeBody(OrderedFields, Body):
    """Fields of a rule; the rule keeps the values of absent ones."""

    name = Text(length=100, blank=False, required=False)
    about = NullableText(length=4000, required=False)
    namePattern = NullableText(
        length=100, source="name_pattern", required=False, help_text="With `*` and `?`."
    )
    text = NullableText(length=4000, required=False, help_text="Of a note or a webhook.")
    webhookUrl = NullableText(length=500, source="webhook_url", required=False)
    event = RequiredChoice(Event.values, required=False)
    action = RequiredChoice(Action.values, required=False)
    role = OptionalChoice(Role.values, required=False)
    category = OptionalChoice(Category.values, required=False)
    minutes = WholeNumber(most=MAX_MINUTES, required=False)
    graceMinutes = WholeNumber(most=MAX_MINUTES, source="grace_minutes", required=False)
    mostAnHour = WholeNumber(most=MAX_AN_HOUR, source="most_an_hour", required=False)
    enabled = Flag(required=False)
    webhookSecret = Text(
        length=500,
        source="key",
        required=False,
        allow_null=True,
        help_text="Absent: one is generated if the rule needs one.",
    )

    checked_first = REQUIRED
    example = {"enabled": True}


class RuleBody(RuleChangeBody):
    """A new rule."""

    name = Text(length=100, blank=False)
    event = RequiredChoice(Event.values)
    action = RequiredChoice(Action.values)

    example = {"name": "note silent VMs", "event": "vm-silent", "action": "note", "minutes": 10}


class FiringsQuery(Query):
    rule = WholeNumber(help_text="The id of a rule.")
    vmId = AnyVM(source="subject")
    state = Choice(FiringState.values)
    limit = WholeNumber(least=1, most=MAX_ROWS, default=DEFAULT_ROWS)
    cursor = Cursor()
    before = Cursor(older_name=True)
