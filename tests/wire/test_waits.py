"""Responses that the edge holds back are up to date when they are sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack import Stack
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("waits")) as stack:
        for name in ("ada", "bob"):
            stack.create(name)
        yield stack


def ask(stack: Stack, name: str, text: str, wait: int = 30, **more: str) -> dict[str, Any]:
    path = f"{LIEUTENANTS}/{name}/send?wait={wait}"
    answer = stack.client.post(path, json={"message": text, **more}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def in_background(work: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


# -- messages ----------------------------------------------------------------------------------


@pytest.mark.rotated
def test_send_waits_for_the_answer(stack: Stack) -> None:
    said = ask(stack, "ada", "hello")

    assert (said["sent"], said["outcome"], said["answer"]) == (True, "completed", "echo: hello")
    assert (said["state"], said["error"]) == ("accepted", None)
    entries = stack.transcript("ada")
    assert said["answerId"] == entries[-1]["answerId"]
    again = stack.client.get(f"{LIEUTENANTS}/ada/messages/{said['messageId']}").json()
    assert [again[key] for key in ("outcome", "answer", "answerId")] == [
        said[key] for key in ("outcome", "answer", "answerId")
    ]


def test_message_can_be_waited_for_later(stack: Stack) -> None:
    stack.wait_idle("ada")
    sent = ask(stack, "ada", "SLOW 1.5 some words that come slowly", wait=0)
    assert "outcome" not in sent
    path = f"{LIEUTENANTS}/ada/messages/{sent['messageId']}"

    assert stack.client.get(path).json()["outcome"] == "pending"
    waited = stack.client.get(f"{path}?wait=30").json()

    assert (waited["id"], waited["outcome"]) == (sent["messageId"], "completed")
    assert waited["answer"].startswith("some words")


def test_too_short_wait_returns_pending(stack: Stack) -> None:
    stack.wait_idle("ada")
    said = ask(stack, "ada", "SLOW 4 one two three four", wait=1)

    assert (said["outcome"], said["status"], said["error"]) == ("pending", "working", None)
    stack.wait_idle("ada")


def test_wait_reports_abort_and_error(stack: Stack) -> None:
    stack.wait_idle("ada")
    waiting, results = in_background(lambda: ask(stack, "ada", "SILENT"))
    until(lambda: "SILENT" in stack.texts("ada", "user"), 30)
    assert stack.client.post(f"{LIEUTENANTS}/ada/abort").status_code == 200
    waiting.join(60)
    assert results[0]["outcome"] == "aborted"

    stack.wait_idle("ada")
    failed = ask(stack, "ada", "ERROR no credit left")
    assert failed["outcome"] == "error"
    assert "no credit left" in failed["error"]


def test_waits_for_several_messages_return_their_own_turns(stack: Stack) -> None:
    stack.wait_idle("bob")
    first = ask(stack, "bob", "SLOW 1.5 first", wait=0)
    until(lambda: "SLOW 1.5 first" in stack.texts("bob", "user"), 30)
    second = ask(stack, "bob", "second", mode="followUp")

    assert second["answer"] == "echo: second"
    whole = stack.client.get(f"{LIEUTENANTS}/bob/messages/{first['messageId']}?wait=30").json()
    assert (whole["outcome"], whole["answer"]) == ("completed", "first")


def test_wait_for_a_paused_lieutenant_returns_at_once(stack: Stack) -> None:
    stack.create("paused")
    waiting, results = in_background(lambda: ask(stack, "paused", "SILENT", wait=60))
    until(lambda: "SILENT" in stack.texts("paused", "user"), 30)

    answer = stack.client.post(f"{LIEUTENANTS}/paused/pause", json={"force": True}).json()
    waiting.join(30)

    assert answer == {"paused": True, "status": "paused", "error": None}
    assert results
    assert results[0]["outcome"] in ("interrupted", "aborted")
    assert results[0]["status"] == "paused"


@pytest.mark.rotated
def test_waiting_clients_hold_no_web_thread(stack: Stack) -> None:
    stack.create("busy")
    ask(stack, "busy", "SLOW 5 a b c d e", wait=0)
    waits = [in_background(lambda: ask(stack, "busy", "next", wait=20)) for _ in range(30)]

    until(lambda: stack.client.get(f"{LIEUTENANTS}/busy", timeout=3).status_code == 200, 5)

    for thread, results in waits:
        thread.join(60)
        assert results[0]["outcome"] == "completed"


# -- lieutenants -------------------------------------------------------------------------------


def test_actions_wait_for_their_state(stack: Stack) -> None:
    stack.create("verbs")
    for verb, status in (("restart", "idle"), ("pause", "paused"), ("resume", "idle")):
        answer = stack.client.post(f"{LIEUTENANTS}/verbs/{verb}?wait=30", timeout=60).json()
        assert (answer["status"], answer["error"]) == (status, None), verb
    changed = stack.client.patch(
        f"{LIEUTENANTS}/verbs?wait=30", json={"model": "a/b", "restart": True}, timeout=60
    ).json()
    assert (changed["status"], changed["model"]) == ("idle", "a/b")
    gone = stack.client.delete(f"{LIEUTENANTS}/verbs?wait=30").json()
    assert (gone["destroyed"], gone["status"]) == (True, "destroyed")


def test_failed_start_returns_its_reason(stack: Stack) -> None:
    body = {"name": "failing", "role": "tests"}
    stack.client.post(f"{LIEUTENANTS}?wait=30", json=body, timeout=60)
    stack.client.post(f"{LIEUTENANTS}/failing/pause")
    folder = stack.data / "lieutenants" / stack.get("failing")["id"] / "workspace"
    folder.rename(folder.with_name("away"))
    folder.write_text("this is no folder")

    resumed = stack.client.post(f"{LIEUTENANTS}/failing/resume?wait=30", timeout=60).json()

    assert (resumed["resumed"], resumed["status"]) == (True, "error")
    assert resumed["error"]
    refused = stack.send("failing", "x")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("No active RPC connection for 'failing': ")
    assert "POST …/restart" in refused.json()["error"]


def test_create_reports_a_destroy_during_the_wait(stack: Stack) -> None:
    env = {"name": "short", "role": "tests", "local": True}
    stack.kill("worker")
    try:
        waiting, results = in_background(
            lambda: stack.client.post(f"{LIEUTENANTS}?wait=30", json=env, timeout=60)
        )
        until(lambda: stack.get("short").get("status") == "starting", 30)
        assert stack.client.delete(f"{LIEUTENANTS}/short?wait=0").status_code == 200
        waiting.join(60)
    finally:
        stack.start("worker")
    assert (results[0].status_code, results[0].json()["status"]) == (201, "destroyed")


def test_repeated_key_creates_one_lieutenant(stack: Stack) -> None:
    body, key = {"name": "once", "role": "tests"}, {"Idempotency-Key": "make-once"}
    first = stack.client.post(f"{LIEUTENANTS}?wait=30", json=body, headers=key, timeout=60)
    again = stack.client.post(f"{LIEUTENANTS}?wait=30", json=body, headers=key, timeout=60)

    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json()["id"], again.json()["status"]) == (first.json()["id"], "idle")


# -- other names -------------------------------------------------------------------------------


def test_edge_accepts_the_vm_id_of_a_lieutenant(stack: Stack) -> None:
    name = stack.get("ada")["vmId"]
    own = stack.get("ada")["id"]

    assert name == "local-ada"
    assert stack.client.get(f"/registry/vms/{name}").json()["id"] == own
    assert stack.client.post(f"/registry/vms/{name}/heartbeat").json()["id"] == own
    told = stack.client.post("/registry/heartbeats", json={"ids": [name, "local-nobody"]}).json()
    assert (told["count"], told["unknown"]) == (1, ["local-nobody"])
    line = stack.client.get(f"/registry/vms/{name}/ancestors").json()["ancestors"]
    assert line[-1]["id"] == own


def test_edge_passes_invalid_queries_on(stack: Stack) -> None:
    own = stack.get("ada")["id"]
    for path in (f"/registry/vms/{own}", "/registry/discover/lieutenant"):
        refused = stack.client.get(f"{path}?fields=name")
        assert refused.status_code == 400
        assert refused.json()["error"] == "fields: not known; this route takes nothing in its query"


def test_stream_accepts_cursor(stack: Stack) -> None:
    for word in ("cursor", "after"):
        refused = stack.client.get(f"{LIEUTENANTS}/ada/stream?{word}=abc")
        assert refused.status_code == 400
        assert refused.json()["error"] == f"{word}: must be a whole number, 0 or more"
    with stack.client.stream("GET", f"{LIEUTENANTS}/ada/stream?cursor=0") as answer:
        assert next(answer.iter_lines()).startswith("id: ")


def test_wait_tool_is_held_until_its_lieutenants_are_idle(stack: Stack) -> None:
    stack.wait_idle("ada")
    stack.wait_idle("bob")
    ask(stack, "ada", "SLOW 1.5 some words", wait=0)
    body: dict[str, Any] = {"lieutenants": ["ada", "bob"], "seconds": 30}
    found = stack.client.post("/tools/reef_wait", json=body, timeout=60).json()
    assert (found["text"], found["isError"]) == ("Done: ada is idle; bob is idle.", False)
    assert found["details"]["done"] is True

    ask(stack, "ada", "SLOW 4 one two three four", wait=0)
    early = stack.client.post("/tools/reef_wait", json={**body, "seconds": 1}).json()
    assert early["text"].startswith("Not yet: ada is working; bob is idle.")
    either = stack.client.post("/tools/reef_wait", json={**body, "until": "any"}).json()
    assert either["details"]["done"] is True
    stack.wait_idle("ada")


def test_wait_tool_is_held_until_an_event_comes(stack: Stack) -> None:
    event = {"kind": ["tree.created"], "subject": "box-7"}
    begun = stack.client.post("/tools/reef_wait", json={"event": event, "seconds": 0}).json()
    body = {**begun["details"]["again"], "seconds": 50}
    waiting, results = in_background(
        lambda: stack.client.post("/tools/reef_wait", json=body, timeout=60).json()
    )
    for vm_id in ("box-6", "box-7"):
        new = {"vmId": vm_id, "name": vm_id, "category": "swarm_vm"}
        assert stack.client.post("/vm-tree/vms", json=new).status_code == 201
    waiting.join(30)
    assert results[0]["text"].endswith(" is tree.created about box-7 by root token.")


# -- while web is away -------------------------------------------------------------------------


@pytest.mark.rotated
def test_browser_gets_a_self_reloading_page_without_web(stack: Stack) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    stack.kill("web")
    try:
        page = stack.client.get("/", headers=browser)
        form = stack.client.post("/lieutenants/ada/send", headers=browser)
        scripts = [
            stack.client.get("/lieutenants/_rows", headers={**browser, name: "1"})
            for name in ("Reef-Script", "HX-Request")
        ]
        api = stack.client.get("/lieutenant/hosts")
    finally:
        stack.start("web")
        until(stack.is_responding, 60)

    assert (page.status_code, page.headers["refresh"]) == (502, "2")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>reef is restarting</h1>" in page.text
    assert "<script" not in page.text
    assert (form.status_code, "refresh" in form.headers) == (502, False)
    for answer in (*scripts, api):
        assert answer.status_code == 502
        assert "web process is not there" in answer.json()["error"]
    assert api.headers["retry-after"] == "2"
