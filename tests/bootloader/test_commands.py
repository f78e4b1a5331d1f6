"""Tests of commands on machines, by API and page, with a real SSH server."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from bootloader.commands import services
from bootloader.commands.output import MAX_KEPT
from bootloader.models import HostClaim, Machine, MachineCommand, SshHost
from bootloader.models.commands import AppendOnly
from reef_site.accounts.signin_links import make_operator
from reef_site.audit.models import Action, Record
from reef_site.common import clock, outside
from reef_site.common.errors import IllegalMove
from reef_site.common.eventlog.models import Event
from tests.bootloader.ssh_servers import Sshd, free_port
from tests.conftest import Api
from tests.waiting import until
from vmtree import operator_tokens
from vmtree import services as tree
from vmtree.models import Node, OperatorToken
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/bootloader/commands"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "home").mkdir()
    server = Sshd(folder, SetEnv=f"HOME={folder / 'home'}")
    yield server
    server.stop()


@pytest.fixture
def host(sshd: Sshd) -> SshHost:
    row = SshHost(name="builder", address="127.0.0.1", port=sshd.port, user=sshd.login().user)
    row.set_key(sshd.key)
    row.save()
    return row


@pytest.fixture
def machine(host: SshHost) -> Machine:
    """Return the host as the VM `vm-7` of the tree, below `vm-1`."""
    tree.create(NewNode("top", "agent_vm", "vm-1"), by="tests")
    tree.create(NewNode("seven", "agent_vm", "vm-7", "vm-1"), by="tests")
    claim = HostClaim.objects.create(host=host, name="seven")
    return Machine.objects.create(
        provider="ssh", machine_id=str(claim.pk), vm_id="vm-7", name="seven"
    )


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(make_operator())
    return client


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run outside calls in threads, as a worker does."""
    threads = []

    def work(call_id: str) -> None:
        try:
            outside.run_here(call_id)
        finally:
            connections.close_all()

    def dispatch(_task: str, call_id: str, **_: object) -> None:
        threads.append(threading.Thread(target=work, args=[call_id]))
        threads[-1].start()

    monkeypatch.setattr(outside, "dispatch", dispatch)
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def run(api: Api, text: str, **fields: Any) -> dict[str, Any]:
    answer = api.post(PATH, {"sshHost": "builder", "command": text, **fields})
    assert answer.status_code == 202, answer.content
    found: dict[str, Any] = answer.json()["command"]
    assert answer["Location"] == f"{PATH}/{found['id']}"
    return found


def processes_with(text: str) -> list[str]:
    """Return the command lines on this host that contain the text."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@pytest.mark.usefixtures("host")
def test_output_errors_and_status_are_kept(api: Api) -> None:
    found = run(api, "echo out; echo err >&2; pwd; exit 3")
    assert (found["state"], found["exitStatus"]) == ("done", 3)
    assert found["note"] == "ended with status 3"
    assert found["output"].startswith("out\n")
    assert found["output"].rstrip().endswith("/home")
    assert found["errors"] == "err\n"
    assert not found["isOpen"]
    assert api.get(f"{PATH}/{found['id']}").json()["command"] == found
    assert api.get(f"{PATH}?sshHost=builder").json()["commands"] == [found]
    assert MachineCommand.objects.get().sealed == ""


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("text", "status", "output"),
    [
        ("cat; echo over", 0, "over\n"),
        ("echo 'it''s \"$0\"' \\\\ `echo a`", 0, 'its "$0" \\ a\n'),
        ("for x in 1 2\ndo echo $x\ndone", 0, "1\n2\n"),
        ("echo before\n) ; echo after", 2, "before\n"),
        ("kill -9 $$", 137, ""),
        ("printf 'a\\0b\\377'", 0, "a\ufffdb\ufffd"),
        ("cat <<E\nE-nd $((1+1))\nE", 0, "E-nd 2\n"),
        ("sleep 30 & echo started", 0, "started\n"),
        ("# ünïcode\necho ü 🙂", 0, "ü 🙂\n"),
    ],
)
def test_any_text_is_one_script(api: Api, text: str, status: int, output: str) -> None:
    found = run(api, text)
    assert (found["exitStatus"], found["output"]) == (status, output), found


@pytest.mark.usefixtures("host")
def test_command_is_in_no_argument_list(api: Api, worker: None) -> None:
    found = run(api, "sleep 2.25; : the-secret-word")
    until(lambda: processes_with("sleep 2.25"))
    assert api.get(f"{PATH}/{found['id']}").json()["command"]["state"] == "running"
    assert not processes_with("the-secret-word")
    until(lambda: not MachineCommand.objects.open().exists())
    assert not processes_with("the-secret-word")


@pytest.mark.usefixtures("host")
def test_time_limit_ends_the_whole_group(api: Api) -> None:
    found = run(api, "echo begun; (trap '' TERM; sleep 47.11) & sleep 47.11", limitSeconds=1)
    assert (found["state"], found["exitStatus"]) == ("timed-out", 143)
    assert found["note"] == "ended because it took longer than 1 s."
    assert found["output"] == "begun\n"
    until(lambda: not processes_with("sleep 47.11"))


@pytest.mark.usefixtures("host")
def test_endless_output_is_bounded(api: Api) -> None:
    found = run(api, "echo first; yes y44", limitSeconds=1)
    assert found["state"] == "timed-out"
    assert found["output"].startswith("first\ny44\n")
    assert len(found["output"]) < MAX_KEPT + 100
    missing = re.search(r"\n\[… (\d+) characters are left out …\]\n", found["output"])
    assert missing
    assert int(missing[1]) + MAX_KEPT == found["outputSize"]
    until(lambda: not processes_with("yes y44"))


@pytest.mark.usefixtures("host")
def test_cancelling_ends_a_running_command(api: Api, operator: Client, worker: None) -> None:
    found = run(api, "echo begun; sleep 48.12", limitSeconds=600)
    until(lambda: MachineCommand.objects.get().output)
    page = operator.get(f"/provisioning/commands/{found['id']}/").content.decode()
    assert "begu" in page
    assert "Cancel" in page
    assert api.post(f"{PATH}/{found['id']}/cancel").status_code == 202
    until(lambda: not MachineCommand.objects.open().exists())
    row = MachineCommand.objects.get()
    assert (row.state, row.exit_status) == ("cancelled", 143)
    assert row.note == "cancelled by root token."
    until(lambda: not processes_with("sleep 48.12"))
    again = api.post(f"{PATH}/{found['id']}/cancel")
    assert again.status_code == 409
    assert again.json()["error"] == "the command has ended: cancelled"
    part = operator.get(f"/provisioning/commands/{found['id']}/part/")
    assert part.status_code == 286


def test_waiting_command_is_cancelled_at_once(
    api: Api, host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "dispatch", lambda *_, **__: None)
    found = run(api, "touch never")
    assert found["state"] == "waiting"
    monkeypatch.setattr(services, "MAX_OPEN", 1)
    refused = api.post(PATH, {"sshHost": "builder", "command": "ls"})
    assert refused.status_code == 409
    assert refused.json()["error"] == "1 commands run already: wait for one, or cancel it"
    row = services.cancel(found["id"], by="tests")
    assert (row.state, row.sealed) == ("cancelled", "")
    with pytest.raises(IllegalMove):
        services.cancel(found["id"], by="tests")


def test_list_reads_no_output(operator: Client, machine: Machine) -> None:
    services.run(machine, "echo listed", by="operator")
    with CaptureQueriesContext(connection) as queries:
        page = operator.get(f"/provisioning/commands/?machine={machine.pk}")
    assert "echo listed" in page.content.decode()
    read = [each["sql"] for each in queries if "LIMIT" in each["sql"]]
    rows = [each for each in read if f'"{MachineCommand._meta.db_table}"."command"' in each]
    assert rows
    assert not [each for each in rows if '"output"' in each or '"errors"' in each]


def test_command_of_a_dead_worker_fails(
    api: Api, host: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "dispatch", lambda *_, **__: None)
    found = run(api, "echo x")
    MachineCommand.objects.update(state="running", overdue_at=clock.now() - timedelta(seconds=1))
    shown = api.get(f"{PATH}/{found['id']}").json()["command"]
    assert (shown["state"], shown["note"]) == ("failed", services.LOST)


def test_unreachable_machines_are_named(api: Api, host: SshHost) -> None:
    SshHost.objects.update(port=free_port())
    found = run(api, "echo x")
    assert found["state"] == "failed"
    assert "cannot be reached by SSH" in found["note"]
    SshHost.objects.update(address="nowhere.invalid")
    assert run(api, "echo x")["state"] == "failed"


def test_lost_connection_ends_the_command_there(
    api: Api, sshd: Sshd, host: SshHost, worker: None
) -> None:
    run(api, "echo begun; sleep 49.13", limitSeconds=60)
    until(lambda: MachineCommand.objects.get().output)
    sshd.stop()
    until(lambda: not MachineCommand.objects.open().exists())
    row = MachineCommand.objects.get()
    assert row.state == "failed"
    assert (row.output, row.exit_status) == ("begun\n", None)
    until(lambda: not processes_with("sleep 49.13"))
    sshd.start()


def test_known_secrets_are_masked(api: Api, host: SshHost) -> None:
    secret = "sk-abcdefghijklmnop0123456789"
    stored = api.client.put(
        "/vers-config/VERS_API_KEY", {"value": secret}, content_type="application/json"
    )
    assert stored.status_code == 200, stored.content
    found = run(
        api,
        f"K={secret}; echo $K; echo $K >&2; head -c 40000 /dev/zero | tr '\\0' a; echo; echo $K",
    )
    assert secret not in str(found)
    assert found["output"].count("VERS_API_KEY") == 2
    assert "VERS_API_KEY" in found["errors"]
    assert "VERS_API_KEY" in found["command"]
    assert secret not in str(list(Record.objects.values()))


def test_audit_and_event_log_tell_of_it(operator: Client, machine: Machine) -> None:
    answer = operator.post(
        f"/provisioning/commands/?machine={machine.pk}",
        {"command": "echo '<b>hi</b>'", "limit_seconds": "30"},
    )
    row = MachineCommand.objects.get()
    assert answer["Location"] == f"/provisioning/commands/{row.pk}/"
    assert (row.state, row.vm_id, row.actor) == ("done", "vm-7", "admin")
    record = Record.objects.get(action=Action.COMMAND)
    assert (record.actor, record.target) == ("admin", f"vm-7 {row.pk}")
    assert record.reason == "echo '<b>hi</b>'"
    event = Event.objects.get(kind="vm.command")
    assert (event.vm_id, event.actor) == ("vm-7", "admin")
    assert event.detail["exitStatus"] == 0
    assert "<b>" not in str(event.detail)
    page = operator.get("/audit/?action=command").content.decode()
    assert f"/provisioning/commands/{row.pk}/" in page
    page = operator.get(f"/provisioning/commands/{row.pk}/").content.decode()
    assert "&lt;b&gt;hi&lt;/b&gt;" in page
    listed = operator.get(f"/provisioning/commands/?machine={machine.pk}").content.decode()
    assert f"/provisioning/commands/{row.pk}/" in listed
    panel = operator.get(f"/fleet/{Node.objects.get(vm_id='vm-7').pk}/").content.decode()
    assert f"/provisioning/commands/?machine={machine.pk}" in panel
    with pytest.raises(AppendOnly):
        row.delete()
    services.sweep()
    assert MachineCommand.objects.count() == 1
    MachineCommand.objects.update(asked_at=clock.now() - timedelta(days=4000))
    services.sweep()
    assert not MachineCommand.objects.exists()


def test_hostile_names_are_shown_as_text(operator: Client, machine: Machine) -> None:
    name = "<i>\u202ex</i>'; touch oops; '"
    Machine.objects.update(name=name)
    operator.post(f"/provisioning/commands/?machine={machine.pk}", {"command": "ls"})
    answer = operator.post(
        f"/provisioning/commands/?machine={machine.pk}", {"command": "ls", "limit_seconds": "5"}
    )
    page = operator.get(answer["Location"]).content.decode()
    assert "<i>" not in page
    assert "\u202e" not in page
    assert MachineCommand.objects.get().output == ""


def test_wrong_input_is_refused(api: Api, operator: Client, host: SshHost) -> None:
    for body in (
        {},
        {"command": "ls"},
        {"sshHost": "builder"},
        {"sshHost": "builder", "vmId": "x", "command": "ls"},
        {"sshHost": "builder", "command": " \n"},
        {"sshHost": "builder", "command": "a\0b"},
        {"sshHost": "builder", "command": "x" * 16_001},
        {"sshHost": "builder", "command": "ls", "limitSeconds": 601},
        {"sshHost": "builder", "command": "ls", "limitSeconds": 0},
        {"sshHost": "builder", "command": "ls", "shell": "bash"},
    ):
        assert api.post(PATH, body).status_code == 400, body
    assert api.post(PATH, {"sshHost": "nowhere", "command": "ls"}).status_code == 404
    assert api.post(PATH, {"vmId": "nowhere", "command": "ls"}).status_code == 404
    assert api.get(f"{PATH}/nowhere").status_code == 404
    page = operator.post("/provisioning/commands/?ssh_host=builder", {"command": ""})
    assert page.status_code == 400
    assert operator.get("/provisioning/commands/?ssh_host=nowhere").status_code == 404
    assert not MachineCommand.objects.exists()


def bearer(token: str) -> Api:
    api = Api()
    api.client = Client(headers={"authorization": f"Bearer {token}"})
    return api


def status_of(api: Api, **where: str) -> tuple[int, int]:
    """Return the answers to running a command and to listing commands."""
    query = "&".join(f"{name}={value}" for name, value in where.items())
    posted = api.post(PATH, {**where, "command": "true"})
    return posted.status_code, api.get(f"{PATH}?{query}").status_code


def test_only_those_who_may_run_commands_do(machine: Machine, operator: Client) -> None:
    root = User.objects.get(username="admin")
    tokens = {}
    for scope in OperatorToken.Scope.values:
        tokens[scope] = operator_tokens.make(scope, scope, by=root)[1]
    tree.create(NewNode("two", "agent_vm", "vm-2"), by="tests")
    seven, two = (Node.objects.get(vm_id=each) for each in ("vm-7", "vm-2"))
    below = operator_tokens.make("below", "everything", subtree=seven, by=root)[1]
    beside = operator_tokens.make("beside", "everything", subtree=two, by=root)[1]
    nodes = [tree.issue_token(each, by="tests")[1] for each in ("vm-1", "vm-7")]

    assert status_of(bearer(tokens["everything"]), vmId="vm-7") == (202, 200)
    assert status_of(bearer(tokens["everything"]), sshHost="builder") == (202, 200)
    assert status_of(bearer(below), vmId="vm-7") == (202, 200)
    for token in (tokens["read"], tokens["messages"], beside, *nodes):
        assert status_of(bearer(token), vmId="vm-7") == (403, 403)
        assert status_of(bearer(token), vmId="nowhere") == (403, 403)
        assert status_of(bearer(token), sshHost="builder") == (403, 403)
        for row in MachineCommand.objects.all()[:1]:
            assert bearer(token).get(f"{PATH}/{row.pk}").status_code == 403
            assert bearer(token).post(f"{PATH}/{row.pk}/cancel").status_code == 403
    assert MachineCommand.objects.count() == 3


def test_look_only_accounts_get_neither_form_nor_route(machine: Machine, client: Client) -> None:
    client.force_login(User.objects.create_user("joe"))
    row = services.run(machine, "echo hi", by="tests")
    for path in ("", f"?machine={machine.pk}", "?vm=vm-7", f"{row.pk}/", f"{row.pk}/part/"):
        assert client.get(f"/provisioning/commands/{path}").status_code == 403, path
    posted = client.post(f"/provisioning/commands/?machine={machine.pk}", {"command": "ls"})
    assert posted.status_code == 403
    assert client.post(f"/provisioning/commands/{row.pk}/cancel/").status_code == 403
    assert client.get(f"{PATH}?vmId=vm-7").status_code == 403
    node = Node.objects.get(vm_id="vm-7")
    for page in ("/provisioning/machines/", f"/fleet/{node.pk}/"):
        assert "commands/" not in client.get(page).content.decode()
    assert MachineCommand.objects.count() == 1


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_command_works_in_each_sh(api: Api, host: SshHost, shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    assert program
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(program)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    server = Sshd(tmp_path / "sshd", SetEnv=f"HOME={tmp_path} PATH={path}")
    host.set_key(server.key)
    host.port = server.port
    host.save()
    try:
        found = run(api, "readlink -f $(command -v sh); (exit 4)")
        assert (found["output"], found["exitStatus"]) == (f"{os.path.realpath(program)}\n", 4)
        found = run(api, "trap '' TERM; echo a; sleep 50.14", limitSeconds=1)
        assert (found["state"], found["output"]) == ("timed-out", "a\n")
        until(lambda: not processes_with("sleep 50.14"))
    finally:
        server.stop()
