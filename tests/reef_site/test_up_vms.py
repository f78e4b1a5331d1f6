"""`up --demo` with emulated VMs: they reach the root, pages mark them, nothing is left."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.urls import reverse

from bootloader.models import Finding
from reef_site.demo import vms
from reef_site.demo.platform import processes
from reef_site.demo.vms import NoDemoVms
from tests.reef_site.test_up import Up
from tests.waiting import until


@pytest.fixture
def short_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a data folder with short paths for sockets."""
    folder = Path("/tmp") / f"reef-up-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def list_interfaces() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


def ask(emulator: httpx.Client, vm_id: str, url: str) -> str:
    """Return the status that a VM gets from an address."""
    command = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", url]
    done: dict[str, Any] = emulator.post(f"/vm/{vm_id}/exec", json={"command": command}).json()
    status: str = done["stdout"]
    return status


@pytest.mark.rotated
def test_demo_vms_reach_the_root(short_folder: Path) -> None:
    up = Up(short_folder)
    running = up.start("--demo")
    try:
        if any("no demo VMs" in line for line in running.lines):
            pytest.skip("this machine cannot run them")
        running.wait_for("emulator at")
        token = (short_folder / "root-token").read_text().strip()
        reef = httpx.Client(
            base_url=f"http://127.0.0.1:{up.port}", headers={"authorization": f"Bearer {token}"}
        )
        # The processes of reef use the emulator like the real platform.
        names = ("VERS_BASE_URL", "VERS_API_KEY", "VERS_INFRA_URL")
        answers = [reef.get(f"/vers-config/resolve/{name}").json() for name in names]
        config = {answer["key"]: answer["value"] for answer in answers}
        emulator = httpx.Client(
            base_url=f"{config['VERS_BASE_URL']}/api/v1",
            headers={"authorization": f"Bearer {config['VERS_API_KEY']}"},
            timeout=60,
        )
        new: dict[str, Any] = {"vm_config": {}}
        vm_id = emulator.post("/vm/new_root?wait_boot=true", json=new).json()["vm_id"]

        # A VM reaches the root, which listens only on the loopback, and the demo model.
        assert ask(emulator, vm_id, f"{config['VERS_INFRA_URL']}/health") == "200"
        assert ask(emulator, vm_id, f"{config['VERS_INFRA_URL']}/registry/vms") == "401"
        model = config["VERS_INFRA_URL"].rpartition(":")[0]
        until(lambda: ask(emulator, vm_id, f"{model}:{vms.MODEL_PORT}/v1/models") == "200")

        mark = (short_folder / "emulator" / "tag").read_text()
        assert mark in list_interfaces()
    finally:
        took = running.end()
    assert took < 10
    assert mark not in list_interfaces()
    assert not list((short_folder / "emulator").glob("vms/*"))


def test_pages_say_that_vms_are_emulated(client: Any, admin_user: Any, settings: Any) -> None:
    client.force_login(admin_user)
    settings.DEMO = settings.EMULATED_VMS = True
    assert b"VMs are simulated" in client.get(reverse("bootloader:index")).content
    settings.EMULATED_VMS = False
    assert b"VMs are simulated" not in client.get(reverse("bootloader:index")).content


def test_findings_say_that_vms_ended_with_an_earlier_demo(
    client: Any, admin_user: Any, settings: Any
) -> None:
    Finding.objects.create(
        provider="vers", kind="vanished", machine_id="m-1", text="it is gone", proposal="bury"
    )
    client.force_login(admin_user)
    words = b"this one is from an earlier start"
    for settings.EMULATED_VMS in (True, False):
        page = client.get(reverse("bootloader:findings")).content
        assert (words in page) == settings.EMULATED_VMS


def test_configured_platform_disables_demo_vms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERS_API_KEY", "mine")
    found = vms.prepare(tmp_path, 3000, on_loopback=True)
    assert found == NoDemoVms("VERS_API_KEY is set", is_configured=True)
    assert found.environment == {}


def test_demo_reports_why_emulator_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VERS_API_KEY", raising=False)
    monkeypatch.delenv("VERS_BASE_URL", raising=False)
    (tmp_path / "emulator").write_text("in the way")
    found = vms.prepare(tmp_path, 3000, on_loopback=True)
    assert isinstance(found, NoDemoVms)
    assert "emulator" in found.reason
    # A key that is stored for real work is not used instead.
    assert found.environment["REEF_NO_VMS"].startswith("this demo has no VMs (")


def test_start_waits_for_earlier_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERS_API_KEY", raising=False)
    monkeypatch.delenv("VERS_BASE_URL", raising=False)
    folder = tmp_path / "emulator"
    folder.mkdir()
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    told: list[str] = []

    def report(line: str) -> None:
        told.append(line)
        lock.close()

    found = vms.prepare(tmp_path, 3000, on_loopback=True, report=report)

    assert told == ["waiting for the emulator of an earlier demo, which still clears up"]
    assert "already runs" not in getattr(found, "why", "")


def test_leftover_disks_do_not_delay_the_start(tmp_path: Path) -> None:
    disks = tmp_path / "vms"
    for number in range(15):
        (disks / str(number) / "disk").mkdir(parents=True)
    (tmp_path / "vms.old-0000").mkdir()

    processes.remove_in_background(disks)

    assert not disks.exists()
    until(lambda: not list(tmp_path.iterdir()))
