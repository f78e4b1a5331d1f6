"""Connections to machines of all kinds: noisy, without Python, full, refusing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from bootloader.providers.base import Login
from bootloader.providers.ssh import shell
from bootloader.providers.ssh.protocol import Shell
from lieutenants.exceptions import NotConnected, TransportError
from lieutenants.supervision.transports.ssh.link import Link
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.pump import LOGINS_AT_ONCE, RETRIES_AT_ONCE, Pump
from tests.bootloader.login_shells import ACCOUNTS, Accounts
from tests.bootloader.overlay_machine import is_supported
from tests.bootloader.ssh_servers import Sshd, free_port, keygen
from tests.lieutenants.remote.bad_servers import BadServer
from tests.lieutenants.remote.lines import Line
from tests.waiting import until

needs_root = pytest.mark.skipif(not is_supported(), reason="needs root for a machine of its own")


@dataclass(frozen=True)
class Direct(Place):
    """A place that is known by its login alone."""

    way: Login | None = None

    def connect(self, timeout: float) -> Shell:
        assert self.way
        return shell.connect(self.way, timeout)


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    with Accounts(tmp_path_factory.mktemp("accounts")) as running:
        yield running


@pytest.fixture
def pump() -> Pump:
    return Pump()


def runs(link: Link) -> object:
    link.wait_until_open(20, force=True)
    return link.ask({"op": "list"})["runs"]


@needs_root
@pytest.mark.parametrize("account", [each for each in ACCOUNTS if each.runs_scripts], ids=str)
def test_noise_of_login_shells_disturbs_nothing(
    accounts: Accounts, pump: Pump, account: object
) -> None:
    name = getattr(account, "name", "")
    link = Link(Direct(way=accounts.login(name)), pump)
    assert runs(link) == []
    link.install()
    session = link.session
    assert session is not None
    assert session.facts["home"] == f"/home/{name}"
    link.close()


@needs_root
@pytest.mark.parametrize(
    ("name", "says"), [("refuses", "This account is currently not available"), ("told", "Ask Anna")]
)
def test_account_without_a_shell_is_named(
    accounts: Accounts, pump: Pump, name: str, says: str
) -> None:
    link = Link(Direct(way=accounts.login(name)), pump)
    with pytest.raises(NotConnected, match=says):
        runs(link)
    link.close()


@needs_root
def test_full_disk_is_named(accounts: Accounts, pump: Pump) -> None:
    folder = "/home/plain/.reef-agents"
    accounts.machine.output_of(
        f"rm -rf {folder}; mkdir {folder}; mount -t tmpfs -o size=16k tmpfs {folder}; "
        f"chown plain: {folder}"
    )
    link = Link(Direct(way=accounts.login("plain")), pump)
    assert runs(link) == []
    with pytest.raises(TransportError, match=r"cannot write .*: No space left on device"):
        link.install()
    link.close()
    accounts.machine.output_of(f"umount {folder}")


@needs_root
def test_machine_without_python_is_named(accounts: Accounts, pump: Pump) -> None:
    accounts.machine.output_of("cd /usr/bin; for each in python3*; do mv $each no-$each; done")
    try:
        link = Link(Direct(way=accounts.login("plain")), pump)
        with pytest.raises(NotConnected, match="The machine has no python3, which agents need"):
            runs(link)
        link.close()
    finally:
        accounts.machine.output_of(
            "cd /usr/bin; for each in no-python3*; do mv $each ${each#no-}; done"
        )


def test_one_session_is_enough(tmp_path: Path, pump: Pump) -> None:
    server = Sshd(tmp_path, MaxSessions="1", SetEnv=f"HOME={tmp_path}")
    link = Link(Direct(way=server.login()), pump)
    assert runs(link) == []
    link.install()
    link.close()
    server.stop()


def test_lost_server_is_found_again(tmp_path: Path, pump: Pump) -> None:
    server = Sshd(tmp_path, SetEnv=f"HOME={tmp_path}")
    link = Link(Direct(way=server.login()), pump)
    assert runs(link) == []
    assert link.trouble() == ""
    server.stop()
    until(link.trouble)
    server.start()
    link.follow("~/x", 0)
    until(lambda: not link.trouble(), 30)
    assert link.ask({"op": "list"})["runs"] == []
    link.close()
    server.stop()


@pytest.mark.rotated
@pytest.mark.parametrize("tries", [60, pytest.param(1000, marks=pytest.mark.thorough)])
@pytest.mark.timeout(900)
def test_many_failures_leave_nothing_behind(
    tmp_path: Path, pump: Pump, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    monkeypatch.setattr("lieutenants.supervision.transports.ssh.session.LOGIN_SECONDS", 0.5)
    key = keygen(tmp_path / "key")
    server = BadServer()
    bad = Link(Direct(way=Login("127.0.0.1", server.port, "nobody", key)), pump)
    closed = Link(Direct(way=Login("127.0.0.1", free_port(), "nobody", key)), pump)
    said = {_why_not(bad) for _ in range(18)} | {_why_not(closed) for _ in range(2)}
    for text in ("hung up before", "did not answer", "ended the connection", "Connection refused"):
        assert any(text in each for each in said), said
    until(lambda: _paramiko_threads() == 0)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(tries):
        _why_not(closed if number % 10 == 0 else bad)
    assert server.connections >= 18 + tries * 0.9
    until(lambda: _paramiko_threads() == 0)
    # The pool of logins may have got its last threads meanwhile.
    assert threading.active_count() <= threads + LOGINS_AT_ONCE + RETRIES_AT_ONCE
    until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    bad.close()
    closed.close()
    server.close()


def _why_not(link: Link) -> str:
    with pytest.raises(NotConnected) as refused:
        link.wait_until_open(10, force=True)
    return str(refused.value)


def _paramiko_threads() -> int:
    return sum(isinstance(each, paramiko.Transport) for each in threading.enumerate())


def test_silent_line_is_trouble_at_first_and_given_up_later(
    tmp_path: Path, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieutenants.supervision.transports.ssh.connection.PING_SECONDS", 0.2)
    monkeypatch.setattr("lieutenants.supervision.transports.ssh.connection.STALL_SECONDS", 0.5)
    monkeypatch.setattr("lieutenants.supervision.transports.ssh.connection.DEAD_SECONDS", 3.0)
    server = Sshd(tmp_path, SetEnv=f"HOME={tmp_path}")
    line = Line(server.port)
    link = Link(Direct(way=server.login(port=line.port)), pump)
    link.follow("~/x", 0)
    assert runs(link) == []
    first = link.session
    line.stall()
    assert "nothing came from it for" in until(link.trouble)
    with pytest.raises(NotConnected):
        link.ask({"op": "list"}, connect=False)
    assert link.session is first
    line.flow()
    until(lambda: not link.trouble())
    assert link.session is first, "the same connection goes on"

    line.stall()
    until(lambda: link.session is not first)
    line.flow()
    until(lambda: not link.trouble(), 30)
    assert runs(link) == []
    link.close()
    line.close()
    server.stop()


def test_machine_behind_a_jump_host_is_reached(tmp_path: Path, pump: Pump) -> None:
    door, behind = Sshd(tmp_path / "door"), Sshd(tmp_path / "behind", SetEnv=f"HOME={tmp_path}")
    line = Line(door.port)
    way = behind.login(jump=door.login(port=line.port))
    link = Link(Direct(way=way), pump)
    assert runs(link) == []
    link.install()
    assert line.connections == 1
    line.cut()
    until(link.trouble)
    link.follow("~/x", 0)
    until(lambda: not link.trouble(), 30)
    assert runs(link) == []
    link.close()
    line.close()
    door.stop()
    behind.stop()
