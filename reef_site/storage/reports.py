"""The newest measurements with how long everything is kept, for the page and the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps

from lieutenants.models import Lieutenant
from reef_site.common.retention import FOREVER, Rule, retention_rules
from reef_site.sqlite import log
from reef_site.storage.folders import JOURNALS, SESSIONS, WORKSPACES
from reef_site.storage.models import Measurement


@dataclass(frozen=True)
class Item:
    """A table or a part of a data folder. `count` is its number of rows or files."""

    name: str
    title: str
    size_bytes: int
    count: int
    kept: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class LieutenantSize:
    """The folder of a lieutenant in bytes. `name` is empty if there is no such lieutenant."""

    id: str
    name: str
    size_bytes: int
    workspace_bytes: int
    session_bytes: int
    journal_bytes: int


@dataclass(frozen=True)
class FolderReport:
    """A data folder as it was measured."""

    id: str
    host: str
    at: datetime
    is_complete: bool
    parts: list[Item]
    lieutenants: list[LieutenantSize]

    @property
    def size_bytes(self) -> int:
        """Return the sum of its parts."""
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True)
class DatabaseReport:
    """The database as it was measured. `log_bytes` is None if it is not SQLite."""

    at: datetime
    size_bytes: int
    free_bytes: int
    log_bytes: int | None
    problem: str
    tables: list[Item]


@dataclass(frozen=True)
class StorageReport:
    """All that is known. `log_problem` is why SQLite's log is too long now, if it is."""

    database: DatabaseReport | None
    folders: list[FolderReport]
    log_problem: str


def make_report() -> StorageReport:
    """Return the newest measurements."""
    rows = {row.subject: row for row in Measurement.objects.all()}
    database = rows.pop(Measurement.DATABASE, None)
    names = _names(rows.values())
    found = log.look()
    return StorageReport(
        _database(database) if database else None,
        [_folder(row, names) for row in rows.values()],
        found.why if found else "",
    )


def _names(rows: Any) -> dict[str, str]:
    keys = [key for row in rows for key, _ in row.facts.get("lieutenants", [])]
    return dict(Lieutenant.objects.filter(pk__in=keys).values_list("pk", "name"))


def _database(row: Measurement) -> DatabaseReport:
    facts, rules = row.facts, _rules_by_table()
    titles = {
        model._meta.db_table: str(model._meta.verbose_name_plural)
        for model in apps.get_models(include_auto_created=True)
    }
    tables = [
        _item(name, titles.get(name, name), size, count, rules.get(name))
        for name, count, size in facts.get("tables", [])
    ]
    return DatabaseReport(
        row.at,
        facts.get("bytes", 0),
        facts.get("freeBytes", 0),
        facts.get("logBytes"),
        facts.get("problem", ""),
        tables,
    )


def _folder(row: Measurement, names: Mapping[str, str]) -> FolderReport:
    rules = {name: rule for rule in retention_rules for name in rule.folders}
    parts = [
        _item(name, name, size, count, rules.get(name))
        for name, (size, count) in row.facts.get("parts", {}).items()
    ]
    lieutenants = [
        _lieutenant(key, names.get(key, ""), {name: size for name, (size, _) in sizes.items()})
        for key, sizes in row.facts.get("lieutenants", [])
    ]
    parts.sort(key=lambda part: -part.size_bytes)
    is_complete = row.facts.get("isComplete", False)
    return FolderReport(row.subject, row.host, row.at, is_complete, parts, lieutenants)


def _lieutenant(key: str, name: str, sizes: Mapping[str, int]) -> LieutenantSize:
    parts = (sizes.get(part, 0) for part in (WORKSPACES, SESSIONS, JOURNALS))
    return LieutenantSize(key, name, sum(sizes.values()), *parts)


def _item(name: str, title: str, size: int, count: int, rule: Rule | None) -> Item:
    kept, settings = (rule.kept(), rule.settings) if rule else (FOREVER, ())
    return Item(name, title, size, count, kept, settings)


def _rules_by_table() -> dict[str, Rule]:
    return {model._meta.db_table: rule for rule in retention_rules for model in rule.tables}
