"""Rules for imports between modules; `lint-imports` checks the layers of the apps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from django.conf import settings

PACKAGES = ("reef_site", "lieutenants", "bootloader", "registry", "versconfig", "vmtree")
Graph = dict[str, set[str]]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Return for each module the modules that it imports, in functions, too."""
    found = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    return {name: found.find_modules_directly_imported_by(name) for name in found.modules}


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (settings.BASE_DIR / package).rglob("*.py")


def test_no_modules_import_each_other_in_a_circle(graph: Graph) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_common_imports_nothing_else_of_reef(graph: Graph) -> None:
    room = "reef_site.common"
    common = {name: found for name, found in graph.items() if f"{name}.".startswith(f"{room}.")}

    assert len(common) > 10
    strangers = [
        f"{name} -> {other}"
        for name, found in common.items()
        for other in found
        if not f"{other}.".startswith(f"{room}.")
    ]
    assert strangers == []


def test_imports_stand_before_classes_and_functions() -> None:
    late = []
    for path in sources():
        seen = False
        for statement in ast.parse(path.read_text()).body:
            seen = seen or isinstance(statement, ast.ClassDef | ast.FunctionDef)
            if seen and isinstance(statement, ast.Import | ast.ImportFrom):
                late.append(f"{path.relative_to(settings.BASE_DIR)}:{statement.lineno}")
    assert late == []
