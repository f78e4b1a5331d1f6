"""The tree in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.accounts.signin_links import make_operator
from tests.vmtree.conftest import Make
from vmtree import services, tokens
from vmtree.models import Node, NodeToken

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser() -> Client:
    client = Client()
    client.force_login(make_operator())
    return client


@pytest.fixture
def family_tree(make: Make) -> dict[str, Node]:
    return {
        "roof": make("roof", category="infra_vm"),
        "ada": make("ada", under="roof", category="lieutenant", organs=("store",)),
        "ada-1": make("ada-1", under="ada", category="swarm_vm"),
    }


def page(browser: Client, path: str) -> str:
    answer: Any = browser.get(f"/admin/vmtree/{path}", follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def save(browser: Client, node: Node, **fields: object) -> str:
    body = {
        "name": node.name,
        "category": node.category,
        "parent": node.parent_id or "",
        "reef_config": '{"organs": [], "capabilities": []}',
        **fields,
    }
    answer: Any = browser.post(f"/admin/vmtree/node/{node.pk}/change/", body, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_list_shows_and_filters_nodes(browser: Client, family_tree: dict[str, Node]) -> None:
    services.remove("ada-1", by="tests")
    tokens.issue(family_tree["ada"], made_by="tests")

    assert "ada-1" not in page(browser, "node/")
    assert "ada-1" in page(browser, "node/?removed=both")
    assert "ada-1" in page(browser, "revision/?what=removed")
    assert "ada" in page(browser, "nodetoken/")
    assert ">ada<" in page(browser, f"node/?parent__id__exact={family_tree['roof'].pk}")


def test_search_uses_the_terms_of_the_tree(browser: Client, family_tree: dict[str, Node]) -> None:
    found = page(browser, "node/?q=organ:store+under:roof")
    assert ">ada<" in found
    assert ">ada-1<" not in found
    assert "Unknown filter" in page(browser, "node/?q=organs:store")


def test_change_is_recorded_as_a_revision(browser: Client, family_tree: dict[str, Node]) -> None:
    save(browser, family_tree["ada"], name="new", reef_config='{"organs": ["cron"]}')

    last = family_tree["ada"].revisions.last()
    assert last is not None
    assert (last.name, last.actor) == ("new", "admin")
    assert last.reef_config == {"organs": ["cron"], "capabilities": []}
    assert [trait.name for trait in family_tree["ada"].traits.all()] == ["cron"]


def test_form_rejects_what_the_service_rejects(
    browser: Client, family_tree: dict[str, Node]
) -> None:
    assert "the same one or below it" in save(
        browser, family_tree["ada"], parent=family_tree["ada-1"].pk
    )
    assert "must be a list of text" in save(
        browser, family_tree["ada"], reef_config='{"organs": 1}'
    )
    assert family_tree["ada"].revisions.count() == 1


def test_action_revokes_tokens(browser: Client, family_tree: dict[str, Node]) -> None:
    for node in family_tree.values():
        tokens.issue(node, made_by="tests")
    body = {"action": "revoke_tokens", "_selected_action": [family_tree["ada"].pk]}

    browser.post("/admin/vmtree/node/", body)

    assert [token.node.vm_id for token in NodeToken.objects.good()] == ["roof"]


def test_number_of_queries_does_not_grow_with_the_rows(
    browser: Client, family_tree: dict[str, Node], make: Make
) -> None:
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as asked:
            page(browser, path)
        return len(asked)

    paths = ("node/", "node/?q=ada", "revision/", "nodetoken/")
    few = {path: queries(path) for path in paths}
    for number in range(40):
        node = make(f"more-{number}", under="ada")
        tokens.issue(node, made_by="tests")

    assert {path: queries(path) for path in paths} == few
