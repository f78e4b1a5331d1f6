"""The boot script, really run on machines to throw away, against a reef that really runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from bootloader.boot import cloud_init, render
from bootloader.boot.plan import BootPlan, File, Profile
from bootloader.join import downloads
from tests.bootloader import overlay_machine
from tests.bootloader.overlay_machine import Machine
from tests.bootloader.root_stack import RootStack
from tests.stack import free_port
from tests.stub_llm import StubLLM

pytestmark = [
    pytest.mark.skipif(
        not overlay_machine.is_supported(), reason="a machine to throw away takes root"
    ),
    pytest.mark.timeout(600),
]

# A hostile text that is a valid id.
ODD = "vm'\"$(touch /pwned)`touch /pwned`; touch /pwned #é\\"
BARE = Profile(
    type="bare",
    organs=("store", "registry"),
    capabilities=("ssh",),
    install_pi_vers=False,
    description="",
    category="swarm_vm",
    role="worker",
    agent_role="worker",
    agent=False,
    files=(File("/etc/reef-note", "a $(touch /pwned) note\n", 0o640),),
)
UP = "kill -0 $(cat /opt/reef/run/reef-fleet-agent.pid)"


@pytest.fixture(scope="module")
def root_reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RootStack]:
    with RootStack(tmp_path_factory.mktemp("roof")) as running:
        yield running


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as one:
        yield one


def bare_plan(root_reef: RootStack, vm_id: str, **more: Any) -> BootPlan:
    """Return a plan without agent and reef, which boots within seconds."""
    token = root_reef.issue_join_token(vm_id, name=f"name of {vm_id}"[:200])
    return BootPlan(
        vm_id=vm_id,
        name=f"name of {vm_id}",
        roof_url=root_reef.url,
        join_token=token,
        dist=downloads.current(),
        **{"profile": BARE, **more},
    )


def boot(machine: Machine, plan: BootPlan, **env: str) -> dict[str, Any]:
    """Run a plan's script; return exit status, output, and the identity afterwards."""
    done = machine.run(render.boot_script(plan), 300, **env)
    there = machine.run("cat /opt/reef/identity.json").stdout
    return {
        "status": done.returncode,
        "output": done.stdout,
        "errors": done.stderr,
        "identity": json.loads(there) if there else {},
    }


def reports(root_reef: RootStack, vm_id: str) -> dict[str, dict[str, Any]]:
    found = root_reef.client.get(f"/bootloader/reports/{quote(vm_id, safe='')}").json()["reports"]
    return {each["step"]: each for each in found}


def generated_script(root_reef: RootStack, vm_id: str, type_: str, port: int) -> str:
    """Return a script of the API, with another port for the VM's reef: machines share ports."""
    wish = {"vmId": vm_id, "name": f"a {type_}", "type": type_, "roofReefUrl": root_reef.url}
    answer = root_reef.client.post("/bootloader/generate", json=wish, timeout=120)
    assert answer.status_code == 201, answer.text
    script: str = answer.json()["script"]
    return script.replace("REEF_PORT='3000'", f"REEF_PORT='{port}'")


@pytest.mark.rotated
def test_vm_with_hostile_name_joins_without_side_effects(
    root_reef: RootStack, machine: Machine
) -> None:
    first = boot(machine, bare_plan(root_reef, ODD))

    assert first["status"] == 0, first
    assert first["identity"]["VERS_VM_ID"] == ODD
    assert root_reef.vm(quote(ODD, safe=""))["liveness"] == "live"
    steps = reports(root_reef, ODD)
    assert {name: each["status"] for name, each in steps.items()} == {
        **dict.fromkeys(("identity", "packages", "join", "service", "health"), "ok"),
        **dict.fromkeys(("dns", "agent", "reef"), "skipped"),
    }
    assert all(each["exitStatus"] == 0 and each["durationMs"] >= 0 for each in steps.values())
    ours = {path for path in machine.changed() if not path.startswith("/opt/reef/")}
    assert ours == {"/etc/profile.d/reef.sh", "/etc/reef-note", "/run/thrown"}
    assert machine.output_of(
        "stat -c %a /etc/reef-note /opt/reef /opt/reef/identity.*"
    ).split() == [
        *("640", "700", "600", "600"),
    ]
    assert machine.output_of("cat /etc/reef-note") == "a $(touch /pwned) note"
    # A login shell has the identity of the VM.
    assert machine.output_of("sh -lc 'printf %s \"$VERS_VM_ID\"'") == ODD

    again = boot(machine, bare_plan(root_reef, ODD))

    assert again["status"] == 0, again
    assert "is a member already" in again["output"]
    assert again["identity"] == first["identity"]
    assert machine.output_of("pgrep -fc '^python3 .*fleet_agent.py run'") == "1"


@pytest.mark.rotated
def test_copied_vm_gets_its_own_identity(root_reef: RootStack, machine: Machine) -> None:
    """After a restore or a branch, all files and processes on the disk belong to another VM."""
    boot(machine, bare_plan(root_reef, "parent"))
    parent = machine.output_of("cat /opt/reef/run/reef-fleet-agent.pid")
    machine.put("/etc/profile.d/reef-agent.sh", "export VERS_VM_ID='parent'\nexport OTHER='x'")
    machine.put("/opt/reef/reef/data/root-token", "the parent's")
    machine.output_of("VERS_VM_ID=parent setsid sleep 1000 >/dev/null 2>&1 & mkdir -p /tmp/pi-rpc")

    # An agent of the parent's reef, which outlives the service that started it.
    machine.output_of(
        "mkdir -p /opt/reef/reef/data/lieutenants/ada/workspace; "
        "cd /opt/reef/reef/data/lieutenants/ada/workspace; "
        "setsid sleep 2000 >/dev/null 2>&1 </dev/null &"
    )

    child = boot(machine, bare_plan(root_reef, "child"), VERS_VM_ID="parent")

    assert child["status"] == 0, child
    assert child["identity"]["VERS_VM_ID"] == "child"
    assert machine.run(f"kill -0 {parent}").returncode != 0
    assert machine.run("pgrep -f 'sleep [12]000'").returncode != 0
    assert machine.run("test -e /tmp/pi-rpc || test -e /opt/reef/reef/data").returncode != 0
    assert machine.output_of("cat /opt/reef/inherited/*/reef-data/root-token") == "the parent's"
    assert machine.output_of("cat /etc/profile.d/reef-agent.sh") == "export OTHER='x'"
    assert machine.output_of("sh -lc 'echo $VERS_VM_ID $OTHER'") == "child x"
    assert root_reef.vm("child")["liveness"] == "live"


# A wrong clock for a single machine, which can be set or not.
_DATE = """#!/bin/bash
case " $* " in
  *" -s "*) echo "$@" >>/run/set; exit {set} ;;
  " +%s ") echo $(($(/bin/date +%s) + ({skew}))) ;;
  *) exec /bin/date "$@" ;;
esac
"""


@pytest.mark.rotated
@pytest.mark.parametrize(
    ("skew", "can_set", "words", "then"),
    [
        (-75 * 3600, True, "75 h behind", "the clock was set"),
        (400 * 86400, False, "400 days ahead of", "set the clock as root, for example by: date"),
    ],
)
def test_wrong_clock_is_reported_and_set(
    root_reef: RootStack, machine: Machine, skew: int, can_set: bool, words: str, then: str
) -> None:
    program = _DATE.format(skew=skew, set=0 if can_set else 1)
    machine.put("/usr/local/bin/date", program, 0o755)
    told = boot(machine, bare_plan(root_reef, f"clock-{words[:2]}"))
    assert told["status"] == 0, told
    assert f"this machine's clock is {words} reef's (by the Date of its answer)" in told["output"]
    assert then in told["output"]
    output = reports(root_reef, f"clock-{words[:2]}")["identity"]["output"]
    assert words in output
    assert machine.output_of("grep -c '^-u -s @' /run/set") == "1"


@pytest.mark.rotated
def test_missing_name_servers_are_configured(root_reef: RootStack, machine: Machine) -> None:
    machine.output_of("ln -sf /run/nowhere/resolv.conf /etc/resolv.conf")
    plan = bare_plan(root_reef, "nameless", nameservers=("192.0.2.7", "192.0.2.8"))
    script = render.boot_script(plan).replace(root_reef.url, "http://roof.invalid:1")

    told = machine.run(script, RES_OPTIONS="timeout:1 attempts:1")

    assert told.returncode == 1
    assert "boot failed in step dns: roof.invalid is not found" in told.stderr
    assert machine.output_of("cat /etc/resolv.conf") == "nameserver 192.0.2.7\nnameserver 192.0.2.8"


@pytest.mark.rotated
def test_first_failed_step_ends_the_script_with_a_reason(
    root_reef: RootStack, machine: Machine
) -> None:
    wrong = bare_plan(root_reef, "wrong", profile=_with_package("no-such-package-anywhere"))

    told = boot(machine, wrong)

    assert told["status"] == 1
    reason = "apt-get could not install: no-such-package-anywhere"
    assert told["errors"].splitlines()[-1] == f"boot failed in step packages: {reason}"
    steps = reports(root_reef, "wrong")
    assert list(steps) == ["dns", "identity", "packages"]
    assert (steps["packages"]["status"], steps["packages"]["exitStatus"]) == ("failed", 1)
    assert steps["packages"]["output"].strip().endswith(reason)
    # With the cause removed, the same script succeeds.
    assert boot(machine, bare_plan(root_reef, "wrong"))["status"] == 0


def test_script_for_another_machine_is_rejected(root_reef: RootStack, machine: Machine) -> None:
    machine.put("/etc/vm_id", "machine-2")

    told = boot(machine, bare_plan(root_reef, "one", machine_id="machine-1"))

    assert told["status"] == 1
    assert "this is VM machine-2, and the script was made for VM machine-1" in told["errors"]
    assert told["identity"] == {}


@pytest.mark.rotated
def test_used_join_token_is_rejected(root_reef: RootStack) -> None:
    plan = bare_plan(root_reef, "once")
    with Machine() as one:
        assert boot(one, plan)["status"] == 0
    with Machine() as other:
        told = boot(other, plan)

    assert told["status"] == 1
    assert "boot failed in step join" in told["errors"]
    assert "this join token was used at" in told["errors"]
    assert "VERS_AUTH_TOKEN" not in told["identity"]


def test_file_with_wrong_digest_is_not_run(root_reef: RootStack, machine: Machine) -> None:
    plan = bare_plan(root_reef, "changed")
    script = render.boot_script(plan).replace(downloads.current().agent_sha256, "0" * 64)

    told = machine.run(script)

    assert told.returncode == 1
    assert "has another SHA-256 than this script says" in told.stderr
    assert machine.run("test -e /opt/reef/fleet_agent.py").returncode != 0


def test_python_replaces_missing_curl(root_reef: RootStack, machine: Machine) -> None:
    machine.output_of("rm -f $(type -ap curl)")

    told = boot(machine, bare_plan(root_reef, "no-curl"))

    assert told["status"] == 0, told
    assert reports(root_reef, "no-curl")["health"]["status"] == "ok"


def test_user_without_root_installs_below_home(root_reef: RootStack, machine: Machine) -> None:
    home = "/var/tmp/somebody"
    machine.output_of(f"mkdir {home} && chown 4711:4711 {home}")
    script = render.boot_script(
        bare_plan(
            root_reef, "rootless", profile=replace(BARE, files=()), authorized_keys=("ssh-x A b",)
        )
    )
    machine.put(f"{home}/boot.sh", script, 0o644)
    own = "setpriv --reuid=4711 --regid=4711 --clear-groups bash"

    told = machine.run(f"cd / && {own} {home}/boot.sh", 300, HOME=home)

    assert told.returncode == 0, told.stdout + told.stderr
    assert root_reef.vm("rootless")["liveness"] == "live"
    assert machine.output_of(f"stat -c '%a %u' {home}/.reef/identity.json") == "600 4711"
    assert machine.output_of(f"cat {home}/.ssh/authorized_keys") == "ssh-x A b"
    changed = {path for path in machine.changed() if not path.startswith(f"{home}/")}
    assert changed == {"/run/thrown"}
    script = script.replace("PACKAGES=()", "PACKAGES=('no-such-package')")
    machine.put(f"{home}/boot.sh", script, 0o644)
    told = machine.run(f"cd / && {own} {home}/boot.sh", 300, HOME=home)
    assert "without root these cannot be installed: no-such-package" in told.stderr


def test_systemd_units_are_installed(root_reef: RootStack, machine: Machine) -> None:
    machine.output_of("mkdir -p /run/systemd/system")
    machine.put("/usr/local/bin/systemctl", _SYSTEMCTL, 0o755)

    told = boot(machine, bare_plan(root_reef, "united"))

    assert told["status"] == 0, told
    assert "reef-fleet-agent runs as a systemd unit" in told["output"]
    calls = machine.output_of("cat /run/calls").splitlines()
    assert calls == [
        *("daemon-reload", "enable --quiet reef-fleet-agent.service"),
        "restart reef-fleet-agent.service",
    ]
    unit = machine.output_of("cat /etc/systemd/system/reef-fleet-agent.service")
    assert '"/opt/reef/fleet_agent.py" run --home "/opt/reef"' in unit
    assert machine.run("test -e /opt/reef/run/reef-fleet-agent.pid").returncode != 0


def test_script_without_identity_reads_it_from_the_environment(
    root_reef: RootStack, machine: Machine
) -> None:
    told = root_reef.client.get("/bootloader/script/lightweight", timeout=120)
    assert told.headers["content-type"] == "text/x-shellscript"
    token = root_reef.env["VERS_AUTH_TOKEN"]
    assert token not in told.text
    script = told.text.replace("WANT_AGENT='yes'", "WANT_AGENT='no'")
    script = script.replace("ROOF_URL='http://127.0.0.1:3000'", f"ROOF_URL='{root_reef.url}'")

    nobody = machine.run(script)
    assert "VERS_VM_ID is not set" in nobody.stderr
    stranger = machine.run(script, VERS_VM_ID="fromenv")
    assert "neither REEF_JOIN_TOKEN nor VERS_AUTH_TOKEN is set" in stranger.stderr
    member = machine.run(
        script, VERS_VM_ID="fromenv", VERS_AGENT_NAME="From Env", VERS_AUTH_TOKEN=token
    )

    assert member.returncode == 0, member.stderr
    assert root_reef.vm("fromenv")["name"] == "From Env"
    # The join token is not left on the VM.
    assert machine.run(f"grep -rlF '{token}' /opt/reef").stdout == ""


@pytest.mark.parametrize("without", ["", "curl"])
def test_loader_downloads_and_verifies_the_script(
    root_reef: RootStack, machine: Machine, without: str
) -> None:
    wish = {
        "vmId": f"loaded{without}",
        "name": "l",
        "type": "lightweight",
        "roofReefUrl": root_reef.url,
    }
    answer = root_reef.client.post("/bootloader/cloud-init?form=json", json=wish, timeout=120)
    config = yaml.safe_load(answer.json()["userData"])
    script = config["write_files"][-1]["content"].replace("WANT_AGENT='yes'", "WANT_AGENT='no'")
    if without:
        machine.output_of(f"rm -f $(type -ap {without})")
    (run,) = config["runcmd"]
    wrong = script.replace("BODY_SHA256='", "BODY_SHA256='0")
    machine.put(cloud_init.SCRIPT, wrong, 0o700)
    machine.run(run[2])
    log = machine.output_of(f"cat {cloud_init.LOG}")
    assert "has another SHA-256 than this loader says" in log
    assert root_reef.vm(wish["vmId"]) == {}

    machine.put(cloud_init.SCRIPT, script, 0o700)
    told = machine.run(run[2])

    assert told.returncode == 0, machine.output_of(f"cat {cloud_init.LOG}")
    assert root_reef.vm(wish["vmId"])["liveness"] == "live"
    assert machine.run(f"test -e {cloud_init.FOLDER}").returncode != 0
    token = answer.json()["joinToken"]
    assert machine.run(f"grep -rlF '{token}' /opt/reef /var/lib/reef-boot").stdout == ""


@pytest.mark.agent
@pytest.mark.thorough  # test_provision_profiles covers this profile completely
@pytest.mark.parametrize("type_", ["full", "swarm", "lightweight", "infra"])
def test_every_profile_boots_successfully(
    root_reef: RootStack, machine: Machine, type_: str
) -> None:
    port = free_port()

    told = machine.run(generated_script(root_reef, f"real-{type_}", type_, port), timeout=500)

    assert told.returncode == 0, told.stdout[-2000:] + told.stderr
    vm = root_reef.vm(f"real-{type_}")
    assert vm["liveness"] == "live"
    steps = reports(root_reef, f"real-{type_}")
    own = type_ in ("full", "infra")
    assert steps["reef"]["status"] == ("ok" if own else "skipped")
    assert "the agent is 1.6.0" in steps["health"]["output"]
    if own:
        health = json.loads(machine.output_of(f"curl -s http://127.0.0.1:{port}/health"))
        ours = {"lieutenant", "registry", "vm-tree", "vers-config"} if type_ == "full" else set()
        assert set(health["services"]) - {"ui"} == ours


def _with_package(name: str) -> Profile:
    return replace(BARE, packages=(name,))


_SYSTEMCTL = """#!/bin/bash
echo "$@" >>/run/calls
[ "$1" = restart ] || exit 0
line=$(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$2")
eval "setsid $line" </dev/null >/run/unit.log 2>&1 9>&- &
"""


@pytest.mark.agent
@pytest.mark.thorough  # covered there as well
def test_agent_on_vm_uses_the_fleets_model_endpoint(
    root_reef: RootStack, machine: Machine, stub: StubLLM
) -> None:
    profile = replace(BARE, agent=True)
    env = {
        "REEF_MODEL_URL": stub.base_url,
        "REEF_AGENT_MODEL": "ours/echo",
        "OPENAI_API_KEY": "a-key-for-tests",
    }
    machine.put("/root/.pi/agent/models.json", '{"providers": {"mine": {}}, "more": 1}', 0o600)

    told = boot(machine, bare_plan(root_reef, "answering", profile=profile, env=env))

    assert told["status"] == 0, told
    models = json.loads(machine.output_of("cat /root/.pi/agent/models.json"))
    assert list(models["providers"]) == ["mine", "ours"]
    assert models["more"] == 1
    assert "a-key-for-tests" not in json.dumps(models)
    output = machine.output_of(
        ". /opt/reef/identity.env; cd /tmp; "
        "PI_OFFLINE=1 /opt/reef/bin/pi -p --no-session --model $REEF_AGENT_MODEL 'are you there'"
    )
    assert "are you there" in output
    assert stub.requests[-1]["key"] == "a-key-for-tests"


@pytest.mark.thorough
@pytest.mark.agent
def test_missing_npm_and_node_are_installed(root_reef: RootStack, machine: Machine) -> None:
    machine.output_of(
        "rm -rf $(type -ap node npm npx) /usr/lib/node_modules /usr/local/lib/node_modules"
    )
    assert machine.run("command -v node npm").returncode != 0

    told = machine.run(generated_script(root_reef, "nodeless", "lightweight", 3000), timeout=500)

    assert told.returncode == 0, told.stdout[-2000:] + told.stderr
    assert "fetching npm 11.21.2" in told.stdout
    assert "the agent is 1.6.0" in told.stdout
    assert machine.output_of("ls /opt/reef/npm") == "22.23.3-11.21.2"
