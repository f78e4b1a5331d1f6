"""A provisioning ends at its limit, whatever its steps see; a real sshd plays the machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from bootloader.models import BootStep, OwnProfile, Provisioning, SshHost
from bootloader.provisioning import rendering, runner, services, steps
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.states import State, StepName
from reef_site.common import clock
from tests.bootloader.ssh_servers import Sshd
from tests.dispatching import drop_tasks
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)
# Prints faster than the checks read it.
FLOOD = "while :; do yes | head -c 400000; sleep 0.02; done"


@pytest.fixture
def serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Provisioning]]:
    """Start provisioning on a host that runs `after` behind each command; return the row."""
    drop_tasks(monkeypatch, "bootloader.")
    monkeypatch.setenv("REEF_BOOT_SECONDS", "10")
    home, servers = tmp_path / "home", []
    home.mkdir()

    def begin(after: str) -> Provisioning:
        force = f'HOME={home}; export HOME; eval "$SSH_ORIGINAL_COMMAND"; {after}'
        server = Sshd(tmp_path / "sshd", ForceCommand=force)
        servers.append(server)
        OwnProfile.objects.create(
            type="bare", organs=["store"], capabilities=[], agent=False, description="for tests",
            category="swarm_vm", role="worker", agent_role="bare",
        )  # fmt: skip
        host = SshHost(name="one", address="127.0.0.1", port=server.port, user=server.login().user)
        host.set_key(server.key)
        host.save()
        row = services.start(ProvisionRequest("vm", "bare", provider="ssh"), by="tests").rows[0]
        row.move(State.RUNNING)
        return row

    yield begin
    for server in servers:
        server.stop()
    for pid in home.glob(".reef-boot/*/run-*/pid"):
        with suppress(ProcessLookupError, ValueError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def wait_for_failure(row: Provisioning, seconds: float = 40) -> str:
    """Advance the provisioning as a worker does until it has failed, and return the reason."""

    def failed() -> bool:
        runner.advance(row.pk)
        row.refresh_from_db()
        return row.state == State.FAILED

    until(failed, seconds)
    return row.reason


@pytest.mark.rotated
def test_script_that_never_reports_an_end_times_out(
    serve: Callable[[str], Provisioning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MAX_STARTS", 10_000)
    monkeypatch.setattr(rendering, "render_real", lambda *_: "sleep 600\n")
    row = serve("rm -rf $HOME/.reef-boot/*/run-*")
    assert "did not end within 10 s (REEF_BOOT_SECONDS)" in wait_for_failure(row)


def test_script_is_started_a_limited_number_of_times(
    serve: Callable[[str], Provisioning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_BOOT_SECONDS", "900")
    monkeypatch.setattr(steps, "MAX_STARTS", 4)
    monkeypatch.setattr(rendering, "render_real", lambda *_: "sleep 600\n")
    row = serve("rm -rf $HOME/.reef-boot/*/run-*")
    assert "started 4 times, and nothing came of it" in wait_for_failure(row)


@pytest.mark.rotated
def test_script_that_prints_endlessly_times_out(
    serve: Callable[[str], Provisioning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MAX_OUTPUT_BYTES", 100_000)
    monkeypatch.setattr(rendering, "render_real", lambda *_: FLOOD)
    row = serve(":")
    assert "did not end within 10 s (REEF_BOOT_SECONDS)" in wait_for_failure(row)
    kept = sum(len(line.text) for line in row.log.all())
    assert kept < 200_000, "a flood is not kept whole"


def test_step_that_never_finishes_times_out(
    serve: Callable[[str], Provisioning], monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(context: steps.Context, step: BootStep) -> steps.CheckAgain:
        return steps.CheckAgain(0.0, "the VM thinks about it")

    monkeypatch.setattr(rendering, "render_real", lambda *_: "true\n")
    row = serve(":")
    for name in set(StepName) - {StepName.RUN}:
        monkeypatch.setitem(steps.STEP_FUNCTIONS, name, later)
    runner.advance(row.pk)
    long_ago = clock.now() - timedelta(hours=1)
    Provisioning.objects.filter(pk=row.pk).update(leased_until=None)
    BootStep.objects.filter(provisioning=row, name=StepName.RESOLVE).update(started_at=long_ago)
    assert "did not end within 10 minutes: the VM thinks about it" in wait_for_failure(row)
