"""Fixtures of versconfig's tests: a home folder, an empty environment, a tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from versconfig import keys
from vmtree import services as tree
from vmtree.models import Category, Node


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a home folder without files, and an environment without config keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in keys.ALL:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def _own_keys() -> Iterator[None]:
    """Start each test without a key file."""
    settings.CONFIG_KEYS_FILE.unlink(missing_ok=True)
    yield
    settings.CONFIG_KEYS_FILE.unlink(missing_ok=True)


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ]
)
def database(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases."""
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    return str(request.param)


def plant(vm_id: str, parent: str = "", category: str = Category.SWARM_VM) -> Node:
    """Create a VM in the tree."""
    new = tree.NewNode(vm_id, category, vm_id=vm_id, parent_vm_id=parent)
    return tree.create(new, by="tests")


def write(home: Path, name: str, content: object) -> Path:
    """Write a file of ~/.vers: text unchanged, other values as JSON."""
    file = home / ".vers" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file
