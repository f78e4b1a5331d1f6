"""Tests of the way to a machine, by API and page, with real SSH servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from bootloader.models import Machine, SshHost
from bootloader.providers.ssh.connection_test import agent_programs
from reef_site.accounts.signin_links import make_operator
from tests.bootloader.ssh_servers import Sshd, free_port
from tests.conftest import Api

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/bootloader/machines/test"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(make_operator())
    return client


def register(sshd: Sshd, **fields: Any) -> SshHost:
    facts = {"name": "builder", "address": "127.0.0.1", "port": sshd.port, **fields}
    host = SshHost(user=sshd.login().user, **facts)
    host.set_key(sshd.key)
    host.save()
    return host


def examine(api: Api) -> dict[str, Any]:
    answer = api.post(PATH, {"sshHost": "builder"})
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    assert found["good"] is not any(step["problem"] for step in found["steps"])
    return found


def test_all_steps_are_told_with_their_times(sshd: Sshd, api: Api) -> None:
    host = register(sshd)
    found = examine(api)
    names = [step["name"] for step in found["steps"]]
    assert names == [
        *("address", "tcp", "banner", "host key", "login", "shell", "python", "disk", "agent")
    ]
    notes = {step["name"]: step["note"] for step in found["steps"]}
    assert notes["address"] == "127.0.0.1"
    assert notes["banner"].startswith("SSH-2.0-OpenSSH")
    assert notes["host key"] == "ssh-ed25519, kept from now on"
    assert notes["login"] == f"as {host.user}"
    assert notes["disk"].endswith(" MiB free")
    assert all(step["seconds"] >= 0 for step in found["steps"])
    host.refresh_from_db()
    assert host.host_key == sshd.host_key
    assert {step["name"]: step["note"] for step in examine(api)["steps"]}["host key"] == (
        "ssh-ed25519, as before"
    )


def test_missing_agent_is_named(sshd: Sshd, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    register(sshd)
    with agent_programs.changed({"pi": ("no-pi-here", "~/no-pi-here")}):
        last = examine(api)["steps"][-1]
    assert (last["name"], last["problem"]) == ("agent", "the agent pi is not on it")


def test_names_of_programs_are_quoted(sshd: Sshd, api: Api, tmp_path: Path) -> None:
    register(sshd)
    program = tmp_path / "a  b$(touch oops);*"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with agent_programs.changed({"pi": ("$(touch oops)", str(program))}):
        last = examine(api)["steps"][-1]
    assert last["note"] == f"pi: {tmp_path}/a b$(touch oops);*"
    assert not (Path.home() / "oops").exists()


@pytest.mark.parametrize(
    ("fields", "step", "problem"),
    [
        ({"address": "nowhere.invalid"}, "address", ""),
        ({"port": 1}, "tcp", "Connection refused"),
        ({"host_key": "ssh-ed25519 AAAAC3Nz"}, "host key", "has another host key than before"),
        ({"user": "nobody-here"}, "login", "does not let nobody-here in"),
    ],
)
def test_failing_step_is_the_last_one(
    sshd: Sshd, api: Api, fields: dict[str, Any], step: str, problem: str
) -> None:
    host = register(sshd)
    SshHost.objects.filter(pk=host.pk).update(**fields)
    last = examine(api)["steps"][-1]
    assert last["name"] == step
    assert last["problem"]
    assert problem in last["problem"]


def test_other_servers_are_recognized(sshd: Sshd, api: Api) -> None:
    host = register(sshd)
    with socket.create_server(("127.0.0.1", 0)) as server:
        SshHost.objects.filter(pk=host.pk).update(port=server.getsockname()[1])

        def greet() -> None:
            for _ in range(2):
                near, _ = server.accept()
                with near, suppress(OSError):
                    near.sendall(b"220 mail.example\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        last = examine(api)["steps"][-1]
        thread.join(10)
    assert last["name"] == "banner"
    assert last["problem"] == "this is no SSH server: it says '220 mail.example'"


def test_requests_must_name_one_machine(api: Api) -> None:
    assert api.post(PATH, {}).status_code == 400
    assert api.post(PATH, {"sshHost": "a", "vmId": "b"}).status_code == 400
    assert api.post(PATH, {"sshHost": "nowhere"}).status_code == 404
    assert api.post(PATH, {"vmId": "nowhere"}).status_code == 404


def test_page_shows_the_steps(sshd: Sshd, operator: Client) -> None:
    register(sshd, port=free_port())
    machine = Machine.objects.create(provider="ssh", machine_id="gone", vm_id="v", name="gone")
    html = operator.get("/provisioning/machines/").content.decode()
    assert "Test connection" in html
    shown = operator.post("/provisioning/machines/test/", {"ssh_host": "builder"}, follow=True)
    text = shown.content.decode()
    assert "builder, address: 127.0.0.1" in text
    assert "builder, tcp: " in text
    assert "Connection refused" in text
    asked = {"machine": str(machine.pk)}
    shown = operator.post("/provisioning/machines/test/", asked, follow=True)
    assert "No SSH host is in use as" in shown.content.decode()
