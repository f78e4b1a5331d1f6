"""The demo model: what it says, and how long it lives."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from reef_site.demo import model as demo_model
from reef_site.demo import model_server
from reef_site.demo.model_server import Call, Reply, Text
from tests.stub_llm import StubLLM
from tests.waiting import PATIENCE

CHECKOUT = Path(demo_model.__file__).parents[2]
BASH = {"type": "function", "function": {"name": "bash"}}


def body(*said: str, tools: bool = True, result: str | None = None) -> dict[str, Any]:
    """A request after these messages of the user, and perhaps a tool's result."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    for text in said:
        messages += [{"role": "user", "content": [{"type": "text", "text": text}]}]
        messages += [{"role": "assistant", "content": "Yes."}]
    messages.pop()
    if result is not None:
        messages += [{"role": "tool", "content": result}]
    return {"model": "demo", "messages": messages, "tools": [BASH] if tools else []}


def answer(request: dict[str, Any]) -> Reply:
    return demo_model.DemoModel().reply(request, "")


def words(reply: Reply) -> str:
    return "".join("".join(step.pieces) for step in reply.steps if isinstance(step, Text))


def commands(reply: Reply) -> list[str]:
    calls = [step for step in reply.steps if isinstance(step, Call)]
    return [json.loads(call.arguments)["command"] for call in calls]


def test_it_says_what_it_is() -> None:
    assert "demo model" in words(answer(body("hello")))
    assert "demo model" in words(answer(body("Please explain how a coral reef grows over time")))


@pytest.mark.parametrize("said", ["list files", "run something", "use a tool", "ls please"])
def test_it_calls_the_tool_when_asked_to_look(said: str) -> None:
    assert commands(answer(body(said))) == [demo_model.DEFAULT_COMMAND]


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("try `ls -la src`", "ls -la src"),
        ("run `rm -rf /`", demo_model.DEFAULT_COMMAND),
        ("run `ls; reboot`", demo_model.DEFAULT_COMMAND),
        ("run `echo $(reboot)`", demo_model.DEFAULT_COMMAND),
    ],
)
def test_it_runs_only_what_merely_looks(said: str, command: str) -> None:
    assert commands(answer(body(said))) == [command]


def test_it_calls_no_tool_that_is_not_offered() -> None:
    assert commands(answer(body("list files", tools=False))) == []


def test_it_comments_on_a_result_and_calls_nothing() -> None:
    reply = answer(body("list files", result="a.txt\nb.txt\n"))

    assert commands(reply) == []
    assert "**2 lines**" in words(reply)
    assert "a.txt" in words(reply)


def test_it_quotes_what_the_agent_sent_along() -> None:
    said = words(answer(body("the sea is blue", "so is the sky", "what did I say?")))

    assert "1. the sea is blue\n2. so is the sky\n" in said
    assert "what did I say" not in said


# -- as a process


class Server:
    """The demo model as `up` starts it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.lock: IO[str] = (data / "up.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, linger: float = 0.4) -> subprocess.Popen[str]:
        code = (
            "import sys; from reef_site.demo import model as d;"
            f"d.LINGER_SECONDS = {linger}; d.POLL_SECONDS = 0.05; sys.exit(d.main())"
        )
        folder, models = self.data / "demo", self.data / "pi" / "models.json"
        options = ["--folder", folder, "--models", models, "--while-locked", self.data / "up.lock"]
        options += ["--agents", self.data / "lieutenants"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, options)],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    @property
    def port(self) -> int:
        return demo_model.stored_port(self.data / "demo")

    @property
    def provider(self) -> Any:
        models = json.loads((self.data / "pi" / "models.json").read_text())
        return models["providers"]["reef-demo"]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.provider["baseUrl"] + "/models", timeout=5) as got:
                return bool(json.load(got)["data"][0]["id"] == "demo")
        except (OSError, ValueError, KeyError):
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    for process in server.processes:
        process.kill()
        process.communicate()
    server.lock.close()


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)


def test_it_enters_itself_beside_the_operators_models(server: Server) -> None:
    own = {"providers": {"mine": {"apiKey": "k"}}, "other": ["é"]}
    (server.data / "pi").mkdir()
    (server.data / "pi" / "models.json").write_text(json.dumps(own))

    server.start()
    eventually(server.answers)

    file = server.data / "pi" / "models.json"
    models = json.loads(file.read_text())
    assert models["providers"]["mine"] == {"apiKey": "k"}
    assert models["other"] == ["é"]
    assert server.provider["models"][0]["cost"]["output"] > 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_keeps_its_port(server: Server) -> None:
    first = server.start()
    eventually(server.answers)
    port = server.port
    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0

    server.start()
    eventually(server.answers)

    assert server.port == port


def test_it_takes_another_port_when_its_own_is_taken(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        (server.data / "demo").mkdir()
        (server.data / "demo" / "port").write_text(str(taken))

        server.start()
        eventually(server.answers)

    assert server.port != taken


def test_a_second_one_ends_at_once(server: Server) -> None:
    server.start()
    eventually(server.answers)

    assert server.start().wait(10) == 0
    assert server.answers()


def test_it_outlives_reef_while_somebody_streams(server: Server) -> None:
    process = server.start()
    eventually(server.answers)
    request = urllib.request.Request(
        server.provider["baseUrl"] + "/chat/completions",
        json.dumps({**body("hello"), "stream": True}).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as stream:
        stream.readline()
        server.lock.close()
        rest = stream.read().decode()

    assert rest.endswith("data: [DONE]\n\n")
    assert process.wait(10) == 0


def test_it_ends_with_reef_when_no_agent_lives(server: Server) -> None:
    home = server.data / "lieutenants" / "ada"
    home.mkdir(parents=True)
    with (home / "session.lock").open("w") as session:
        fcntl.flock(session, fcntl.LOCK_EX)
        process = server.start(linger=600)
        eventually(server.answers)
        server.lock.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    # The agent is gone, too: nobody is left to ask for more.
    assert process.wait(10) == 0


def test_it_stays_while_reef_is_up(server: Server) -> None:
    process = server.start()
    eventually(server.answers)

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.8)


# -- the protocol, by way of the scripted model


def ask(url: str, request: dict[str, Any] | bytes) -> tuple[int, Any]:
    content = request if isinstance(request, bytes) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + "/chat/completions", content), timeout=10
        ) as got:
            return got.status, json.load(got)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_plain_answer_has_text_calls_and_usage() -> None:
    with StubLLM() as stub:
        stub.script(
            {
                "text": "look",
                "tool": {"name": "bash", "arguments": {"command": "ls"}},
                "usage": {"prompt_tokens": 1000, "completion_tokens": 5, "cached_tokens": 400},
            }
        )
        status, got = ask(stub.base_url, body("hi"))

    choice = got["choices"][0]
    assert (status, choice["finish_reason"]) == (200, "tool_calls")
    assert choice["message"]["content"] == "look"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"command": "ls"}'
    assert got["usage"]["total_tokens"] == 1005
    assert got["usage"]["prompt_tokens_details"] == {"cached_tokens": 400}


def test_a_request_that_is_none_is_a_400() -> None:
    with StubLLM() as stub:
        assert ask(stub.base_url, b"not json")[0] == 400
        assert ask(stub.base_url, b"[]")[0] == 400
        with socket.create_connection((stub.host, stub.port), timeout=5) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_errors_and_directives_of_the_scripted_model() -> None:
    with StubLLM() as stub:
        assert ask(stub.base_url, {**body("hi"), "model": "err-429"})[0] == 429
        flaky = [ask(stub.base_url, {**body("hi"), "model": "flaky-500-2"})[0] for _ in "123"]
        _, directed = ask(stub.base_url, body('please stub:{"text": "so be it"}'))

    assert flaky == [500, 500, 200]
    assert directed["choices"][0]["message"]["content"] == "so be it"


def test_a_gate_holds_the_stream_and_a_client_that_leaves_is_noticed() -> None:
    with StubLLM() as stub:
        stub.script({"steps": [{"text": "half"}, {"gate": "g"}, {"text": "rest"}]})
        request = urllib.request.Request(
            stub.base_url + "/chat/completions", json.dumps({**body("x"), "stream": True}).encode()
        )
        with urllib.request.urlopen(request, timeout=10):
            stub.wait_for(lambda s: s.in_flight == 1)
        stub.wait_for(lambda s: s.state()["aborted"] == 1 and s.in_flight == 0)

        stub.script({"steps": [{"text": "half"}, {"gate": "g"}, {"text": "rest"}]})
        with urllib.request.urlopen(request, timeout=10) as stream:
            stub.open_gate("g")
            assert b'"rest"' in stream.read()


def test_a_body_may_come_in_chunks() -> None:
    with StubLLM() as stub, socket.create_connection((stub.host, stub.port), timeout=5) as raw:
        content = json.dumps({**body("in parts"), "model": "echo"}).encode()
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (content[:10], content[10:], b""):
            raw.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        got = raw.recv(65536)

    assert b"echo: in parts" in got


def test_a_body_without_limit_is_refused() -> None:
    with StubLLM() as stub, socket.create_connection((stub.host, stub.port), timeout=5) as raw:
        length = model_server.MAX_BODY_BYTES + 1
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_nothing_of_it_needs_django() -> None:
    code = "import sys, reef_site.demo.model; sys.exit('django' in sys.modules)"
    env = {"PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=env).returncode == 0


def test_without_a_demo_its_model_is_withdrawn_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"providers": {"mine": {"baseUrl": "http://127.0.0.1:1/v1"}}}))
    demo_model.add_to_models(file, "http://127.0.0.1:2/v1")

    demo_model.remove_from_models(file)

    assert list(json.loads(file.read_text())["providers"]) == ["mine"]
    file.write_text("no JSON")
    demo_model.remove_from_models(file)
    assert file.read_text() == "no JSON"


def test_the_model_that_a_demos_vm_was_given_stays(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    program = [sys.executable, "-m", "bootloader.boot.on_vm.model_endpoint", str(file)]
    model = f"{demo_model.PROVIDER}/demo"
    env = {"REEF_MODEL_URL": "http://192.0.2.1:9/v1", "REEF_AGENT_MODEL": model}
    subprocess.run(program, cwd=CHECKOUT, env={**env, "PATH": os.environ["PATH"]}, check=True)
    before = file.read_text()

    demo_model.remove_from_models(file)

    assert file.read_text() == before
