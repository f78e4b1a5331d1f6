"""Hostile texts through every field of a boot: they come out as they went in, and nothing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bootloader.boot import cloud_init, render
from bootloader.boot.plan import BootPlan, File, Profile
from reef_site.common.errors import BadInput
from tests.bootloader.hostile_texts import CANARY, VALUES

pytestmark = pytest.mark.timeout(900)

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
RUNS = 25
THOROUGH = pytest.mark.thorough
PORT = "http://127.0.0.1:9/"
SHOWN = (
    *(
        "VM_ID",
        "NAME",
        "PARENT_ID",
        "ADDRESS",
        "JOIN_TOKEN",
        "ROOF_URL",
        "SSH_DOMAIN",
        "MACHINE_ID",
    ),
    *("RUN", "PROFILE", "NPM_REGISTRY", "NPM_SOURCE", "PYPI_INDEX", "APT_MIRROR", "AGENT_VERSION"),
)

NAMES = (
    *(*SHOWN, "ORGANS", "WANT_AGENT", "OWN_REEF", "REEF_PORT", "WHEEL", "WHEEL_SHA256", "LOCK"),
    *("LOCK_SHA256", "FLEET_AGENT", "FLEET_AGENT_SHA256", "NAMESERVERS", "AUTHORIZED_KEYS"),
    *("PACKAGES", "FILES", "IDENTITY", "REEF_ENV"),
)


def plan_of(vm_id: str, name: str, organ: str, url: str, **more: object) -> BootPlan:
    """Return a plan with nothing to install, so that it runs quickly."""
    profile = Profile(
        type="bare",
        organs=(organ, "store"),
        capabilities=(organ,),
        install_pi_vers=False,
        description="",
        category="swarm_vm",
        role="worker",
        agent_role="worker",
        agent=False,
        files=(File("notes/a file.txt", name, 0o600),),
    )
    return BootPlan(vm_id=vm_id, name=name, profile=profile, roof_url=url, **more)  # type: ignore[arg-type]


def plan_filled_with(value: str) -> BootPlan:
    """Return a plan that has this value in every text field."""
    return plan_of(
        value,
        value,
        value,
        PORT + value,
        parent_vm_id=value,
        address=value,
        join_token=value,
        ssh_domain=value,
        machine_id=value,
        run=value,
        agent_version=value,
        npm_registry=value,
        npm_source=value,
        pypi_index=value,
        apt_mirror=value,
        authorized_keys=(value,),
        nameservers=(value,),
        env={"SOME_KEY": value},
    )


def header_of(plan: BootPlan) -> str:
    """Return the part of the script that depends on the plan."""
    return render.boot_script(plan).partition(render.body())[0]


def bash(text: str, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", *words], input=text.encode(), capture_output=True, **options)  # type: ignore[call-overload, no-any-return]


def test_there_are_two_hundred_hostile_texts() -> None:
    assert len(set(VALUES)) == len(VALUES) == 200
    assert any(len(value.encode()) >= 10_240 for value in VALUES)


@pytest.mark.rotated
def test_every_script_parses() -> None:
    for value in VALUES:
        result = bash(render.boot_script(plan_filled_with(value)), "-n")
        assert (result.returncode, result.stderr) == (0, b""), value


def test_shellcheck_passes(tmp_path: Path) -> None:
    """Check all headers, but only a few complete scripts, because their bodies are identical."""
    for number, value in enumerate(VALUES):
        script = render.boot_script(plan_filled_with(value))
        text = (
            script
            if number % 67 == 0
            else f"{header_of(plan_filled_with(value))}\nexport {' '.join(NAMES)}\n"
        )
        (tmp_path / f"{number}.sh").write_text(text)

    result = subprocess.run(
        [str(SHELLCHECK), *map(str, tmp_path.glob("*.sh"))], capture_output=True, text=True
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_bash_reads_every_value_unchanged(tmp_path: Path) -> None:
    lists = ("NAMESERVERS", "AUTHORIZED_KEYS", "FILES", "IDENTITY", "REEF_ENV")
    show = "\n".join(
        [
            *(f"printf '%s\\0' \"${name}\"" for name in SHOWN),
            *(f"printf '%s\\0' \"${{{name}[@]}}\"" for name in lists),
        ]
    )
    for value in VALUES:
        plan = plan_filled_with(value)
        result = bash(f"{header_of(plan)}\n{show}\n", cwd=tmp_path)

        seen = result.stdout.decode().split("\0")[:-1]
        assert seen[: len(SHOWN)] == [
            *(value, value, value, value, value, plan.roof_url.rstrip("/"), value, value),
            *(value, "bare", value, value, value, value, value),
        ], value
        rest = seen[len(SHOWN) :]
        assert rest[:2] == [value, value]
        assert rest[2:5] == ["notes/a file.txt", "600", value]
        pairs = dict(zip(rest[5::2], rest[6::2], strict=True))
        assert pairs["SOME_KEY"] == value
        assert pairs["REEF_CAPABILITIES"] == value
        assert result.stderr == b""
    assert not list(tmp_path.iterdir())


@pytest.mark.rotated
@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=THOROUGH) for n in (1, 2))])
def test_scripts_execute_no_part_of_a_value(tmp_path: Path, first: int) -> None:
    """Run scripts with hostile texts as name, id, organ and URL."""
    quarter = len(VALUES) // 4
    for number in range(first, RUNS, 3):
        one, two, three, four = (VALUES[number + part * quarter] for part in range(4))
        for turn, values in enumerate(_orders(number, [one, two, three, four])):
            run_and_check_files(tmp_path / f"{number}-{turn}", *values)


def _orders(number: int, values: list[str]) -> list[list[str]]:
    """Return all four orders for the first values, one order for the others."""
    orders = [values[turn:] + values[:turn] for turn in range(4)]
    return orders if number < 3 else [orders[number % 4]]


def run_and_check_files(root: Path, vm_id: str, name: str, organ: str, url: str) -> None:
    """Run a script in a separate folder and check that it wrote only the expected files."""
    for folder in (root, root / "home", root / "here"):
        folder.mkdir()
    plan = plan_of(vm_id, name, organ, PORT + url, join_token="reefjoin_x", env={"A_KEY": organ})
    env = {"PATH": os.environ["PATH"], "HOME": str(root / "home"), "REEF_HOME": str(root / "reef")}

    result = bash(render.boot_script(plan), cwd=root / "here", env=env, timeout=60)

    assert result.returncode == 1
    assert result.stderr.endswith(
        b"boot failed in step join: this script was made without the files of the roof\n"
    )
    files = {str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()}
    logs = {
        f"reef/boot/{step}.log" for step in ("dns", "identity", "packages", "agent", "reef", "join")
    }
    kept = {name for name in files if name.startswith("reef/boot/reports/")}
    assert files - logs - kept == {
        *("reef/identity.json", "reef/identity.env", "reef/notes/a file.txt"),
        *("reef/boot/auth", "reef/boot/http.err", "reef/boot/lock", "reef/boot/vm_id"),
    }
    assert CANARY not in {each.name for each in root.rglob("*")}
    check_identity(root, plan)
    assert [json.loads((root / each).read_text()) for each in sorted(kept)]


def check_identity(root: Path, plan: BootPlan) -> None:
    """Check that JSON readers and shells read the plan's identity from the files."""
    for name in ("identity.json", "identity.env"):
        assert (root / "reef" / name).stat().st_mode & 0o777 == 0o600
    identity = json.loads((root / "reef/identity.json").read_text())
    assert identity == {**plan.identity(), "VERS_INFRA_URL": plan.roof_url}
    for shell in ("sh", "bash"):
        result = subprocess.run(
            [shell, "-c", '. "$1"; env -0', "sh", str(root / "reef/identity.env")],
            cwd=root / "here",
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
        )
        seen = dict(each.split("=", 1) for each in result.stdout.decode().split("\0") if each)
        for key, value in identity.items():
            wanted = value.rstrip("\n") if "\n" in value else value
            assert seen[key] == wanted, (shell, key)
    assert not list((root / "here").iterdir())


@pytest.mark.rotated
def test_yaml_loads_back_to_the_same_values() -> None:
    for value in VALUES:
        plan = plan_filled_with(value)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = cloud_init.user_data(plan)
        assert text.startswith("#cloud-config\n")
        result = yaml.load(text, loader)
        script = result["write_files"][-1]
        assert script["content"] == render.boot_script(_without_keys(plan))
        assert script["permissions"] == "0700"
        assert result["users"][1]["ssh_authorized_keys"] == [value]
        assert result["apt"]["primary"][0]["uri"] == value
        about = yaml.safe_load(cloud_init.meta_data(plan))
        assert about["reef"]["vm_id"] == about["reef"]["name"] == value


def _without_keys(plan: BootPlan) -> BootPlan:
    return replace(plan, authorized_keys=())


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff"])
def test_unusable_texts_are_rejected(text: str) -> None:
    with pytest.raises(BadInput):
        render.boot_script(plan_filled_with(text))
    with pytest.raises(BadInput):
        cloud_init.user_data(plan_filled_with(text))


def test_invalid_variable_name_is_rejected() -> None:
    for name in ("A B", "1A", "A;touch x", "A=B", "", "A[$(touch x)]"):
        with pytest.raises(BadInput):
            render.boot_script(plan_of("v", "n", "o", PORT, env={name: "x"}))
