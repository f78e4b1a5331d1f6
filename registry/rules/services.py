"""Use cases of rules, for root and operators only."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.ids import new_secret
from registry.rules.models import Action, Rule
from vmtree import permissions


def find(rule_id: int, *, by: object) -> Rule:
    """Return the rule with this id. Raises NotFound, Forbidden."""
    permissions.check(by, permissions.Action.MANAGE_RULES, None)
    rule = Rule.objects.filter(pk=rule_id).first()
    if rule is None:
        raise NotFound("rule not found")
    return rule


def create(fields: dict[str, Any], *, by: object, key: str | None = None) -> tuple[Rule, str]:
    """Create a rule; return it with its generated webhook secret, or "" if none was generated.

    Raises BadInput, Conflict, Forbidden.
    """
    permissions.check(by, permissions.Action.MANAGE_RULES, None)
    rule = Rule(**fields)
    generated = ""
    if rule.action == Action.WEBHOOK and not key:
        generated = key = new_secret()
    rule.set_secret(key or "")
    _save(rule)
    return rule, generated


@transaction.atomic
def change(
    rule_id: int, fields: dict[str, Any], *, by: object, key: str | None = None
) -> tuple[Rule, str]:
    """Update a rule; returns and raises like `create`. Waiting executions are checked again."""
    find(rule_id, by=by)
    rule = Rule.objects.select_for_update().get(pk=rule_id)
    old = (rule.enabled, rule.event)
    for name, value in fields.items():
        setattr(rule, name, value)
    generated = ""
    if key is not None:
        rule.set_secret(key)
    if rule.action == Action.WEBHOOK and not rule.sealed_secret:
        generated = new_secret()
        rule.set_secret(generated)
    ignore_earlier_events(rule, *old)
    _save(rule)
    return rule, generated


def ignore_earlier_events(rule: Rule, was_enabled: bool, old_event: str) -> None:
    """Ignore events from before the rule was enabled or its event changed; does not save."""
    if (rule.enabled and not was_enabled) or rule.event != old_event:
        rule.watched_from = clock.now()


def delete(rule_id: int, *, by: object) -> None:
    """Delete a rule; its executions are kept. Raises NotFound, Forbidden."""
    find(rule_id, by=by).delete()


def _save(rule: Rule) -> None:
    rule.updated_at = clock.now()
    try:
        rule.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        field, texts = next(iter(error.message_dict.items()))
        raise BadInput(f"{_wire(field)}: {texts[0]}", field) from None
    try:
        with transaction.atomic():
            rule.save()
    except IntegrityError:
        raise Conflict(f"name: there is a rule '{rule.name}' already") from None


def _wire(field: str) -> str:
    first, *others = field.split("_")
    return first + "".join(word.capitalize() for word in others)
