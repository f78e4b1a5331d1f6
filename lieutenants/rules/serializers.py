"""What the API says of rules and firings, and what it takes from a request's JSON."""

from __future__ import annotations

from typing import Any

from lieutenants.rules.firing import DryRun, Would
from lieutenants.rules.models import Action, Event, Firing, Rule
from reef_site.common.errors import BadInput
from reef_site.common.request_values import choice_of, flag_of, number_of, text_of
from registry.models import Role
from vmtree.models import Category

Json = dict[str, Any]
LONGEST_MINUTES = 366 * 24 * 60

_TEXTS = {
    "name": ("name", 100),
    "about": ("about", 4000),
    "namePattern": ("name_pattern", 100),
    "text": ("text", 4000),
    "webhookUrl": ("webhook_url", 500),
}
_WORDS = {
    "event": ("event", tuple(Event.values)),
    "action": ("action", tuple(Action.values)),
    "role": ("role", ("", *Role.values)),
    "category": ("category", ("", *Category.values)),
}
_NUMBERS = {
    "minutes": ("minutes", LONGEST_MINUTES),
    "graceMinutes": ("grace_minutes", LONGEST_MINUTES),
    "mostAnHour": ("most_an_hour", 100_000),
}
SECRET = "webhookSecret"  # noqa: S105
FIELDS = (*_TEXTS, *_WORDS, *_NUMBERS, "enabled", SECRET)


def rule_json(rule: Rule) -> Json:
    """A rule; of its secret only whether there is one."""
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
    """A firing with its evidence and what came of it."""
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
    """What a rule would do now."""
    return {
        "rule": rule_json(found.rule),
        "at": found.at,
        "grace": found.grace,
        "would": [_would_json(each) for each in found.would],
        "count": len(found.would),
        "more": found.more,
    }


def _would_json(each: Would) -> Json:
    said: Json = {
        "vmId": each.case.subject,
        "name": each.case.name,
        "causeAt": each.case.since,
        "evidence": each.case.evidence,
        "acts": each.acts,
    }
    return {**said, "proofs": [vars(proof) for proof in each.proofs]} if each.proofs else said


# -- what requests say ---------------------------------------------------------------------------


def fields_of(body: Json, *, new: bool = False) -> tuple[Json, str | None]:
    """Columns by their names, and the webhook's secret if it is said. Raises BadInput.

    A new rule must have name, event and action.
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
        column, most = _TEXTS[key]
        return column, text_of(value, key, length=most, optional=True)
    if key in _WORDS:
        column, valid = _WORDS[key]
        if "" in valid and value in (None, ""):
            return column, ""
        return column, choice_of(value, key, filter(None, valid))
    if key in _NUMBERS:
        column, biggest = _NUMBERS[key]
        return column, number_of(value, key, most=biggest)
    return key, flag_of(value, key)
