"""A machine at the end of an SSH connection: a real sshd with a home of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootloader.models import SshHost
from lieutenants.models import Lieutenant
from lieutenants.supervision.transports.ssh.transport import links
from tests.bootloader.ssh_servers import Sshd
from tests.conftest import Fleet
from tests.lieutenants.remote.lines import Line
from tests.waiting import until


@dataclass
class Site:
    """A registered SSH host behind a line that can be cut. `home` is the login's home."""

    fleet: Fleet
    sshd: Sshd
    line: Line
    host: SshHost
    home: Path

    def create(self, name: str, command: list[str] | None = None, **fields: Any) -> dict[str, Any]:
        """Create a lieutenant on the host, by default one of the agent `command`."""
        if command:
            fields |= {"agent": "command", "command": command}
        return self.fleet.create(name, local=False, sshHost=self.host.name, **fields)

    def folder(self, name: str) -> Path:
        """Return the lieutenant's own folder on the machine."""
        return self.agents / "lieutenants" / self.fleet.row(name).pk

    @property
    def agents(self) -> Path:
        """Return the folder of all lieutenants on the machine."""
        return self.home / ".reef-agents"


@pytest.fixture(scope="session")
def far_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sshd, Path]]:
    """Start a real sshd whose sessions have a home of their own."""
    folder = tmp_path_factory.mktemp("far")
    home = folder / "home"
    home.mkdir()
    server = Sshd(folder, SetEnv=f"HOME={home}")
    yield server, home
    server.stop()


@pytest.fixture
def site(fleet: Fleet, far_sshd: tuple[Sshd, Path]) -> Iterator[Site]:
    sshd, home = far_sshd
    shutil.rmtree(home / ".reef-agents", ignore_errors=True)
    line = Line(sshd.port)
    host = SshHost(name="far", address="127.0.0.1", port=line.port, user=sshd.login().user)
    host.set_key(sshd.key)
    host.save()
    yield Site(fleet, sshd, line, host, home)
    line.flow()
    if not fleet.thread.is_alive():  # the test stopped it, and failed
        fleet.restart_follower()
    for row in Lieutenant.objects.active():
        fleet.api.delete(f"/lieutenant/lieutenants/{row.name}?wait=0")
    until(lambda: not Lieutenant.objects.filter(has_remote_files=True).exists(), 30)
    fleet.stop_follower()
    links.close_all()
    line.close()
    fleet.restart_follower()
