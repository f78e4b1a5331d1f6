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


def test_name_that_two_modules_define_is_refused(package: Path) -> None:
    with (package / "home.py").open("a") as file:
        file.write("\n\ndef required() -> None:\n    pass\n")
    with pytest.raises(ValueError, match="required"):
        fleet_agent_file.build(package)
