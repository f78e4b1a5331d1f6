"""Raw SQL is in modules named `queries`, each in the app that owns its tables."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

PACKAGES = ("reef_site", "lieutenants", "bootloader", "registry", "versconfig", "vmtree")
CALLS = frozenset({"cursor", "chunked_cursor", "raw", "extra", "execute", "executemany"})
EXCEPTIONS = {
    "reef_site/sqlite/base.py": "a database backend",
    "reef_site/apps.py": "sets up new connections",
    "reef_site/common/database_locks.py": "advisory locks, which concern no table",
}


def raw_sql(source: str) -> Iterator[int]:
    """Yield the lines that call one of CALLS, or name RawSQL."""
    if not any(name in source for name in (*(f".{call}(" for call in CALLS), "RawSQL")):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in CALLS:
                yield node.lineno
        elif isinstance(node, ast.Name) and node.id == "RawSQL":
            yield node.lineno


def is_for_sql(path: Path) -> bool:
    return path.stem == "queries" or path.parent.name in ("queries", "migrations")


def test_raw_sql_is_in_modules_for_it() -> None:
    found = []
    for package in PACKAGES:
        for path in (settings.BASE_DIR / package).rglob("*.py"):
            name = str(path.relative_to(settings.BASE_DIR))
            if name not in EXCEPTIONS and not is_for_sql(path):
                found += [f"{name}:{line}" for line in raw_sql(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "with connection.cursor() as cursor: pass",
        "cursor.execute('SELECT 1')",
        "VM.objects.raw('SELECT 1')",
        "nodes.filter(pk__in=RawSQL('SELECT 1', []))",
        "nodes.extra(where=['1'])",
    ],
)
def test_raw_sql_is_recognized(source: str) -> None:
    assert list(raw_sql(source))
