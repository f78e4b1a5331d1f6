"""Values stored by a node's token: their form, their reach and their limits."""

from __future__ import annotations

import pytest
from django.conf import settings

from lieutenants.models import Lieutenant
from reef_site.accounts.signin_links import make_operator
from tests.conftest import Api
from tests.versconfig.conftest import plant
from tests.versconfig.test_api import MODEL, SECRET, as_node, put
from tests.vmtree.conftest import NodeApi
from versconfig import config
from versconfig.models import Setting, Version
from versconfig.screening import stored
from versconfig.services import MAX_CHANGES_PER_MINUTE
from vmtree import operator_tokens
from vmtree.models import Category, Node


def create_local(name: str, parent: str) -> Node:
    """Make a lieutenant whose agent runs on this host."""
    row = Lieutenant.objects.create(name=name, role="tests", transport="local", host=settings.HOST)
    return plant(row.pk, parent, Category.LIEUTENANT)


@pytest.mark.parametrize("value", ["two words", "a\ttab", "x" * 513, "sch\u00f6n-0123456789"])
def test_keys_of_providers_are_printable_and_short(api: Api, db: None, value: str) -> None:
    answer = put(api, "ANTHROPIC_API_KEY", value)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("value: ")
    assert put(api, "ANTHROPIC_API_KEY", "x" * 512).status_code == 200


def test_local_agents_do_not_use_values_stored_by_vms(api: Api, database: str) -> None:
    web = plant("web")
    ada = create_local("ada", "web")
    put(api, MODEL, "p/fleet")
    put(api, "OPENAI_API_KEY", SECRET)
    node = as_node(web)
    for scope, vm in (("subtree", "web"), ("lieutenant", ada.vm_id), ("vm", ada.vm_id)):
        assert put(node, MODEL, "p/evil", scope=scope, vm=vm).status_code == 200
        assert put(node, "OPENAI_API_KEY", "sk-evil", scope=scope, vm=vm).status_code == 200

    assert config.text(MODEL, web) == "p/evil"
    assert config.text(MODEL, ada) == "p/fleet"
    assert config.secret("OPENAI_API_KEY", ada) == SECRET
    explained = api.get(f"/vers-config/explain/{MODEL}?vm={ada.vm_id}").json()
    assert (explained["value"], explained["scope"], explained["effective"]) == (
        "p/fleet",
        "fleet",
        True,
    )
    skipped = [each for each in explained["chain"] if each["skipped"]]
    assert len(skipped) == 3
    assert "stored by web (web), which is no local agent" in skipped[0]["skipped"]
    assert not any(each["effective"] for each in skipped)


def test_operator_can_confirm_a_value_stored_by_a_vm(api: Api, db: None) -> None:
    web = plant("web")
    ada = create_local("ada", "web")
    put(as_node(web), MODEL, "p/x", scope="subtree", vm="web")
    assert config.text(MODEL, ada) != "p/x"
    assert put(api, MODEL, "p/x", scope="subtree", vm="web").status_code == 200
    assert config.text(MODEL, ada) == "p/x"
    # Storing the same value again does not change its owner.
    put(as_node(web), MODEL, "p/x", scope="subtree", vm="web")
    assert Setting.objects.get().stored_by is None


def test_local_agents_use_values_stored_by_a_local_ancestor(api: Api, db: None) -> None:
    ada = create_local("ada", "")
    bea = create_local("bea", ada.vm_id)
    put(as_node(ada), MODEL, "p/ada", scope="subtree", vm=ada.vm_id)
    assert config.text(MODEL, bea) == "p/ada"


def test_changes_of_a_node_are_limited(api: Api, db: None) -> None:
    node = as_node(plant("web"))
    for number in range(MAX_CHANGES_PER_MINUTE):
        assert put(node, MODEL, f"p/{number}", vm="web").status_code == 200
    answer = put(node, MODEL, "p/more", vm="web")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.json()["error"].startswith("rule: a node changes at most 30 settings a minute")
    gone = node.delete("/vers-config/REEF_AGENT_MODEL?vm=web")
    assert gone.status_code == 429
    assert Version.objects.count() == MAX_CHANGES_PER_MINUTE
    assert put(api, MODEL, "p/more", vm="web").status_code == 200
    assert put(as_node(plant("other")), MODEL, "p/more", vm="other").status_code == 200


def token_below(node: Node) -> Api:
    """Return an API client with an operator token that is limited to the node's subtree."""
    return NodeApi(operator_tokens.make("ci", "everything", subtree=node, by=make_operator())[1])


def test_value_stored_with_a_subtree_token_counts_as_its_nodes(api: Api, db: None) -> None:
    web = plant("web")
    ada = create_local("ada", "web")
    put(api, MODEL, "p/fleet")
    token = token_below(web)

    assert put(token, MODEL, "p/evil", scope="subtree", vm="web").status_code == 200
    assert put(token, "OPENAI_API_KEY", SECRET, scope="subtree", vm="web").status_code == 200
    assert set(Setting.objects.exclude(node=None).values_list("stored_by", flat=True)) == {web.pk}
    assert config.text(MODEL, ada) == "p/fleet"
    assert SECRET not in [each.value for each in stored.everywhere()]
    for number in range(MAX_CHANGES_PER_MINUTE - 2):
        assert put(token, MODEL, f"p/{number}", vm="web").status_code == 200
    assert put(token, MODEL, "p/more", vm="web").status_code == 429


def test_subtree_token_sees_as_much_of_secrets_as_a_node(api: Api, db: None) -> None:
    put(api, "VERS_API_KEY", SECRET)
    token = token_below(plant("web"))

    assert token.get("/vers-config/").json()["apiKey"] == "sk-..."
    explained = token.get("/vers-config/explain/VERS_API_KEY?vm=web")
    assert explained.status_code == 200
    assert SECRET[:4] not in explained.content.decode()
