"""Fixtures for tests of the tree: both databases, and a short way to create nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reef_site.accounts.signin_links import make_operator
from tests.conftest import Api
from vmtree import services, tokens
from vmtree.models import Node
from vmtree.services import NewNode

Make = Callable[..., Node]


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db(transaction=True)),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ]
)
def database(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases."""
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    return str(request.param)


@pytest.fixture
def make() -> Make:
    """Return a function that creates a node: `make("id", under="parent", organs=["store"])`."""

    def make(
        vm_id: str,
        *,
        under: str = "",
        category: str = "agent_vm",
        name: str = "",
        organs: tuple[str, ...] = (),
        capabilities: tuple[str, ...] = (),
    ) -> Node:
        dna = {"organs": list(organs), "capabilities": list(capabilities)}
        new = NewNode(name or vm_id, category, vm_id, parent_vm_id=under, dna=dna)
        return services.create(new, by="tests")

    return make


@pytest.fixture
def family(database: str, make: Make) -> dict[str, Node]:
    """Create root → (ada → (ada-1, ada-2 → ada-2-1), bob → bob-1)."""
    nodes = {}
    for vm_id, parent, category in (
        ("roof", "", "infra_vm"),
        ("ada", "roof", "lieutenant"),
        ("bob", "roof", "lieutenant"),
        ("ada-1", "ada", "swarm_vm"),
        ("ada-2", "ada", "agent_vm"),
        ("bob-1", "bob", "swarm_vm"),
        ("ada-2-1", "ada-2", "swarm_vm"),
    ):
        nodes[vm_id] = make(vm_id, under=parent, category=category, organs=("store", vm_id))
    return nodes


class NodeApi(Api):
    """API client with a node token."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {token}"


@pytest.fixture
def as_node() -> Callable[[Node], NodeApi]:
    """Return a function that gives the API client of a node."""
    return lambda node: NodeApi(tokens.issue(node, made_by="tests"))


@pytest.fixture
def admin_api(database: str) -> Api:
    """Provide an API client with the session of an operator."""
    api = Api()
    del api.client.defaults["HTTP_AUTHORIZATION"]
    api.client.force_login(make_operator())
    return api


def ids(answer: Any, key: str) -> list[str]:
    """Return the ids of the VMs in a list of a response."""
    assert answer.status_code == 200, answer.content
    return [each["vmId"] for each in answer.json()[key]]
