"""Agents print secrets in every way they can; no reader ever sees one."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command

from bootloader.models import SshHost
from lieutenants.models import Chunk, Entry, Lieutenant, Message, Move, Process
from lieutenants.states import MessageState
from registry.rules import webhooks
from registry.rules.models import Firing, Rule
from tests.conftest import Api, Fleet, real_agent
from tests.stack import Stack
from tests.stub_llm import StubLLM
from tests.waiting import until
from versconfig.screening import sources

KEY = "sk-ant-test-0123456789abcdef"
OPENAI = "sk-proj-Zq81LmXw40PdRt72VbNc"
MARK = "[ANTHROPIC_API_KEY]"


def parts_of(secret: str) -> list[str]:
    """All its parts of 8 characters, and those of its base64 in each alignment."""
    forms = [secret]
    for before in range(3):
        encoded = base64.b64encode(b"-" * before + secret.encode()).decode()
        forms.append(encoded[4:-4])
    sizes = (8, *([11] * 3))
    return [
        form[start : start + size]
        for form, size in zip(forms, sizes, strict=True)
        for start in range(len(form) - size + 1)
    ]


def leaks(text: str | bytes, secret: str = KEY) -> list[str]:
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    # Base64 that is cut into lines is joined again, and so are escaped line breaks.
    joined = re.sub(r"\\n|\s", "", text)
    return [part for part in parts_of(secret) if part in text or part in joined]


def store(api: Any, key: str = "ANTHROPIC_API_KEY", value: str = KEY) -> None:
    answer = api.client.put(
        f"/vers-config/{key}", data=json.dumps({"value": value}), content_type="application/json"
    )
    assert answer.status_code == 200, answer.content


def seen(fleet: Fleet, name: str) -> str:
    """Everything that the API tells of a lieutenant."""
    path = f"/lieutenant/lieutenants/{name}"
    answers = [
        fleet.api.get(f"/lieutenant/lieutenants{query}") for query in ("", f"?q={KEY}", "?q=env")
    ]
    answers += [
        fleet.api.get(path + rest)
        for rest in ("", "/read?history=50", "/transcript?limit=1000", "/messages", "/usage")
    ]
    return "\n".join(answer.content.decode() for answer in answers)


def rows() -> str:
    """All that is stored of agents' words."""
    models: list[Any] = [Entry, Chunk, Message, Lieutenant, Process, Move]
    return "\n".join(repr(list(model.objects.values())) for model in models)


@pytest.mark.parametrize(
    "command",
    [
        "env",
        "tr '\\0' '\\n' < /proc/self/environ",
        "cat /proc/self/environ",
        'printf %s "$ANTHROPIC_API_KEY" | base64',
        'printf %s "$ANTHROPIC_API_KEY" | base64 | tr "+/" "-_"',
        "env | base64",
        "env | base64 -w 40",
        "env | fold -w 40",
        "echo $ANTHROPIC_API_KEY $VERS_AUTH_TOKEN",
        'python3 -c "import json,os; print(json.dumps(dict(os.environ)))"',
    ],
)
def test_commands_that_print_the_environment(fleet: Fleet, command: str) -> None:
    store(fleet.api)
    fleet.create("ada")
    # The system prompt names a tool that begins like a token.
    token = re.compile(r"reef_(?!ask\b)[\w-]{3,}")
    fleet.ask("ada", f"RUN {command}")
    everything = seen(fleet, "ada") + rows()
    assert not leaks(everything)
    assert not token.findall(everything)
    assert MARK in everything
    notices = fleet.texts("ada", "notice")
    assert len([text for text in notices if text.startswith("Secrets in the agent")]) == 1


@pytest.mark.parametrize("size", [1, 3, 14, 27])
def test_a_key_cut_over_deltas_is_never_in_a_chunk(fleet: Fleet, size: int) -> None:
    store(fleet.api)
    fleet.create("ada")
    fleet.send("ada", f"PIECES {size} 0.12 so $ANTHROPIC_API_KEY.")

    def settled() -> bool:
        assert not leaks(seen(fleet, "ada") + rows())
        return fleet.row("ada").status == "idle"

    until(settled, 30)
    assert fleet.texts("ada") == [f"so {MARK}."]


def test_what_is_held_back_survives_a_new_worker(fleet: Fleet) -> None:
    store(fleet.api)
    fleet.create("ada")
    fleet.send("ada", "CRASH 3 0.15 one $ANTHROPIC_API_KEY two $ANTHROPIC_API_KEY three")
    restarts = 0

    def over() -> bool:
        nonlocal restarts
        if Process.objects.filter(state__held__isnull=False).exclude(state__held={}).exists():
            held = [each for _, each, _ in Process.objects.get().state["held"].values()]
            if max(held) > 3:
                restarts += 1
                fleet.restart_follower()
        assert not leaks(seen(fleet, "ada") + rows())
        return fleet.row("ada").status == "error"

    until(over, 60)
    assert restarts
    # The end of the block was never told: these are the pieces, each once.
    (text,) = fleet.texts("ada")
    assert re.fullmatch(r"one (sk-|sk|s)?\[A\w+\] two (sk-|sk|s)?\[A\w+\] three", text), text


def test_stderr_of_a_crash_and_lines_that_are_no_protocol(fleet: Fleet) -> None:
    store(fleet.api)
    fleet.create("ada")
    fleet.ask("ada", "NOISE noise $ANTHROPIC_API_KEY")
    fleet.send("ada", "CRASH 5 0 last words $ANTHROPIC_API_KEY $VERS_AUTH_TOKEN")
    fleet.wait("ada", "error")
    process = Process.objects.get()
    assert process.stderr == f"last words {MARK} [VERS_AUTH_TOKEN]"
    assert f"last words {MARK}" in fleet.row("ada").error
    assert f"noise {MARK}" in seen(fleet, "ada")
    assert not leaks(seen(fleet, "ada") + rows())


def test_messages_are_covered_before_they_are_stored(fleet: Fleet) -> None:
    store(fleet.api)
    fleet.create("ada")
    path = "/lieutenant/lieutenants/ada/send"
    body = {"message": f"use {KEY} please"}
    first = fleet.api.post(path, body, **{"Idempotency-Key": "one"}).json()
    again = fleet.api.post(path, body, **{"Idempotency-Key": "one"}).json()
    assert again["messageId"] == first["messageId"]
    other = fleet.api.post(path, {"message": "another"}, **{"Idempotency-Key": "one"})
    assert other.status_code == 409
    message = Message.objects.get()
    assert message.text == f"use {MARK} please"
    assert "the agent gets it with [ANTHROPIC_API_KEY]" in message.note
    assert message.note in first["note"]
    fleet.wait("ada", "idle")
    message.refresh_from_db()
    assert message.state == MessageState.ACCEPTED
    assert message.taken_up_at is not None
    assert fleet.texts("ada", "user") == [f"use {MARK} please"]
    assert fleet.texts("ada") == [f"echo: use {MARK} please"]


def test_a_lieutenant_is_made_without_secrets_in_its_texts(fleet: Fleet) -> None:
    store(fleet.api)
    fleet.create("ada", role=f"has {KEY}", directive=f"use {KEY}")
    row = fleet.row("ada")
    assert row.role == f"has {MARK}"
    assert row.directive == f"use {MARK}"
    assert not leaks(seen(fleet, "ada") + rows() + row.system_prompt)
    body = {"name": KEY, "role": "r", "local": True}
    answer = fleet.api.post("/lieutenant/lieutenants", body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "name: must not hold a secret"


def test_values_of_any_scope_and_older_ones_are_covered(fleet: Fleet) -> None:
    store(fleet.api, "OPENAI_API_KEY", OPENAI)
    store(fleet.api, "OPENAI_API_KEY", "sk-proj-another-0987654321")
    fleet.create("ada")
    made = fleet.create("bea")
    answer = fleet.api.client.put(
        "/vers-config/GROQ_API_KEY",
        data=json.dumps({"value": "gsk_Aa1Bb2Cc3Dd4Ee5", "scope": "vm", "vm": made["id"]}),
        content_type="application/json",
    )
    assert answer.status_code == 200, answer.content
    fleet.ask("ada", f"echo {OPENAI} gsk_Aa1Bb2Cc3Dd4Ee5")
    assert fleet.texts("ada") == ["echo: echo [OPENAI_API_KEY] [GROQ_API_KEY]"]


@pytest.mark.rotated
def test_texts_of_rules_are_covered(api: Api, db: None) -> None:
    store(api)
    body = {"name": "n", "event": "vm-silent", "action": "note", "text": f"see {KEY}"}
    answer = api.post("/registry/rules", body)
    assert answer.status_code == 201, answer.content
    assert Rule.objects.get(name="n").text == f"see {MARK}"


def test_old_rows_are_covered_by_a_command(fleet: Fleet, capsys: Any) -> None:
    fleet.create("ada")
    assert fleet.ask("ada", f"say {KEY}") == f"echo: say {KEY}"
    fleet.send("ada", f"CRASH 9 0 {KEY}")
    fleet.wait("ada", "error")
    store(fleet.api)
    assert leaks(rows())
    call_command("screen_transcripts")
    assert "nothing was changed" in capsys.readouterr().out
    assert leaks(rows())
    call_command("screen_transcripts", "--apply")
    said = capsys.readouterr().out
    assert "covered" in said
    assert "ANTHROPIC_API_KEY" in said
    assert not leaks(rows())
    call_command("screen_transcripts")
    assert "no secrets" in capsys.readouterr().out.lower()


def test_keys_of_ssh_hosts_and_secrets_of_webhooks_are_covered(api: Api, db: None) -> None:
    host = SshHost(name="h", address="192.0.2.7")
    line = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW"
    host.set_key(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{line}\n-----END OPENSSH PRIVATE KEY-----")
    host.save()
    hook = {"name": "hook", "event": "vm-silent", "action": "webhook"}
    url = {"webhookUrl": "http://127.0.0.1:9/"}
    made = api.post("/registry/rules", {**hook, **url}).json()
    screen = sources.current(recheck=True)
    text = f"{line} and {made['webhookSecret']}"
    assert screen.cover(text) == "[SSH host key] and [webhook secret]"


def test_a_webhook_tells_no_secret_that_an_old_rule_has(api: Api, db: None) -> None:
    rule = Rule.objects.create(name="old", event="vm-silent", action="note", text=f"see {KEY}")
    firing = Firing(rule=rule, rule_name="old", evidence={"error": f"bad key {KEY}"})
    firing.cause_at = firing.at
    store(api)
    told = webhooks.payload(rule, firing)
    assert told["text"] == f"see {MARK}"
    assert told["evidence"] == {"error": f"bad key {MARK}"}


@pytest.mark.agent
def test_the_real_agent(fleet: Fleet, stub: StubLLM, settings: Any, tmp_path: Path) -> None:
    settings.PI_PATH = real_agent("160")
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    (tmp_path / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    settings.DEFAULT_MODEL = "stub/echo"
    stub.reset()
    store(fleet.api)
    fleet.create("ada")
    stub.script(
        {"tool": {"name": "bash", "arguments": {"command": "env; env | base64"}}},
        {"tool": {"name": "bash", "arguments": {"command": f"echo {KEY} | wc -c"}}},
        {
            "steps": [
                {"text": f"the key is {KEY[:15]}", "chunk": 100},
                {"gate": "rest"},
                {"text": f"{KEY[15:]}, or\n{KEY[:20]}\n{KEY[20:]}", "chunk": 100},
            ]
        },
    )
    fleet.send("ada", "look around")
    until(lambda: fleet.get("ada")["lastOutput"].endswith("the key is "), 60)
    assert not leaks(seen(fleet, "ada") + rows())
    stub.open_gate("rest")
    fleet.wait("ada", "idle", 60)
    assert fleet.texts("ada")[-1] == f"the key is {MARK}, or\n{MARK}"
    assert not leaks(seen(fleet, "ada") + rows())


# -- all processes, as readers and files see them -----------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, GROQ_API_KEY=OPENAI) as running:
        yield running


@pytest.mark.rotated
@pytest.mark.timeout(300)
def test_no_reader_and_no_file_of_a_running_reef(stack: Stack) -> None:
    answer = stack.client.put("/vers-config/ANTHROPIC_API_KEY", json={"value": KEY})
    assert answer.status_code == 200, answer.text
    stack.create("ada")
    raw: list[bytes] = []
    threading.Thread(target=_listen, args=(stack, raw), daemon=True).start()
    until(lambda: raw)
    for text in (
        "RUN env; cat root-token ../../../root-token; env | base64",
        "PIECES 7 0.1 it is $ANTHROPIC_API_KEY and $GROQ_API_KEY and $VERS_AUTH_TOKEN",
        f"my message has {KEY}",
        f"NOISE {KEY}",
    ):
        assert stack.send("ada", text).status_code == 200
        stack.wait_idle("ada")
    stack.send("ada", "CRASH 9 0.1 the end $ANTHROPIC_API_KEY")
    until(lambda: stack.get("ada")["status"] == "error", 60)
    until(lambda: b"the end" in b"".join(raw))

    pages = _pages(stack)
    stack.manage("check")
    secrets = {"ada's": KEY, "environment": OPENAI, "root": "a-token-of-the-tests"}
    files = {path.name: path.read_bytes() for path in _files(stack)}
    for kind, secret in secrets.items():
        assert not leaks(b"".join(raw), secret), f"stream: {kind}"
        for place, content in (pages | files).items():
            assert not leaks(content, secret), f"{place}: {kind}"
    token = re.compile(rb"reef_[\w-]{43}")
    assert not token.search(b"".join(raw))
    assert not any(token.search(content) for content in files.values())
    for mark in (b"[ANTHROPIC_API_KEY]", b"[GROQ_API_KEY]", b"[VERS_AUTH_TOKEN]"):
        assert mark in b"".join(raw)


def _listen(stack: Stack, raw: list[bytes]) -> None:
    headers = {"authorization": stack.client.headers["authorization"]}
    url = f"http://127.0.0.1:{stack.port}/lieutenant/lieutenants/ada/stream?after=0"
    try:
        with httpx.stream("GET", url, headers=headers, timeout=None) as answer:
            raw.extend(answer.iter_raw())
    except httpx.HTTPError:
        return


def _pages(stack: Stack) -> dict[str, bytes]:
    """Return the texts that people and agents may read."""
    printed = stack.manage("signin").strip().splitlines()[-1]
    # Not every resolver knows the name that browsers use.
    link = printed.replace("reef.localhost", "127.0.0.1")
    with httpx.Client(follow_redirects=True, timeout=30) as person:
        base = f"http://127.0.0.1:{stack.port}"
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', person.get(link).text)
        if token:
            person.post(link, data={"csrfmiddlewaretoken": token[1]}, headers={"referer": link})
        paths = ["/", "/lieutenants/ada/", f"/lieutenants/?q={KEY}"]
        models = ("entry", "message", "process", "lieutenant", "move", "answer")
        paths += [f"/admin/lieutenants/{model}/" for model in models]
        found = {path: person.get(base + path) for path in paths}
        # Without what was asked itself.
        pages = {path: each.content for path, each in found.items() if "q=" not in path}
        assert found["/lieutenants/ada/"].status_code == 200
        assert b"[ANTHROPIC_API_KEY]" in pages["/lieutenants/ada/"]
    name = "/lieutenant/lieutenants/ada"
    for path in (name, f"{name}/read?history=50", f"{name}/transcript?limit=1000"):
        pages[path] = stack.client.get(path).content
    for path in (f"{name}/messages", "/lieutenant/lieutenants", "/vm-tree/tree", "/registry/vms"):
        pages[path] = stack.client.get(path).content
    snapshot = stack.client.post("/vm-tree/snapshot").json()
    pages["snapshot"] = stack.client.get(f"/vm-tree/snapshots/{snapshot['id']}/download").content
    return pages


def _files(stack: Stack) -> list[Path]:
    """Database and logs; not the agent's own session."""
    found = [*stack.data.glob("db.sqlite3*"), *stack.data.glob("*.log")]
    assert len(found) > 3
    return found
