"""Upgrade of a database in which jobs and rules belonged to lieutenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client

from registry.rules.models import Firing, Rule
from tests.fleets import database
from vmtree.operations.models import Job, Step

__all__ = ["database"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database")]

LAST = ("lieutenants", "0013_abandoned_processes")
MOVED = {"job": "operations", "step": "operations", "rule": "rules", "firing": "rules"}


@pytest.fixture
def old_models(database: str) -> Iterator[Any]:
    """Migrate the database back to the state before the move, and return the old models."""
    executor = MigrationExecutor(connection)
    executor.migrate([("operations", None), ("rules", None), LAST])
    ContentType.objects.clear_cache()
    yield executor.loader.project_state(LAST).apps
    upgrade()


def upgrade() -> None:
    call_command("migrate", verbosity=0)
    ContentType.objects.clear_cache()


def old_permission(codename: str) -> Permission:
    return Permission.objects.get(content_type__app_label="lieutenants", codename=codename)


@pytest.mark.rotated
def test_rows_keep_their_tables(old_models: Any) -> None:
    job = old_models.get_model("lieutenants", "Job").objects.create(
        verb="pause", vm_id="top", actor="tests", state="done"
    )
    old_models.get_model("lieutenants", "Step").objects.create(
        job=job, position=0, vm_id="top", handler="registry", does="mark it paused", state="done"
    )
    rule = old_models.get_model("lieutenants", "Rule").objects.create(
        name="watch", event="vm-late", action="note"
    )
    old_models.get_model("lieutenants", "Firing").objects.create(
        rule=rule,
        rule_name="watch",
        event="vm-late",
        action="note",
        subject="top",
        cause_at=rule.created_at,
    )

    upgrade()

    assert Step.objects.get().job == Job.objects.get(pk=job.pk, verb="pause", vm_id="top")
    assert Firing.objects.get(subject="top").rule == Rule.objects.get(name="watch")
    # New rows get keys after the old ones.
    assert Rule.objects.create(name="second", event="vm-late", action="note").pk > rule.pk


def test_users_and_groups_keep_their_permissions(old_models: Any, client: Client) -> None:
    job = old_models.get_model("lieutenants", "Job").objects.create(
        verb="pause", vm_id="top", name="the top", actor="tests"
    )
    user = User.objects.create_user("ops", is_staff=True)
    user.user_permissions.add(old_permission("change_job"), old_permission("view_job"))
    readers = Group.objects.create(name="readers")
    readers.permissions.add(old_permission("view_firing"))
    user.groups.add(readers)
    entry = LogEntry.objects.create(
        user=user,
        content_type=ContentType.objects.get(app_label="lieutenants", model="job"),
        object_id=job.pk,
        action_flag=CHANGE,
    )
    granted = set(user.user_permissions.values_list("pk", flat=True))

    upgrade()

    user = User.objects.get(pk=user.pk)
    assert set(user.user_permissions.values_list("pk", flat=True)) == granted
    assert user.get_all_permissions() == {
        *("operations.change_job", "operations.view_job", "rules.view_firing"),
    }
    client.force_login(user)
    assert b"the top" in client.get("/admin/operations/job/").content
    assert client.get("/admin/rules/firing/").status_code == 200
    assert client.get("/admin/rules/rule/").status_code == 403
    entry.refresh_from_db()
    assert entry.get_admin_url() == f"/admin/operations/job/{job.pk}/change/"


def test_no_content_type_or_permission_is_duplicated(old_models: Any) -> None:
    before = {
        (row.content_type.model, row.codename): row.pk
        for row in Permission.objects.filter(content_type__app_label="lieutenants")
        if row.content_type.model in MOVED
    }
    assert len(before) == 4 * len(MOVED)

    upgrade()

    moved = ContentType.objects.filter(model__in=MOVED)
    assert {row.model: row.app_label for row in moved} == MOVED
    assert moved.count() == len(MOVED)
    rows = Permission.objects.filter(content_type__in=moved).select_related("content_type")
    assert {(row.content_type.model, row.codename): row.pk for row in rows} == before


def test_existing_content_types_do_not_stop_the_upgrade(old_models: Any) -> None:
    ContentType.objects.create(app_label="operations", model="job")

    upgrade()

    labels = ContentType.objects.filter(model="job").values_list("app_label", flat=True)
    assert "operations" in labels
