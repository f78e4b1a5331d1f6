"""The API of configuration: scopes, explain, impact, history, who may do what."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from reef_site.accounts.signin_links import make_operator
from tests.conftest import Api
from tests.versconfig.conftest import plant
from versconfig import checks, keys
from versconfig.checks import Finding
from versconfig.exceptions import Unset
from versconfig.models import Setting, Version
from versconfig.serializers import setting_json, version_json
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Category, Node

SECRET = "sk-test-0123456789-abcdefghij"
MODEL = "REEF_AGENT_MODEL"


def put(api: Api, name: str, value: object, **more: object) -> Any:
    return api.client.put(
        f"/vers-config/{name}", {"value": value, **more}, content_type="application/json"
    )


def as_node(node: Node) -> Api:
    found = Api()
    token = tokens.issue(node, made_by="tests")
    found.client = Client(headers={"authorization": f"Bearer {token}"})
    return found


def test_put_returns_its_impact(api: Api, database: str) -> None:
    root = plant("root")
    plant("low", "root")
    plant("ada", "low", Category.LIEUTENANT)
    plant("other")
    assert put(api, MODEL, "p/own", scope="subtree", vm="low").status_code == 200

    answer = put(api, MODEL, "p/root", scope="subtree", vm="root", dryRun=True).json()
    assert answer["impact"] == {
        "changes": True,
        "before": None,
        "after": "p/root",
        "count": 1,
        "names": ["root"],
        "keepTheirOwn": 2,
        "shadowedBy": None,
        "takesEffect": "with the next start of an agent",
        "restart": [],
    }
    assert Setting.objects.count() == 1

    answer = put(api, MODEL, "p/fleet").json()
    assert answer["effective"] is True
    assert (answer["impact"]["count"], answer["impact"]["keepTheirOwn"]) == (2, 2)
    assert put(api, MODEL, "p/fleet").json()["impact"]["changes"] is False
    assert Version.objects.count() == 2

    answer = put(api, MODEL, "p/fleet", scope="vm", vm="other").json()
    assert answer["impact"]["changes"] is False
    assert Setting.objects.filter(node=root).count() == 0


def test_put_reports_that_the_environment_overrides_it(
    api: Api, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")

    answer = put(api, "openai_api_key", SECRET).json()

    assert (answer["effective"], answer["note"]) == (
        False,
        "stored, but the environment shadows it",
    )
    chain = api.get("/vers-config/explain/OPENAI_API_KEY").json()["chain"]
    assert [(each["where"], each["effective"], each["shadowedBy"]) for each in chain] == [
        ("the environment", True, None),
        ("store, the fleet", False, "the environment"),
        ("default", False, None),
    ]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"value": "0"}, 400, "value: must be a whole number from 1 to 256"),
        ({"value": "2", "scope": "galaxy"}, 400, "scope: must be one of fleet, subtree, vm, lie"),
        ({"value": "2", "scope": "vm"}, 400, "vm: the scope vm needs the id of a VM"),
        ({"value": "2", "scope": "fleet", "vm": "web"}, 400, "vm: the fleet's scope has none"),
        ({"value": "2", "scope": "lieutenant", "vm": "web"}, 400, "vm: web is no lieutenant"),
        ({"value": "2", "vm": "nobody"}, 404, "VM not found"),
        ({"value": "2", "vm": 5}, 400, "scope: scope and vm must be strings"),
        ({"value": "2", "scope": []}, 200, ""),
        ({"value": "2", "scope": ["vm"]}, 400, "scope: scope and vm must be strings"),
        ({"value": "2", "seen": "x"}, 400, "seen: must be the number of a version, or null"),
        ({"value": "2", "dryRun": "yes"}, 400, "dryRun: must be true or false"),
        ({"value": ["2"]}, 400, "value must be a string"),
        (["value"], 400, "value must be a string"),
    ],
)
def test_invalid_input_is_rejected_with_its_field(
    api: Api, db: None, body: object, status: int, said: str
) -> None:
    plant("web")

    answer = api.client.put("/vers-config/REEF_VM_VCPUS", body, content_type="application/json")

    assert answer.status_code == status
    assert answer.json().get("error", "").startswith(said)


def test_key_of_the_whole_fleet_has_no_narrower_scope(api: Api, db: None) -> None:
    plant("web")

    answer = put(api, "REEF_MAX_VMS", "5", vm="web")

    assert answer.status_code == 400
    assert "holds for the whole fleet" in answer.json()["error"]


def test_history_entries_can_be_undone_and_restored(api: Api, db: None) -> None:
    for text in ("p/one", "p/two"):
        put(api, MODEL, text)
    api.client.delete(f"/vers-config/{MODEL}")
    third, second, first = api.get("/vers-config/history").json()["history"]
    assert [(each["what"], each["value"], each["actor"]) for each in (first, second, third)] == [
        ("set", "p/one", "root token"),
        ("set", "p/two", "root token"),
        ("removed", None, "root token"),
    ]

    assert api.post(f"/vers-config/history/{first['id']}/undo").status_code == 409
    undone = api.post(f"/vers-config/history/{third['id']}/undo").json()
    assert (undone["what"], undone["value"]) == ("undone", "p/two")
    assert Setting.objects.get().clear == "p/two"
    again = api.post(f"/vers-config/history/{undone['id']}/undo").json()
    assert (again["what"], again["value"]) == ("undone", None)
    assert not Setting.objects.exists()
    back = api.post(f"/vers-config/history/{first['id']}/put-back").json()
    assert (back["what"], back["value"]) == ("put_back", "p/one")
    assert Setting.objects.get().clear == "p/one"
    assert api.post("/vers-config/history/999999/undo").status_code == 404
    page = api.get("/vers-config/history?limit=2").json()
    assert (page["count"], page["next"]) == (2, page["history"][1]["id"])


def test_conflicting_put_is_rejected(api: Api, db: None) -> None:
    first = put(api, MODEL, "p/one", seen=None).json()["version"]
    assert put(api, MODEL, "p/two", seen=None).status_code == 409
    assert put(api, MODEL, "p/two", seen=first).status_code == 200
    answer = put(api, MODEL, "p/three", seen=first)
    assert answer.status_code == 409
    assert "was changed by root token meanwhile" in answer.json()["error"]


def delete(api: Api, query: str = "", **body: object) -> Any:
    path = f"/vers-config/{MODEL}{query}"
    return api.client.delete(path, body, content_type="application/json")


@pytest.mark.parametrize(("query", "body"), [("?dryRun=true", {}), ("", {"dryRun": True})])
def test_dry_run_changes_nothing(api: Api, db: None, query: str, body: dict[str, object]) -> None:
    asked = api.client.put(
        f"/vers-config/{MODEL}{query}", {"value": "p/x", **body}, content_type="application/json"
    )
    assert (asked.json()["dryRun"], asked.json()["impact"]["after"]) == (True, "p/x")
    assert not Setting.objects.exists()

    put(api, MODEL, "p/one")
    answer = delete(api, query, **body)

    assert answer.status_code == 200
    assert (answer.json()["dryRun"], answer.json()["impact"]["before"]) == (True, "p/one")
    assert Setting.objects.get().clear == "p/one"


def test_invalid_dry_run_flag_is_rejected(api: Api, db: None) -> None:
    answer = delete(api, "?dryRun=maybe")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("dryRun: must be true or false")


def test_put_can_require_that_nothing_is_stored(api: Api, db: None) -> None:
    path = f"/vers-config/{MODEL}?seen=null"
    first = api.client.put(path, {"value": "p/one"}, content_type="application/json")
    assert first.status_code == 200, first.content
    second = api.client.put(path, {"value": "p/two"}, content_type="application/json")
    assert second.status_code == 409
    assert Setting.objects.get().clear == "p/one"


@pytest.mark.parametrize("in_query", [True, False])
def test_conflicting_delete_is_rejected(api: Api, db: None, *, in_query: bool) -> None:
    def seen(version: int) -> Any:
        return delete(api, f"?seen={version}") if in_query else delete(api, seen=version)

    first = put(api, MODEL, "p/one").json()["version"]
    second = put(api, MODEL, "p/two").json()["version"]
    refused = seen(first)
    assert refused.status_code == 409
    assert "was changed by root token meanwhile" in refused.json()["error"]
    assert Setting.objects.get().clear == "p/two"

    removed = seen(second).json()
    assert (removed["deleted"], removed["did"]) == (True, "removed")
    assert removed["version"] > second
    assert not Setting.objects.exists()


def test_dry_run_with_an_old_version_is_rejected(api: Api, db: None) -> None:
    first = put(api, MODEL, "p/one").json()["version"]
    put(api, MODEL, "p/two")
    assert put(api, MODEL, "p/three", seen=first, dryRun=True).status_code == 409
    assert delete(api, seen=first, dryRun=True).status_code == 409
    assert delete(api, seen="x").status_code == 400


@pytest.mark.parametrize("model", [Setting, Version])
@pytest.mark.parametrize(
    ("clear", "sealed", "shown"),
    [
        ("p/one", "", ("p/one", False)),
        ("", "", (None, False)),
        ("", "encrypted", (None, True)),
        # The database refuses such a row; it must not be needed to keep the secret.
        ("left over", "encrypted", (None, True)),
    ],
)
def test_value_is_shown_only_if_it_is_not_secret(
    model: type[Setting | Version], clear: str, sealed: str, shown: tuple[str | None, bool]
) -> None:
    row = model(key=MODEL, clear=clear, sealed=sealed)
    found = setting_json(row) if isinstance(row, Setting) else version_json(row)
    assert (found["value"], found["secret"]) == shown
    assert "encrypted" not in str(found)


def test_history_is_paginated_by_cursor(api: Api, db: None) -> None:
    for value in ("p/one", "p/two", "p/three"):
        put(api, MODEL, value)
    first = api.get("/vers-config/history?limit=2").json()
    for word in ("cursor", "before"):
        rest = api.get(f"/vers-config/history?{word}={first['next']}").json()
        assert [each["value"] for each in rest["history"]] == ["p/one"]
        assert rest["next"] is None


def test_nodes_read_masked_values_and_change_their_own(api: Api, db: None) -> None:
    plant("mine")
    mine, low, other = plant("me", "mine"), plant("low", "me"), plant("other")
    put(api, "VERS_API_KEY", SECRET)
    node = as_node(mine)

    assert node.get("/vers-config/").json()["apiKey"] == "sk-..."
    said = node.get("/vers-config/explain/VERS_API_KEY").content.decode()
    assert SECRET[:4] not in said
    assert api.get("/vers-config/?vm=me").json()["apiKey"] == "sk-test..."
    for path in ("resolve/VERS_API_KEY", "resolve/VERS_BASE_URL"):
        assert node.get(f"/vers-config/{path}").status_code == 403
    assert node.post("/vers-config/test/VERS_API_KEY").status_code == 403
    assert SECRET not in node.get("/vers-config/explain/VERS_API_KEY").content.decode()

    assert put(node, MODEL, "p/me", vm="me").status_code == 200
    assert put(node, MODEL, "p/low", scope="subtree", vm="low").status_code == 200
    assert node.get(f"/vers-config/explain/{MODEL}").json()["value"] == "p/me"
    for target in ({}, {"vm": "other"}, {"vm": "mine"}):
        answer = put(node, MODEL, "p/x", **target)
        assert answer.status_code == 403, target
        assert answer.json()["error"].startswith("rule: ")
    # Only operators may set addresses to which secrets are sent.
    for name, value in (
        ("VERS_BASE_URL", "http://evil.example"),
        ("REEF_NPM_REGISTRY", "http://x"),
    ):
        assert put(node, name, value, scope="subtree", vm="me").status_code == 403
        assert put(node, name, value, vm="me", dryRun=True).status_code == 403
    newest = Version.objects.filter(node=None).latest("id")
    assert node.post(f"/vers-config/history/{newest.pk}/undo").status_code == 403
    assert low.pk
    assert other.pk


def test_permission_is_checked_before_the_value(api: Api, db: None) -> None:
    node = as_node(plant("me"))
    plant("other")

    for name, target in ((MODEL, {"vm": "other"}), (MODEL, {}), ("VERS_BASE_URL", {"vm": "me"})):
        for value in ("not a model", 7, None):
            answer = put(node, name, value, **target)
            assert answer.status_code == 403, (name, target, value)
            assert answer.json()["error"].startswith("rule: ")
    assert put(node, MODEL, "not a model", vm="me").status_code == 400
    rows = {row["key"]: row["byNodes"] for row in node.get("/vers-config/keys").json()["keys"]}
    assert (rows[MODEL], rows["VERS_BASE_URL"]) == (True, False)


def test_node_reads_only_the_config_of_its_subtree(api: Api, db: None) -> None:
    plant("mine")
    mine = plant("me", "mine")
    plant("low", "me")
    plant("other")
    for vm in ("mine", "me", "low", "other"):
        put(api, MODEL, f"p/{vm}", vm=vm)
    put(api, MODEL, "p/inherited", scope="subtree", vm="mine")
    put(api, "OPENAI_API_KEY", SECRET, vm="other")
    node = as_node(mine)

    for path in ("explain/OPENAI_API_KEY", f"explain/{MODEL}", "", "settings", "history"):
        assert node.get(f"/vers-config/{path}?vm=low").status_code == 200, path
        for vm in ("other", "mine"):
            answer = node.get(f"/vers-config/{path}?vm={vm}")
            assert answer.status_code == 403, (path, vm)
            assert answer.json()["error"].startswith("rule: ")
    for path, name in (("settings", "settings"), ("history", "history")):
        rows = node.get(f"/vers-config/{path}").json()[name]
        assert {row["vmId"] for row in rows} == {"me", "low"}, path
        assert len({row["vmId"] for row in api.get(f"/vers-config/{path}").json()[name]}) == 4
    assert "p/inherited" in node.get(f"/vers-config/explain/{MODEL}").content.decode()


def test_only_resolve_returns_secrets(api: Api, db: None) -> None:
    plant("web")
    put(api, "VERS_API_KEY", SECRET)
    put(api, "VERS_API_KEY", SECRET + "2", scope="vm", vm="web")
    paths = [
        "",
        "keys",
        "settings",
        "history",
        "explain/VERS_API_KEY",
        "explain/VERS_API_KEY?vm=web",
    ]

    for path in paths:
        answer = api.get(f"/vers-config/{path}")
        assert answer.status_code == 200, path
        assert SECRET[:9] not in answer.content.decode(), path
    assert "sk-test" not in api.get("/vers-config/history").content.decode()
    found = api.get("/vers-config/resolve/VERS_API_KEY?vm=web").json()
    assert found == {"key": "VERS_API_KEY", "value": SECRET + "2", "source": "store"}


def test_url_with_a_password_is_masked(api: Api, db: None) -> None:
    plant("web")
    url = "https://ada:pass-w%40rd@mirror.example/npm/@scope/"
    put(api, "REEF_NPM_REGISTRY", url)
    put(api, "REEF_NPM_REGISTRY", url + "2", scope="vm", vm="web")

    row = Setting.objects.get(node=None)
    assert (row.clear, row.text()) == ("", url)
    for path in ("settings", "history", "explain/REEF_NPM_REGISTRY?vm=web"):
        said = api.get(f"/vers-config/{path}").content.decode()
        assert "pass-w" not in said, path
        assert "ada:" not in said, path
    shown = api.get("/vers-config/explain/REEF_NPM_REGISTRY").json()["value"]
    assert shown.startswith("https://…@")
    refused = put(api, "REEF_NPM_REGISTRY", "https://ada:pass-word@")
    assert refused.status_code == 400
    assert "pass-word" not in refused.content.decode()


def test_error_does_not_repeat_a_rejected_secret(api: Api, db: None) -> None:
    answer = put(api, "VERS_API_KEY", f"{SECRET}\n{SECRET}")

    assert answer.status_code == 400
    assert SECRET not in answer.content.decode()


def test_check_returns_a_finding(api: Api, db: None) -> None:
    asked: list[Node | None] = []

    def check(node: Node | None) -> Finding:
        asked.append(node)
        if node:
            raise Unset(f"nobody knows {SECRET}")
        return Finding(True, f"It is good, that {SECRET}.")

    assert api.post("/vers-config/test/REEF_VM_REGION").status_code == 404
    with checks.key_checks.changed({"VERS_API_KEY": check}):
        unset = api.post("/vers-config/test/VERS_API_KEY").json()
        assert (unset["good"], unset["text"]) == (False, "VERS_API_KEY is not set.")
        put(api, "VERS_API_KEY", SECRET)

        assert api.post("/vers-config/test/vers_api_key").json() == {
            "key": "VERS_API_KEY",
            "good": True,
            "text": "It is good, that […].",
        }
        plant("web")
        said = api.post("/vers-config/test/VERS_API_KEY?vm=web").json()
        assert (said["good"], said["text"]) == (None, "nobody knows […]")
        assert [node and node.vm_id for node in asked] == [None, "web"]


def test_keys_are_listed_and_unknown_paths_are_404(api: Api, db: None) -> None:
    found = api.get("/vers-config/keys").json()
    assert found["count"] == len(found["keys"])
    assert found["keys"][0]["files"][0] == "~/.vers/keys.json, keys.VERS_API_KEY"
    assert api.get("/vers-config/a/b/c").status_code == 404
    assert api.get("/vers-config/explain/NOPE").json() == {"error": "Unknown config key: NOPE"}
    assert Client().get("/vers-config/keys").status_code == 401


HOSTILE = [
    *("\0", "\ud800", "a\nb", "$(id)", "`id`", "'; DROP TABLE x; --", '"', "\\", "%s", "{{ x }}"),
    *("<script>", "é" * 300, "x" * 20_000, "\u202e", "😀", "../../etc/passwd", " ", "-", "0"),
]


def test_hostile_texts_are_accepted_or_rejected_with_a_reason(api: Api, database: str) -> None:
    plant("web")
    for text in HOSTILE:
        put_in_all_fields(api, text)
        request_all_paths(api, quote(text.encode("utf-8", "replace"), safe="")[:2000])


def put_in_all_fields(api: Api, text: str) -> None:
    for name in {(key.kind, key.secret): key.name for key in keys.ALL.values()}.values():
        answer = put(api, name, text)
        assert answer.status_code in (200, 400), (name, text, answer.content)
        if answer.status_code == 200 and text.strip():
            assert api.get(f"/vers-config/resolve/{name}").json()["value"] == text.strip()
    for more in ({"vm": text}, {"scope": text}, {"scope": "vm", "vm": text}):
        assert put(api, MODEL, "p/x", **more).status_code in (200, 400, 404), more


def request_all_paths(api: Api, quoted: str) -> None:
    for path in (
        *(f"/vers-config/{quoted}", f"/vers-config/resolve/{quoted}", f"/vers-config/?vm={quoted}"),
        *(f"/vers-config/history?key={quoted}", f"/vers-config/history?vm={quoted}"),
        *(f"/vers-config/settings?vm={quoted}", f"/vers-config/explain/{MODEL}?vm={quoted}"),
    ):
        assert api.get(path).status_code in (200, 400, 404), path
    assert api.delete(f"/vers-config/{quoted}").status_code == 404
    person = Client()
    person.force_login(make_operator())
    assert person.get(f"/config/?vm={quoted}").status_code == 200
    assert person.get(f"/config/{MODEL}/?vm={quoted}").status_code in (200, 404)


# -- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["id-of-ada", "ada", "local-ada"])
def test_lieutenant_is_addressed_by_id_name_or_alias(db: None, api: Api, words: str) -> None:
    new = tree.NewNode("ada", Category.LIEUTENANT, vm_id="id-of-ada")
    tree.create(new, by="tests")
    plant("vm-7")
    tree.create(tree.NewNode("ada", Category.SWARM_VM, vm_id="a-vm-called-so"), by="tests")

    said = put(api, MODEL, "p/ada", scope="lieutenant", vm=words).json()

    assert (said["scope"], said["vmId"]) == ("lieutenant", "id-of-ada")
    assert api.get(f"/vers-config/explain/{MODEL}?vm={words}").json()["value"] == "p/ada"
    assert api.get(f"/vers-config/settings?vm={words}").json()["count"] == 1
    assert api.get(f"/vers-config/history?vm={words}").json()["count"] == 1
    gone = api.delete(f"/vers-config/{MODEL}?scope=lieutenant&vm={words}")
    assert gone.status_code == 200


def test_ambiguous_name_is_rejected(db: None, api: Api) -> None:
    for vm_id in ("one", "two"):
        tree.create(tree.NewNode("twin", Category.SWARM_VM, vm_id=vm_id), by="tests")

    answer = api.get(f"/vers-config/explain/{MODEL}?vm=twin")

    assert answer.status_code == 400
    assert answer.json()["error"] == "vm: 2 VMs are called twin; give the id of one"


def test_scopes_match_the_kind_of_node(db: None, api: Api) -> None:
    plant("ada", category=Category.LIEUTENANT)
    plant("vm-7")

    refused = put(api, MODEL, "p/x", scope="lieutenant", vm="vm-7")
    assert refused.status_code == 400
    assert refused.json()["error"] == "vm: vm-7 is no lieutenant; its scope is vm"
    # For a lieutenant, the scope vm works as well; the scope lieutenant is nearer.
    for scope in ("vm", "lieutenant"):
        assert put(api, MODEL, f"p/{scope}", scope=scope, vm="ada").status_code == 200
        assert api.get(f"/vers-config/explain/{MODEL}?vm=ada").json()["value"] == f"p/{scope}"


def test_empty_value_removes_the_setting(db: None, api: Api) -> None:
    first = put(api, MODEL, "").json()
    assert (first["did"], first["version"]) == ("nothing", None)
    assert put(api, MODEL, "p/x").json()["did"] == "stored"
    removed = put(api, MODEL, " ").json()
    assert removed["did"] == "removed"
    assert removed["note"] == "an empty text is no value: what was stored is removed"


@pytest.mark.django_db
def test_key_that_is_not_ascii_is_rejected(api: Api) -> None:
    answer = api.client.put(
        "/vers-config/OPENAI_API_KEY",
        {"value": "sk-ключ-0123456789"},
        content_type="application/json",
    )
    assert answer.status_code == 400
    assert "use plain ASCII" in answer.json()["error"]
