"""Rows that are written by prepared statements equal those that Django's own methods write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.apps.registry import Apps
from django.db import IntegrityError, models, transaction

from bootloader.models import BootReport
from lieutenants.models import Usage
from reef_site.common.eventlog.models import Event
from reef_site.common.queries import rows as statements
from reef_site.common.queries.rows import insert_rows, update_row
from registry.models import VM, Role, Status
from vmtree.models import Node, Trait

pytestmark = pytest.mark.usefixtures("database")
AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
ELSEWHERE = timezone(timedelta(hours=5))


def vm(vm_id: str, **fields: Any) -> VM:
    made = VM(id=vm_id, name="ö", role="worker", registered_by="tests", last_seen=AT, **fields)
    made.registered_at = AT
    made.seen(AT)
    return made


def event(detail: Any = "", **fields: Any) -> Event:
    return Event(at=AT, kind="a.b", topic="a", subject="s", actor="x", detail=detail, **fields)


# Functions that make one row each; the same one for both ways to write it.
ODD_ROWS: dict[str, Callable[[], models.Model]] = {
    "plain values": lambda: vm("a", services=[{"port": 1}], metadata={"ö": [1.5, None]}),
    "a choice": lambda: vm("a", parent_vm_id="b", interval_ms=7),
    "members of choices": lambda: VM(
        id="a",
        role=Role.INFRA,
        status=Status.PAUSED,
        registered_by="tests",
        last_seen=AT,
        registered_at=AT,
    ),
    "another time zone": lambda: BootReport(
        vm_id="a", run="r", step="s", status="ok", at=AT.astimezone(ELSEWHERE), began_at=AT
    ),
    "nulls": lambda: BootReport(vm_id="a", run="r", step="s", status="ok", at=AT, began_at=AT),
    "numbers as texts": lambda: BootReport(
        vm_id="a",
        run="r",
        step="s",
        status="ok",
        at=AT,
        began_at=AT,
        duration_ms="12",
        exit_status="3",
    ),
    "a day": lambda: Usage(lieutenant_id="nobody", day=AT.date(), at=AT, cost=Decimal("0.25")),
    "a long number": lambda: event({"n": 1 << 70, "text": "\u2028\ud7ff"}),
    "keys that are no texts": lambda: event({1: "one", None: [True]}),
    "an empty object": lambda: event({}),
    "a number alone": lambda: event(0),
    "a float": lambda: event([1e16, 0.1, -0.0]),
}


def stored(model: type[models.Model]) -> list[dict[str, Any]]:
    found = list(model._default_manager.order_by("pk").values())
    for row in found:
        if isinstance(row.get("id"), int):
            del row["id"]
    return found


@pytest.mark.parametrize("name", ODD_ROWS)
def test_an_inserted_row_equals_a_saved_one(name: str) -> None:
    make = ODD_ROWS[name]
    results = []
    for write in (lambda row: insert_rows([row]), lambda row: row.save(force_insert=True)):
        row = make()
        with transaction.atomic():
            write(row)
            results.append(stored(type(row)))
            transaction.set_rollback(True)
        assert row.pk
        assert not row._state.adding
    assert results[0] == results[1]


def test_new_rows_get_their_keys_in_their_order() -> None:
    node = Node(vm_id="a", name="a", category="agent_vm", created_at=AT, updated_at=AT)
    insert_rows([node])
    Trait.objects.create(node=node, kind="organ", name="first", position=1000)
    traits = [
        # Made before the node had a key.
        Trait(node=node, kind="organ", name=str(number), position=number)
        for number in range(2 * statements.MAX_ROWS + 1)
    ]
    insert_rows(iter(traits))
    keys = dict(Trait.objects.values_list("position", "pk"))
    assert {each.position: each.pk for each in traits} == {
        position: key for position, key in keys.items() if position != 1000
    }
    assert sorted(each.pk for each in traits) == [each.pk for each in traits]


def test_a_row_may_refer_to_one_that_was_inserted_after_it_was_made() -> None:
    node = Node(vm_id="a", name="a", category="agent_vm")
    trait = Trait(node=node, kind="organ", name="x", position=0)
    with pytest.raises(ValueError, match="unsaved related object"):
        insert_rows([trait])
    insert_rows([node])
    insert_rows([trait])
    assert Trait.objects.get().node == node


def test_nothing_is_inserted_if_a_constraint_refuses_one_row() -> None:
    many = [vm(f"vm-{number}") for number in range(statements.MAX_ROWS)]
    with pytest.raises(IntegrityError), transaction.atomic():
        insert_rows([*many, vm("vm-0")])
    with pytest.raises(IntegrityError), transaction.atomic():
        insert_rows([vm("a"), VM(id="b", role="boss", registered_by="tests")])
    assert not VM.objects.exists()


def test_a_failed_insert_ends_the_transaction_as_a_failed_save_does() -> None:
    insert_rows([vm("a")])
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            insert_rows([vm("a")])
        with pytest.raises(transaction.TransactionManagementError):
            VM.objects.count()
        transaction.set_rollback(True)


def test_rows_of_one_statement_are_alike() -> None:
    for unlike in ([vm("a"), event()], [event(), event(id=7)]):
        with pytest.raises(TypeError, match="one model"):
            insert_rows(unlike)
    insert_rows([])


def test_an_update_writes_the_named_fields_only() -> None:
    insert_rows([vm("a"), vm("b")])
    changed = VM.objects.get(pk="a")
    changed.name, changed.address, changed.metadata = "new", "elsewhere", {"a": 1}
    assert update_row(changed, ["name", "metadata"])
    found = VM.objects.get(pk="a")
    assert (found.name, found.address, found.metadata) == ("new", "", {"a": 1})
    assert update_row(changed)
    assert stored(VM)[0]["address"] == "elsewhere"
    assert VM.objects.get(pk="b").name == "ö"
    assert not update_row(vm("nobody"), ["name"])
    changed.role = "boss"
    with pytest.raises(IntegrityError), transaction.atomic():
        update_row(changed, ["role"])


def test_models_whose_columns_are_made_by_the_database_are_refused() -> None:
    class Strange(models.Model):  # noqa: DJ008
        made_at = models.DateTimeField(db_default=models.functions.Now())

        class Meta:
            app_label = "tests"
            managed = False
            apps = Apps()

    with pytest.raises(TypeError, match="Strange"):
        insert_rows([Strange()])


def test_the_text_of_a_statement_is_made_once() -> None:
    insert_rows([event(), event()])
    known = statements._insert_text.cache_info().misses
    insert_rows([event(), event()])
    assert statements._insert_text.cache_info().misses == known
