"""The modules of the fleet agent as one file."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from bootloader.join import fleet_agent_file
from tests.stack import ROOT

PACKAGE = ROOT / "bootloader" / "fleet_agent"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / "fleet_agent"))


def test_file_is_valid_python_3_8_and_needs_no_other_module() -> None:
    tree = ast.parse(fleet_agent_file.build(PACKAGE), feature_version=(3, 8))
    assert not [each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.level]


def test_file_has_the_code_of_all_modules() -> None:
    code = ast.unparse(ast.parse(fleet_agent_file.build(PACKAGE)))
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *fleet_agent_file.MODULES}
    for name in fleet_agent_file.MODULES:
        definitions = ast.parse((PACKAGE / f"{name}.py").read_text()).body
        for each in definitions:
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                assert ast.unparse(each) in code


def test_modules_import_only_from_those_before_them() -> None:
    for number, name in enumerate(fleet_agent_file.MODULES):
        for each in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(each, ast.ImportFrom) and each.level:
                assert each.module in fleet_agent_file.MODULES[:number]


@pytest.mark.parametrize(
    "code", ["def required() -> None:\n    pass", "required = 1", "required: int = 1"]
)
def test_name_that_two_modules_define_is_refused(package: Path, code: str) -> None:
    append(package / "home.py", code)
    with pytest.raises(ValueError, match="twice: required"):
        fleet_agent_file.build(package)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import json as other", "must not rename"),
        ("from json import dumps as other", "must not rename"),
        ("from .errors import Json as Other", "must not rename"),
        ("def late():\n    from .errors import Json", "must be at top level"),
        ("from .agent import FleetAgent", "a module before it"),
        ("from . import errors", "a module before it"),
    ],
)
def test_import_that_cannot_be_joined_is_refused(package: Path, code: str, why: str) -> None:
    append(package / "home.py", code)
    with pytest.raises(ValueError, match=rf"^home\.py:\d+: .*{why}"):
        fleet_agent_file.build(package)


def test_import_within_a_function_stays_there(package: Path) -> None:
    append(package / "home.py", "def late():\n    import json as other\n    return other")
    assert b"    import json as other\n" in fleet_agent_file.build(package)


def append(path: Path, code: str) -> None:
    with path.open("a") as file:
        file.write(f"\n\n{code}\n")
