"""The agent of a new lieutenant that names none, and changed settings of an agent."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from lieutenants.agent_choice import KEY, choices
from lieutenants.models import Lieutenant
from lieutenants.services import agent_limits
from reef_site.audit.models import Record
from reef_site.common.eventlog.models import Event
from tests.conftest import STANDIN, Api
from tests.dispatching import drop_tasks
from tests.lieutenants.conftest import operator
from tests.lieutenants.rows import enlist, process_of
from tests.vmtree.conftest import NodeApi
from versconfig import config
from versconfig.exceptions import BadValue
from versconfig.models import Scope
from versconfig.scopes import Target
from versconfig.services import build_change, put
from vmtree import operator_tokens, services, tokens
from vmtree.models import Node
from vmtree.services import NewNode

__all__ = ["operator"]
pytestmark = pytest.mark.django_db
ROUTE = "/lieutenant/lieutenants"
NEW = {"name": "ada", "role": "tests", "local": True}
FORM = {"name": "ada", "role": "tests", "restart_policy": "never"}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Find every program, and start none."""
    settings.PI_PATH = str(STANDIN)
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    drop_tasks(monkeypatch, "")


def node(vm_id: str, under: str = "") -> Node:
    return services.create(NewNode(vm_id, "agent_vm", vm_id, under), by="tests")


def agent_of(answer: Any) -> tuple[str, list[str]]:
    assert answer.status_code == 201, answer.content
    row = Lieutenant.objects.get(pk=answer.json()["id"])
    return row.agent, row.command


# -- the default ---------------------------------------------------------------------------------


def test_new_lieutenants_have_the_agent_of_the_nearest_value(api: Api) -> None:
    assert agent_of(api.post(ROUTE, NEW)) == ("pi", [])
    put(build_change(KEY, "acp:goose"), by="tests")
    put(build_change(KEY, "acp:gemini", Target(Scope.SUBTREE, node("roof"))), by="tests")
    node("below", under="roof")

    cases: list[tuple[dict[str, Any], tuple[str, list[str]]]] = [
        ({}, ("acp", ["goose", "acp"])),
        ({"parentVmId": "below"}, ("acp", ["gemini", "--acp"])),
        ({"agent": ""}, ("acp", ["goose", "acp"])),
        ({"agent": "pi", "parentVmId": "below"}, ("pi", [])),
        ({"agent": {"dialect": "acp", "preset": "codex"}}, ("acp", ["codex-acp"])),
        ({"command": ["goose", "acp", "--debug"]}, ("acp", ["goose", "acp", "--debug"])),
    ]
    for number, (more, agent) in enumerate(cases):
        assert agent_of(api.post(ROUTE, {**NEW, "name": f"ada-{number}", **more})) == agent


def test_repeated_request_finds_its_lieutenant_after_the_default_has_changed(api: Api) -> None:
    def create() -> Any:
        headers = {"Idempotency-Key": "k1"}
        return api.client.post(ROUTE, NEW, content_type="application/json", headers=headers)

    first = create()
    put(build_change(KEY, "acp:goose"), by="tests")
    again = create()
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]


def test_only_agents_that_need_no_command_are_defaults(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"pi", "acp:claude"} < set(choices())
    for value in ("command", "acp", "acp:vim", "vim"):
        answer = api.client.put(
            f"/vers-config/{KEY}", {"value": value}, content_type="application/json"
        )
        assert answer.status_code == 400
        assert "must be one of" in answer.json()["error"]
    monkeypatch.setenv(KEY, "acp:vim")
    with pytest.raises(BadValue, match=KEY):
        config.text(KEY)
    refused = api.post(ROUTE, NEW)
    assert refused.status_code >= 400
    assert KEY in refused.json()["error"]


def test_nodes_cannot_set_the_default() -> None:
    token = tokens.issue(node("vm-1"), made_by="tests")
    answer = NodeApi(token).client.put(
        f"/vers-config/{KEY}?vm=vm-1", {"value": "acp:goose"}, content_type="application/json"
    )
    assert answer.status_code == 403


def test_form_offers_the_default_first(operator: Client) -> None:
    assert 'value="pi" selected' in operator.get("/lieutenants/_new").content.decode()
    put(build_change(KEY, "acp:gemini"), by="tests")
    page = operator.get("/lieutenants/_new").content.decode()
    assert '<option value="acp:gemini" selected>acp: Gemini CLI (default)</option>' in page

    assert operator.post("/lieutenants/_new", FORM).status_code == 302
    assert Lieutenant.objects.get().command == ["gemini", "--acp"]


def test_form_takes_the_settings_of_an_agent(operator: Client) -> None:
    chosen = {"agent": "acp:goose", "file_access": "write", "terminals": "on", "mode": " plan "}
    assert operator.post("/lieutenants/_new", {**FORM, **chosen}).status_code == 302
    row = Lieutenant.objects.get()
    assert row.agent_options == {"files": "write", "terminals": "yes", "mode": "plan"}
    page = operator.get("/lieutenants/ada/").content.decode()
    assert "<dt>Agent’s terminals</dt>" in page

    refused = operator.post("/lieutenants/_new", {**FORM, "agent": "pi", "file_access": "read"})
    assert "agent.files: is not a setting of the agent &#x27;pi&#x27;" in refused.content.decode()


# -- changes -------------------------------------------------------------------------------------


def goose(**fields: Any) -> Lieutenant:
    given = {"agent": "acp", "command": ["goose", "acp"], "agent_options": {"files": "read"}}
    return enlist(**{**given, **fields})


def patch(api: Api, **body: object) -> Any:
    return api.client.patch(f"{ROUTE}/ada", body, content_type="application/json")


def test_settings_change_and_the_others_stay(api: Api) -> None:
    row = goose(status="paused")
    process = process_of(row, is_frozen=True)
    answer = patch(api, agent={"terminals": "yes", "mode": "plan", "dialect": "acp"})
    assert answer.status_code == 200, answer.content
    options = {"files": "read", "terminals": "yes", "mode": "plan"}
    assert answer.json()["agentOptions"] == options
    process.refresh_from_db()
    assert process.stop_asked_at, "an agent that waits in a paused VM would go on with the old ones"
    [event] = Event.objects.filter(kind="lieutenant.changed")
    assert event.detail == {"name": "ada", "agent_options": options}

    patch(api, agent={"terminals": None, "files": "none", "mode": ""})
    row.refresh_from_db()
    assert row.agent_options == {}
    assert row.command == ["goose", "acp"]


def test_command_changes_with_a_restart_and_begins_a_session(api: Api) -> None:
    row = goose()
    refused = patch(api, agent={"preset": "gemini"})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "command: can be changed with a restart, or while the lieutenant is paused",
    )
    assert patch(api, agent={"command": ["goose", "acp"]}).status_code == 200, "it stays"
    assert patch(api, agent={"preset": "gemini"}, restart=True).status_code == 200
    old, row = row.session_name, Lieutenant.objects.get()
    assert (row.command, row.status) == (["gemini", "--acp"], "starting")
    assert row.session_name != old
    assert row.agent_options == {"files": "read"}

    assert patch(api, agent={"preset": "goose"}, restart=True).status_code == 400, "it starts"
    Lieutenant.objects.update(status="paused")
    assert patch(api, agent={"preset": "goose"}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "agent", "error"),
    [
        ({}, {}, "agent: must be an object with settings of the agent"),
        ({}, "acp", "agent: must be an object with settings of the agent"),
        ({}, {"dialect": "pi"}, "agent.dialect: it is acp for good"),
        ({}, {"files": "all"}, "agent.files: must be one of none, read, write"),
        ({}, {"color": "red"}, "agent.color: is not a setting of the agent 'acp'"),
        ({}, {"preset": "vim"}, "agent: preset must be one of claude, "),
        ({}, {"command": []}, "command is required for the agent 'acp'"),
        ({}, {"command": "goose"}, "agent: command must be a list of texts"),
        ({}, {"mode": ["x"]}, "agent.mode: must be a text of at most 200 characters"),
        (
            {"agent": "pi", "command": [], "agent_options": {}},
            {"files": "read"},
            "agent.files: is not a setting of the agent 'pi'",
        ),
        (
            {"agent": "pi", "command": [], "agent_options": {}},
            {"command": ["sh"]},
            "command: is for the agents 'command' and 'acp' only",
        ),
    ],
)
def test_invalid_settings_are_refused(
    api: Api, fields: dict[str, Any], agent: object, error: str
) -> None:
    goose(**fields)
    answer = patch(api, agent=agent, restart=True)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)
    assert Lieutenant.objects.get().status == "idle"


def test_secrets_are_refused_in_changed_settings(api: Api) -> None:
    goose()
    secret = "sk-ant-not-a-real-key-0123456789"
    put(build_change("ANTHROPIC_API_KEY", secret), by="tests")
    for body in (
        {"agent": {"command": ["goose", secret]}, "restart": True},
        {"agent": {"mode": secret}},
        {"model": secret},
    ):
        answer = patch(api, **body)
        assert answer.status_code == 400
        assert answer.json()["error"].endswith(": must not hold a secret")
    assert Lieutenant.objects.get().status == "idle"


def test_settings_of_a_local_agent_need_the_right_to_start_it(settings: Any) -> None:
    """A VM may change limits of what is below it, but not what runs on a host of reef."""
    row = goose(data_folder=settings.DATA_FOLDER_ID, transport="local")
    top = node("top")
    services.create(NewNode("ada", "lieutenant", row.pk, "top"), by="tests")
    vm = NodeApi(tokens.issue(top, made_by="tests"))
    assert patch(vm, idleLimitMinutes=5).status_code == 200
    assert patch(vm, agent={"files": "read"}).status_code == 200, "nothing changes"
    for agent in ({"permissions": "allow"}, {"terminals": "yes"}, {"command": ["sh"]}):
        assert patch(vm, agent=agent).status_code == 403
    from reef_site.accounts.signin_links import make_operator

    _, token = operator_tokens.make("ci", "messages", by=make_operator())
    assert patch(NodeApi(token), agent={"permissions": "allow"}).status_code == 403
    assert Lieutenant.objects.get().agent_options == {"files": "read"}


def agent_with_a_child(settings: Any, **options: str) -> tuple[NodeApi, Lieutenant]:
    """Return the API of a local agent with these settings, and its child, which has none."""
    local = {"data_folder": settings.DATA_FOLDER_ID, "transport": "local"}
    own, child = goose(name="own", agent_options=options, **local), goose(agent_options={}, **local)
    services.create(NewNode("own", "lieutenant", own.pk), by="tests")
    services.create(NewNode("ada", "lieutenant", child.pk, own.pk), by="tests")
    return NodeApi(tokens.issue(Node.objects.get(vm_id=own.pk), made_by="tests")), child


@pytest.mark.parametrize(
    ("agent", "excess"),
    [
        ({"dialect": "acp", "preset": "goose", "permissions": "allow"}, "agent.permissions"),
        ({"dialect": "acp", "preset": "goose", "files": "write"}, "agent.files"),
        ({"dialect": "acp", "preset": "goose", "terminals": "yes"}, "agent.terminals"),
        ({"dialect": "acp", "preset": "goose", "mode": "yolo"}, "agent.mode"),
        ({"dialect": "acp", "command": ["sh", "-c", "x"]}, "command"),
        ({"dialect": "command", "command": ["cat"]}, "agent"),
        ("pi", "agent"),
    ],
)
def test_agent_permits_others_no_more_than_itself(settings: Any, agent: Any, excess: str) -> None:
    api, child = agent_with_a_child(settings, files="read", mode="plan")
    answer = api.post(ROUTE, {**NEW, "name": "new", "agent": agent})
    assert (answer.status_code, answer.json()["error"]) == (
        403,
        f"rule: {agent_limits.RULE}. own may not choose for new: {excess}",
    )
    asked = api.post("/tools/reef_lt_create", {**NEW, "name": "new", "agent": agent}).json()
    assert asked["text"] == f"Error: {answer.json()['error']}"
    last = Record.objects.latest("pk")
    assert (last.target, last.permission) == ("reef_lt_create new", "start-below")
    if isinstance(agent, dict) and agent["dialect"] == "acp":
        changes = {name: each for name, each in agent.items() if name != "preset"}
        refused = patch(api, agent=changes, restart=True)
        assert (refused.status_code, refused.json()["error"].rpartition(": ")[2]) == (403, excess)
    child.refresh_from_db()
    assert (child.agent_options, child.command) == ({}, ["goose", "acp"])
    assert not Lieutenant.objects.filter(name="new").exists()


def test_agent_permits_others_what_it_may_do_itself(settings: Any) -> None:
    api, _ = agent_with_a_child(settings, files="read", mode="plan")
    same = {"dialect": "acp", "preset": "gemini", "files": "read", "mode": "plan"}
    assert api.post(ROUTE, {**NEW, "name": "new", "agent": same}).status_code == 201
    # Operators choose the default one.
    assert agent_of(api.post(ROUTE, {**NEW, "name": "usual"})) == ("pi", [])
    assert patch(api, agent={"files": "read", "permissions": "reject"}).status_code == 200
    # What was permitted by others stays.
    Lieutenant.objects.filter(name="ada").update(agent_options={"permissions": "allow"})
    assert patch(api, agent={"files": "read"}).status_code == 200


def test_agent_that_need_not_ask_chooses_freely(settings: Any) -> None:
    api, _ = agent_with_a_child(settings, permissions="allow")
    agent = {"dialect": "acp", "preset": "goose", "permissions": "allow", "terminals": "yes"}
    made = api.post("/tools/reef_lt_create", {**NEW, "name": "new", "agent": agent}).json()
    assert made["isError"] is False, made
    row = Lieutenant.objects.get(name="new")
    assert (row.agent, row.command) == ("acp", ["goose", "acp"])
    assert row.agent_options == {"permissions": "allow", "terminals": "yes"}
    assert agent_of(api.post(ROUTE, {**NEW, "name": "pi-one", "agent": "pi"})) == ("pi", [])
    wrong = api.post("/tools/reef_lt_create", {**NEW, "agent": {"preset": "goose"}})
    assert wrong.json()["error"] == "agent: must be a text, or an object with a dialect"


def test_page_changes_the_settings(operator: Client, settings: Any) -> None:
    settings.DEFAULT_MODEL = "stub/echo"
    goose()
    path = "/lieutenants/ada/settings"
    page = operator.get(path).content.decode()
    assert '<option value="read" selected>' in page
    assert ">\ngoose acp</textarea>" in page
    form = {"restart_policy": "never", "command": "goose acp", "permissions": "allow"}
    assert operator.post(path, {**form, "file_access": "", "terminals": "on"}).status_code == 302
    row = Lieutenant.objects.get()
    assert row.agent_options == {"permissions": "allow", "terminals": "yes"}
    assert (row.status, row.model) == ("idle", ""), "the default model is that of pi"

    refused = operator.post(path, {**form, "command": "gemini --acp"})
    assert "can be changed with a restart" in refused.content.decode()
    assert operator.post(path, {**form, "command": "gemini --acp", "restart": "on"})
    row.refresh_from_db()
    assert (row.command, row.status) == (["gemini", "--acp"], "starting")
    enlist("bob")
    page = operator.get("/lieutenants/bob/settings").content.decode()
    assert 'name="file_access"' not in page
    assert 'name="command"' not in page
