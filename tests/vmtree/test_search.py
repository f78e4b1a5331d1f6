"""`?q=`"""

from __future__ import annotations

import pytest

from tests.conftest import Api
from tests.vmtree.conftest import ids
from vmtree import search
from vmtree.models import Node

Family = dict[str, Node]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["roof", "ada", "bob", "ada-1", "bob-1", "ada-2", "ada-2-1"]),
        ("ADA-2", ["ada-2", "ada-2-1"]),
        ("organ:bob", ["bob"]),
        ("organ:store category:lieutenant", ["ada", "bob"]),
        ("cap:ssh", []),
        ("capability:ssh", []),
        ("under:ada", ["ada-1", "ada-2", "ada-2-1"]),
        ("under:ada category:swarm_vm", ["ada-1", "ada-2-1"]),
        ('under:"ada" -1', ["ada-1", "ada-2-1"]),
        ("parent:roof", ["ada", "bob"]),
        ("id:ada", ["ada"]),
        ('"organ:bob"', []),
        ("%", []),
        ("_", []),
        ("' OR 1=1 --", []),
        ('organ:"', []),
    ],
)
def test_words_narrow(family: Family, api: Api, query: str, found: list[str]) -> None:
    answer = api.client.get("/vm-tree/vms", {"q": query})

    assert sorted(ids(answer, "vms")) == sorted(found)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("organs:store", "there is no organs: — words are capability:, category:, id:"),
        ("category:boss", "category is one of lieutenant, swarm_vm, agent_vm, infra_vm, not"),
        ("under:nobody", "there is no VM 'nobody'"),
        ("organ:", "nothing follows organ:"),
        ("x" * 1001, "at most 1000 characters"),
    ],
)
def test_a_wrong_word_lists_the_right_ones(db: None, api: Api, query: str, says: str) -> None:
    answer = api.client.get("/vm-tree/vms", {"q": query})

    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_apps_above_add_words(family: Family, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_words", dict(search._words))
    search.add_word(search.Word("loud", lambda nodes, _: nodes.filter(name="ada"), flag=True))

    assert ids(api.get("/vm-tree/vms?q=loud"), "vms") == ["ada"]
    assert ids(api.get('/vm-tree/vms?q="loud"'), "vms") == []
    assert "loud" in search.words()
    assert api.get("/vm-tree/vms?q=loud:x").status_code == 400
