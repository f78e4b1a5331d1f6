"""What may be asked of rules. Only root and operators may."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from lieutenants.rules.models import Action, Rule
from reef_site.common import clock
from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.ids import new_secret
from vmtree import permissions


def find(rule_id: int, *, by: object) -> Rule:
    """The rule of this number. Raises NotFound, Forbidden."""
    permissions.check(by, permissions.Action.MANAGE_RULES, None)
    rule = Rule.objects.filter(pk=rule_id).first()
    if rule is None:
        raise NotFound("rule not found")
    return rule


def create(fields: dict[str, Any], *, by: object, key: str | None = None) -> tuple[Rule, str]:
    """A new rule, and the secret that was made for its webhook if none was given.

    Raises BadInput, Conflict, Forbidden.
    """
    permissions.check(by, permissions.Action.MANAGE_RULES, None)
    rule = Rule(**fields)
    made = ""
    if rule.action == Action.WEBHOOK and not key:
        made = key = new_secret()
    rule.set_secret(key or "")
    _save(rule)
    return rule, made


@transaction.atomic
def change(
    rule_id: int, fields: dict[str, Any], *, by: object, key: str | None = None
) -> tuple[Rule, str]:
    """Change a rule; the same as for `create` goes. What waits of it is looked at anew."""
    find(rule_id, by=by)
    rule = Rule.objects.select_for_update().get(pk=rule_id)
    was = (rule.enabled, rule.event)
    for name, value in fields.items():
        setattr(rule, name, value)
    made = ""
    if key is not None:
        rule.set_secret(key)
    if rule.action == Action.WEBHOOK and not rule.sealed_secret:
        made = new_secret()
        rule.set_secret(made)
    watch_anew(rule, *was)
    _save(rule)
    return rule, made


def watch_anew(rule: Rule, was_enabled: bool, old_event: str) -> None:
    """What happened while a rule was off, or another one, is no case of it; saves nothing."""
    if (rule.enabled and not was_enabled) or rule.event != old_event:
        rule.watched_from = clock.now()


def delete(rule_id: int, *, by: object) -> None:
    """Forget a rule; what it did stays written down. Raises NotFound, Forbidden."""
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
