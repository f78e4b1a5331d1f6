"""The rules that every reef begins with."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from registry.rules.models import Action, Rule
from tests.conftest import Api

pytestmark = pytest.mark.django_db


def test_initial_rules_are_harmless(api: Api) -> None:
    # Tests that commit empty all tables afterwards, including the initial rules.
    Rule.objects.all().delete()
    old = MigrationLoader(connection).project_state(("lieutenants", "0004_first_rules")).apps
    import_module("lieutenants.migrations.0004_first_rules").add(old, None)
    rules = Rule.objects.all()
    assert len(rules) >= 5
    harmless = {Action.NOTE, Action.MARK_STOPPED}
    assert {rule.action for rule in rules if rule.enabled} <= harmless
    destroyers = [rule for rule in rules if rule.action == Action.DESTROY]
    assert destroyers
    assert not any(rule.enabled for rule in destroyers)
    for rule in rules:
        rule.full_clean()
        assert api.get(f"/registry/rules/{rule.pk}/dry-run").json()["would"] == []
