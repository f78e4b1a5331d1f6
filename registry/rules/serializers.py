"""JSON of rules and firings, and validation of request bodies."""

from __future__ import annotations

from typing import Any

from reef_site.common.errors import BadInput
from reef_site.common.request_values import choice_of, flag_of, number_of, text_of
from registry.models import Role
from registry.rules.engine import DryRun, DryRunCase
from registry.rules.models import Action, Event, Firing, Rule
from vmtree.models import Category

Json = dict[str, Any]
MAX_MINUTES = 366 * 24 * 60

_TEXTS = {
    "name": ("name", 100),
    "about": ("about", 4000),
    "namePattern": ("name_pattern", 100),
    "text": ("text", 4000),
    "webhookUrl": ("webhook_url", 500),
}
_CHOICES = {
    "event": ("event", tuple(Event.values)),
    "action": ("action", tuple(Action.values)),
    "role": ("role", ("", *Role.values)),
    "category": ("category", ("", *Category.values)),
}
_NUMBERS = {
    "minutes": ("minutes", MAX_MINUTES),
    "graceMinutes": ("grace_minutes", MAX_MINUTES),
    "mostAnHour": ("most_an_hour", 100_000),
}
SECRET = "webhookSecret"  # noqa: S105
FIELDS = (*_TEXTS, *_CHOICES, *_NUMBERS, "enabled", SECRET)


def rule_json(rule: Rule) -> Json:
    """Return a rule, without its webhook secret."""
    return {
        "id": rule.pk,
        "name": rule.name,
        "about": rule.about,
        "enabled": rule.enabled,
        "event": rule.event,
        "minutes": rule.minutes,
        "role": rule.role or None,
        "category": rule.category or None,
        "namePattern": rule.name_pattern or None,
        "action": rule.action,
        "graceMinutes": rule.grace_minutes,
        "mostAnHour": rule.most_an_hour,
        "text": rule.text,
        "webhookUrl": rule.webhook_url or None,
        "hasWebhookSecret": bool(rule.sealed_secret),
        "sentence": rule.sentence,
        "createdAt": rule.created_at,
        "updatedAt": rule.updated_at,
    }


def firing_json(firing: Firing) -> Json:
    """Return a firing with its evidence and outcome."""
    return {
        "id": firing.pk,
        "ruleId": firing.rule_id,
        "rule": firing.rule_name,
        "event": firing.event,
        "action": firing.action,
        "vmId": firing.subject,
        "name": firing.subject_name,
        "causeAt": firing.cause_at,
        "evidence": firing.evidence,
        "state": firing.state,
        "outcome": firing.outcome or None,
        "attempts": firing.attempts,
        "at": firing.at,
        "dueAt": firing.due_at if firing.ended_at is None else None,
        "endedAt": firing.ended_at,
    }


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


# -- request bodies --------------------------------------------------------------------------------


def parse_rule(body: Json, *, new: bool = False) -> tuple[Json, str | None]:
    """Return the values by column, and the webhook secret or None. Raises BadInput.

    A new rule needs name, event and action.
    """
    for key in ("name", "event", "action"):
        if (new or key in body) and body.get(key) in (None, ""):
            raise BadInput(f"{key} is required", key)
    fields: Json = {}
    for key, value in body.items():
        if key != SECRET:
            column, read = _field(key, value)
            fields[column] = read
    key_text = body.get(SECRET)
    return fields, None if key_text is None else text_of(key_text, SECRET, length=500)


def _field(key: str, value: object) -> tuple[str, Any]:
    if key in _TEXTS:
        column, max_length = _TEXTS[key]
        return column, text_of(value, key, length=max_length, optional=True)
    if key in _CHOICES:
        column, valid = _CHOICES[key]
        if "" in valid and value in (None, ""):
            return column, ""
        return column, choice_of(value, key, filter(None, valid))
    if key in _NUMBERS:
        column, maximum = _NUMBERS[key]
        return column, number_of(value, key, most=maximum)
    return key, flag_of(value, key)
