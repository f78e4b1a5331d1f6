"""The systemd units that reef writes leave agents alone when a service restarts or runs short."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bootloader.boot import catalog
from tests.bootloader.root_stack import AGENT
from tests.conftest import Api
from tests.stack import ROOT


def service_of(unit: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    return dict(parser["Service"])


def does_not_stop_agents(unit: str) -> bool:
    service = service_of(unit)
    kept = (service.get("KillMode"), service.get("OOMPolicy")) == ("process", "continue")
    return kept and int(service.get("TasksMax", "0")) > 0


@pytest.mark.django_db
@pytest.mark.parametrize("profile", list(catalog.BUILT_IN))
def test_every_profile_has_a_unit_for_its_reef(api: Api, profile: str) -> None:
    script = api.get(f"/bootloader/script/{profile}").content.decode()
    found = re.search(r"^own_reef_unit\(\) \{\n.*?^\}$", script, re.M | re.S)
    assert found
    program = f"HOME=/root REEF_HOME=/opt/reef\n{found[0]}\nown_reef_unit"
    unit = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert does_not_stop_agents(unit.stdout), unit.stdout


def test_unit_of_the_fleet_agent_keeps_agents_running(tmp_path: Path) -> None:
    words_ = [sys.executable, str(AGENT), "unit", "--home", str(tmp_path)]
    unit = subprocess.run(words_, capture_output=True, text=True, check=True).stdout
    assert does_not_stop_agents(unit), unit


def test_documented_units_match_the_code() -> None:
    page = (ROOT / "reef_site" / "docs" / "operations.md").read_text()
    blocks = re.findall(r"```\n(KillMode=.*?)```", page, re.S)
    assert blocks
    assert all(does_not_stop_agents(f"[Service]\n{block}") for block in blocks)
