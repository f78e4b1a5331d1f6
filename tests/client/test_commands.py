"""The commands of the client, against web and real processes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import settings as our_settings
from pytest_django.live_server_helper import LiveServer

from bootloader.models import SshHost
from lieutenants.models import Lieutenant, Question
from lieutenants.states import Status
from reef_site.client import errors, output, program
from reef_site.common import clock
from reef_site.common.tools import declared_tools
from registry.models import VM
from tests.bootloader.ssh_servers import Sshd
from tests.conftest import Fleet
from tests.lieutenants.rows import enlist
from tests.stack import ROOT, free_port
from versconfig.models import Setting
from vmtree import services as tree
from vmtree.models import Node
from vmtree.services import NewNode

ROOT_TOKEN = our_settings.ROOT_TOKEN


class Done(NamedTuple):
    """The end of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


class Terminal(StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs one command with the root token."""
    monkeypatch.setenv("VERS_INFRA_URL", live_server.url + "/")
    monkeypatch.setenv("VERS_AUTH_TOKEN", ROOT_TOKEN)

    def run_command(*words: str, stdin: str = "") -> Done:
        capsys.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", StringIO(stdin))
            try:
                status = program.run(words)
            except SystemExit as ended:
                status = int(ended.code or 0)
        return Done(status, *capsys.readouterr())

    return run_command


def test_lieutenants_are_driven_from_the_command_line(fleet: Fleet, run: Run) -> None:
    assert run("lieutenants", "list") == (0, "No lieutenants active.\n", "")
    more = ("--permissions", "allow")
    assert run("lieutenants", "create", "ada", "x", *more).status == 2
    refused = run("lieutenants", "create", "ada", "x", "--agent", "acp:no-such", *more)
    assert refused.err.startswith("reef: agent: preset must be one of claude, codex")
    refused = run("lieutenants", "create", "ada", "x", "--agent", "pi", *more)
    assert refused.err == "reef: agent.permissions: is not a setting of the agent 'pi'\n"
    created = run("lieutenants", "create", "ada", "reviews", "--agent", "pi", "--wait", "60")
    assert created == (0, "ada is idle.\n", "")
    assert fleet.row("ada").role == "reviews"

    answered = run("lieutenants", "send", "ada", "-", "--wait", stdin="hello there")
    assert answered == (0, "echo: hello there\n", "")
    assert run("lieutenants", "send", "ada", "again").out == 'Sent to ada (prompt): "again"\n'
    assert run("lieutenants", "wait", "ada") == (0, "Done: ada is idle.\n", "")
    assert run("lieutenants", "read", "ada", "--tail", "5").out == "...again\n"
    facts = run("lieutenants", "read", "ada", "--json").json
    assert (facts["name"], facts["output"]) == ("ada", "echo: again")

    head, row = run("lieutenants", "list").out.splitlines()
    assert head.split() == ["NAME", "STATUS", "TASKS", "LAST", "ACTIVE", "ROLE"]
    assert row.split()[:3] == ["ada", "idle", "2"]
    assert run("lieutenants", "list", "--json").json["lieutenants"][0]["name"] == "ada"
    assert run("lieutenants", "status", "ada").out.startswith("ada\n  Role: reviews\n")
    assert run("lieutenants", "status").out.startswith("* ada [idle]\n")

    paused = run("lieutenants", "pause", "ada")
    assert paused.out == 'Lieutenant "ada" paused. Use reef_lt_resume to wake it.\n'
    fleet.wait("ada", Status.PAUSED)
    refused = run("lieutenants", "send", "ada", "x", "--wait")
    assert refused == (1, "", "reef: Lieutenant 'ada' is paused. Resume it first.\n")
    assert run("lieutenants", "resume", "ada").status == 0
    fleet.wait("ada", Status.IDLE)
    assert run("lieutenants", "discover").out.startswith("Discovery results:\n")
    destroyed = run("lieutenants", "destroy", "--all")
    assert destroyed.out == "ada: destroyed (local, 2 tasks completed)\n"


def test_a_wait_ends_when_its_time_is_over(
    fleet: Fleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.create("ada")
    run("lieutenants", "send", "ada", "SILENT")
    fleet.wait("ada", Status.WORKING)
    over = run("lieutenants", "wait", "ada", "--seconds", "1")
    assert over == (4, "", "reef: Not yet: ada is working.\n")
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        assert run("lieutenants", "wait", "ada", "--seconds", "2").status == errors.TIMED_OUT
    assert f"{output.CLEAR_LINE}waiting: ada is working. (" in terminal.getvalue()
    assert terminal.getvalue().endswith(f"{output.CLEAR_LINE}reef: Not yet: ada is working.\n")
    waited = run("tools", "call", "reef_wait", 'lieutenants:=["ada"]', "seconds=0")
    assert waited == (4, "", "reef: Not yet: ada is working.\n")


@pytest.mark.django_db(transaction=True)
def test_one_command_waits_for_anything(run: Run) -> None:
    run("tree", "register", "roof", "infra_vm", "--id", "vm-1")
    created = ("wait", "--event", "tree.created", "--subject", "vm-1")
    late = run(*created, "--seconds", "0")
    assert (late.status, late.out) == (errors.TIMED_OUT, "")
    assert late.err == "reef: Not yet: event tree.created about vm-1 is awaited.\n"
    found = run(*created, "--cursor", "0", "--json").json
    assert found["waits"][0]["event"]["kind"] == "tree.created"
    awaited = found["waits"][0]["event"]["id"]
    either = run("wait", "--vm", "vm-1", "--subtree", "vm-1", "--cursor", "0", "--any")
    assert either.out == (
        f"Done: vm-1 is not registered; event {awaited} is tree.created about vm-1 (roof) by "
        "root token.\n"
    )
    unknown = run("wait", "--event", "vms.late")
    assert unknown.status == errors.FAILED
    assert unknown.err.startswith("reef: event.kind: you read no events of the topic 'vms'; topics")
    assert run("wait").status == errors.USAGE


@pytest.mark.django_db(transaction=True)
def test_wait_for_an_event_misses_none_between_two_requests(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(_seconds: float) -> None:
        """An event between two requests of the command."""
        Node.objects.filter(vm_id="vm-1").exists() or tree.create(
            NewNode("roof", "infra_vm", "vm-1"), by="tests"
        )

    with monkeypatch.context() as patched:
        patched.setattr("reef_site.client.waiting.time.sleep", pause)
        done = run("wait", "--event", "tree", "--seconds", "30")
    assert done.out.endswith(" is tree.created about vm-1 (roof) by tests.\n")


@pytest.mark.django_db(transaction=True)
def test_vms_and_tree_are_changed_from_the_command_line(run: Run) -> None:
    assert run("tree", "view").out == "No VMs.\n"
    added = run("tree", "register", "roof", "infra_vm", "--id", "vm-1", "--organ", "store")
    assert added.out == 'Registered "roof" (infra_vm) in tree. ID: vm-1\n'
    run("tree", "register", "leaf", "swarm_vm", "--id", "vm-2", "--parent", "vm-1")
    assert run("tree", "view").out == "roof [infra_vm] vm-1\n  leaf [swarm_vm] vm-2\n"
    assert run("tree", "view", "vm-2", "--json").json["tree"][0]["vm"]["vmId"] == "vm-2"
    assert run("tree", "find", "organ", "store").out.splitlines()[1].split()[:2] == ["vm-1", "roof"]
    assert run("tree", "find", "organ", "none").out == 'No VMs found with organ "none".\n'

    named = ("--name", "leaf", "--role", "worker", "--address", "10.0.0.2", "--parent", "vm-1")
    assert run("vms", "register", "vm-2", *named).out == "Registered vm-2.\n"
    assert VM.objects.get(pk="vm-2").address == "10.0.0.2"
    VM.objects.update(status="stopped", late_after=None, silent_after=None)
    assert run("vms", "heartbeat", "vm-2", "--json").json["result"]["id"] == "vm-2"
    assert VM.objects.get(pk="vm-2").status == "running"
    assert run("vms", "list").out.splitlines()[1].split()[:4] == [
        "vm-2",
        "leaf",
        "worker",
        "running",
    ]
    assert run("vms", "list", "--role", "infra").out == "No VMs.\n"
    assert run("vms", "discover", "worker", "--json").json["count"] == 1
    assert run("vms", "lineage", "vm-2", "--direction", "subtree", "--json").json["count"] == 1
    assert run("vms", "heartbeat", "vm-9") == (1, "", "reef: VM not found\n")


@pytest.mark.django_db(transaction=True)
def test_config_and_boot_scripts(run: Run, tmp_path: Path) -> None:
    key = "a-key-of-the-tests-0123"
    stored = run("config", "set", "VERS_API_KEY", stdin=f"{key}\n")
    assert stored == (0, "Set VERS_API_KEY (source: store).\n", "")
    assert Setting.objects.get().key == "VERS_API_KEY"
    shown = run("config", "get").out
    assert "API Key:    a-key" in shown
    assert key not in shown

    assert run("boot", "profiles").out.startswith("full:\n")
    made = run("boot", "generate", "vm-3", "seed", "swarm")
    assert made.out.startswith("#!/")
    assert made.err.startswith('Boot script generated for "seed" (swarm)\n')
    file = tmp_path / "boot.sh"
    assert run("boot", "generate", "vm-3", "seed", "swarm", "--output", str(file)).out == ""
    assert file.read_text().startswith("#!/")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = run("boot", "generate", "vm-3", "seed", "swarm", "--output", str(file))
    assert (again.status, again.err.splitlines()[-1]) == (1, f"reef: {file}: File exists")


@pytest.mark.django_db(transaction=True)
def test_any_tool_is_called_by_its_name(run: Run) -> None:
    listed = run("tools", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == list(declared_tools())
    called = run("tools", "call", "vm_tree_register", "name=x", "category=swarm_vm", "vmId=vm-5")
    assert called.out == 'Registered "x" (swarm_vm) in tree. ID: vm-5\n'
    view = run("tools", "call", "vm_tree_view", "-", "--json", stdin='{"vmId": "vm-5"}')
    assert view.json["tree"]["count"] == 1
    assert run("tools", "call", "vm_tree_history", "vmId=vm-5", "limit:=1").status == 0
    assert run("tools", "call", "rm") == (1, "", "reef: There is no tool 'rm'\n")
    assert run("tools", "call", "vm_tree_register").err == "reef: name is required\n"
    unclear = run("tools", "call", "vm_tree_view", "vm-5")
    assert unclear == (2, "", "reef: 'vm-5' is not NAME=VALUE (see --help)\n")


@pytest.mark.django_db(transaction=True)
def test_a_permission_is_listed_with_what_it_is_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = enlist("ada")
    Question.objects.create(
        vm_id=ada.pk,
        lieutenant=ada,
        kind="permission",
        source="tool",
        text="Run a command?",
        details="rm x\nls \u202e~",
        options=[{"value": "yes", "label": "Yes"}],
    )
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        assert run("questions", "list").status == 0
    lines = ["  Run a command?", "  | rm x", "  | ls \N{REPLACEMENT CHARACTER}~", "  - yes"]
    assert terminal.getvalue().splitlines()[1:] == lines


@pytest.mark.django_db(transaction=True)
def test_questions_are_listed_and_answered(run: Run) -> None:
    ada = enlist("ada")
    tree.create(NewNode("ada", "lieutenant", ada.pk), by="tests")
    asked = {"vm_id": ada.pk, "lieutenant": ada, "source": "tool", "is_awaited": True}
    options = [{"value": value, "label": value} for value in ("now", "later")]
    first = Question.objects.create(kind="ask", text="Deploy?", options=options, **asked)
    second = Question.objects.create(kind="ask", text="Why?", **asked)
    assert len(run("questions", "list", "--json").json["questions"]) == 2
    assert f"{first.pk} ada [open]\n  Deploy?\n" in run("questions", "list").out
    assert run("questions", "answer", first.pk, "now").out == "Answered: now\n"
    late = run("questions", "answer", first.pk, "later")
    assert (late.status, late.err[:27]) == (1, "reef: question: was answere")
    assert run("questions", "answer", second.pk).status == errors.USAGE
    assert run("questions", "answer", second.pk, "--dismiss").status == 0
    assert run("questions", "list").out == "No questions.\n"
    assert "  Answer: now by " in run("questions", "list", "--state", "answered").out


@pytest.mark.django_db(transaction=True)
def test_caller_and_newest_events_are_shown(run: Run) -> None:
    who = run("whoami").out.splitlines()
    assert (who[0], who[1]) == ("root token (root)", "May:")
    assert run("whoami", "--json").json["node"] is None
    run("tree", "register", "roof", "infra_vm", "--id", "vm-1")
    run("config", "set", "VERS_AGENT_NAME", "roof")
    newest = run("events", "--newest", "1", "--kind", "tree")
    assert newest.out.endswith("  by root token\n")
    assert "vm-1" in newest.out
    kinds = [
        json.loads(line)["kind"]
        for line in run("events", "--newest", "9", "--json").out.splitlines()
    ]
    assert kinds[-1].startswith("config.")


@pytest.mark.django_db(transaction=True)
def test_commands_run_on_machines_from_the_command_line(run: Run, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path)
    host = SshHost(name="far", address="127.0.0.1", port=sshd.port, user=sshd.login().user)
    host.set_key(sshd.key)
    host.save()
    try:
        assert run("vms", "run", "far", "echo hi", "--host") == (0, "hi\n", "")
        failed = run("vms", "run", "far", "-", "--host", stdin="echo oops >&2\nexit 3\n")
        assert failed == (1, "", "oops\nreef: ended with status 3\n")
        facts = run("vms", "run", "far", "sleep 9", "--host", "--limit", "1", "--json")
        assert (facts.status, facts.json["state"]) == (1, "timed-out")
        nowhere = run("vms", "run", "nowhere", "ls")
        assert nowhere == (1, "", "reef: there is no such machine\n")
    finally:
        sshd.stop()


@pytest.mark.django_db(transaction=True)
def test_state_of_a_machine_is_told(run: Run) -> None:
    facts = {"name": "far", "role": "r", "folder": "~/x", "host": "vm-1", "transport": "ssh"}
    row = Lieutenant.objects.create(**facts, on_vm="vm-1", in_reach=True, heard_at=clock.now())
    assert "\n  Machine: answers, last heard 20" in run("lieutenants", "status", "far").out
    assert "  Machine: answers, last heard 20" in run("lieutenants", "status").out
    row.in_reach, row.reach_since = False, clock.now()
    row.save()
    told = run("lieutenants", "status", "far").out
    assert "\n  Machine: out of reach since 20" in told
    assert told.endswith("; all else is as last heard\n")


@pytest.mark.django_db(transaction=True)
def test_exit_statuses(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("lieutenants",), ("vms", "list", "--rolle", "x"), ("lieutenants", "read")):
        assert run(*words).status == errors.USAGE
    assert run("lieutenants", "destroy").status == errors.USAGE
    assert "exit status:\n  0  done\n" in run("vms", "list", "--help").out
    assert run("vms", "lineage", "vm-9").status == errors.FAILED
    with monkeypatch.context() as changed:
        changed.setenv("VERS_AUTH_TOKEN", "wrong")
        wrong = run("vms", "list")
        assert wrong == (1, "", "reef: Unauthorized — invalid token\n")
    monkeypatch.setenv("VERS_INFRA_URL", f"http://127.0.0.1:{free_port()}")
    away = run("vms", "list")
    assert away.status == errors.UNREACHABLE
    assert away.err.endswith("cannot be reached: [Errno 111] Connection refused\n")
    monkeypatch.setenv("VERS_INFRA_URL", "reef.example")
    assert run("vms", "list").status == errors.USAGE


@pytest.mark.django_db(transaction=True)
def test_reef_of_this_host_is_found(
    live_server: LiveServer, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("VERS_INFRA_URL", "VERS_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("REEF_DATA_DIR", str(tmp_path))
    nothing = run("tree", "view")
    assert nothing.status == errors.USAGE
    assert f"no reef runs on {tmp_path}" in nothing.err
    (tmp_path / "up.json").write_text(json.dumps({"pid": 1, "url": live_server.url}))
    (tmp_path / "root-token").write_text(f"{ROOT_TOKEN}\n")
    assert run("tree", "view").status == 0
    # The token of this host is for this host's reef only.
    monkeypatch.setenv("VERS_INFRA_URL", "http://127.0.0.1:9")
    assert run("tree", "view").err == "reef: VERS_AUTH_TOKEN is not set: " + (
        "http://127.0.0.1:9 needs a token\n"
    )


@pytest.mark.django_db(transaction=True)
def test_special_characters_stay_what_they_are(run: Run) -> None:
    for name in ("a b", "a?x=1#y", "é%2e"):
        assert run("lieutenants", "read", name).err == "reef: Lieutenant not found\n"
    Node.objects.create(vm_id="vm-7", name="\x1b[31mred", category="swarm_vm")
    assert run("tree", "view").out == "\x1b[31mred [swarm_vm] vm-7\n"
    terminal = Terminal()
    output.write("\x1b[31mred\n\tline", terminal)
    assert terminal.getvalue() == "\N{REPLACEMENT CHARACTER}[31mred\n\tline\n"


@pytest.mark.django_db(transaction=True)
def test_shell_completes_commands_and_names(run: Run, live_server: LiveServer) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = run("completion", shell)
        assert script.status == 0
        assert "reef" in script.out
    Node.objects.create(vm_id="vm-complete", name="x", category="swarm_vm")
    assert completions("reef tre", live_server.url) == ["tree"]
    assert completions("reef tree view vm-c", live_server.url) == ["vm-complete"]
    assert completions("reef wait --vm vm-c", live_server.url) == ["vm-complete"]
    assert completions("reef tree view vm-c", "http://127.0.0.1:9") == []


def completions(line: str, address: str) -> list[str]:
    """Return what argcomplete offers at the end of a line, as a shell asks for it."""
    code = "import os; os.dup2(1, 8); from reef_site import cli; cli.main()"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VERS_")},
        "VERS_INFRA_URL": address,
        "VERS_AUTH_TOKEN": ROOT_TOKEN,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "reef"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [word.strip() for word in done.stdout.split("\n") if word.strip()]


def test_client_needs_no_django(tmp_path: Path) -> None:
    code = (
        "import sys; from reef_site.client import program; status = program.run(['vms', 'list']);"
        "print(status, [name for name in ('django', 'httpx', 'asyncio') if name in sys.modules])"
    )
    env = {"PATH": os.environ["PATH"], "REEF_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "2 []\n"


def test_commands_follow_the_name_reef_in_a_checkout() -> None:
    for words in (["reef", "vms"], ["vms"]):
        command = [sys.executable, "manage.py", *words, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"usage: manage.py {' '.join(words)} [-h] COMMAND")


def test_reader_that_has_gone_ends_a_command_silently(run: Run) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    script = "import sys\nfrom reef_site.cli import main\nsys.argv[1:] = ['completion', 'bash']\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{script}sys.stdin.read()\nmain()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(b"", 30)
    assert (process.returncode, said) == (128 + signal.SIGPIPE, b"")
    # A process that runs commands goes on when a connection of its own breaks.
    assert run("whoami").status == 0
    assert signal.getsignal(signal.SIGPIPE) == before
