"""Registered SSH hosts that are aliases in ~/.ssh/config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootloader.exceptions import ProviderRefused
from bootloader.models import SshHost
from bootloader.providers.ssh import hosts, shell
from tests.bootloader.ssh_servers import Sshd

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder .ssh of the user that reef runs as."""
    monkeypatch.setenv("HOME", str(tmp_path))
    found = tmp_path / ".ssh"
    found.mkdir()
    return found


def write(folder: Path, sshd: Sshd, more: str = "") -> None:
    (folder / "key").write_text(sshd.key)
    text = f"Host build\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.login().user}\n"
    (folder / "config").write_text(f"{text}  IdentityFile ~/.ssh/key\n{more}\nHost *\n  Port 9\n")


def test_alias_says_address_port_user_and_key(folder: Path, sshd: Sshd) -> None:
    write(folder, sshd)
    row = SshHost.objects.create(name="builder", address="build")
    login = hosts.login(row)
    assert (login.host, login.port, login.user) == ("127.0.0.1", sshd.port, sshd.login().user)
    assert login.private_key == sshd.key
    assert hosts.probe_ssh([row]) == [True]
    assert hosts.try_logins([row]) == [""]
    row.refresh_from_db()
    assert row.host_key == sshd.host_key


def test_alias_says_how_often_to_send_signs_of_life(
    folder: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, sshd, "  ServerAliveInterval 7\n")
    row = SshHost.objects.create(name="builder", address="build")
    asked: list[int] = []
    monkeypatch.setattr("paramiko.Transport.set_keepalive", lambda _, pause: asked.append(pause))
    with shell.connect(hosts.login(row)):
        assert asked == [7]
    row.address = "127.0.0.1"
    row.port, row.user = sshd.port, sshd.login().user
    row.set_key(sshd.key)
    with shell.connect(hosts.login(row)):
        assert asked == [7, 15]


def test_values_of_the_host_come_first(folder: Path, sshd: Sshd) -> None:
    write(folder, sshd)
    row = SshHost(name="builder", address="build", port=2222, user="anna")
    row.set_key("a key of its own")
    login = hosts.login(row)
    assert (login.port, login.user, login.private_key) == (2222, "anna", "a key of its own")


def test_address_that_is_no_alias_stays_as_it_is(folder: Path, sshd: Sshd) -> None:
    write(folder, sshd)
    row = SshHost(name="other", address="other.example")
    row.set_key("a key")
    login = hosts.login(row)
    assert (login.host, login.port, login.user) == ("other.example", 22, "root")


def test_jump_host_of_the_alias_is_used_with_its_known_key(folder: Path, sshd: Sshd) -> None:
    user = sshd.login().user
    write(folder, sshd, f"  ProxyJump {user}@localhost:{sshd.port}\n")
    row = SshHost.objects.create(name="builder", address="build")
    with pytest.raises(ProviderRefused, match="The host key of the jump host localhost is unknown"):
        hosts.login(row)
    (folder / "known_hosts").write_text(f"[localhost]:{sshd.port} {sshd.host_key}\n")
    login = hosts.login(row)
    assert login.jump is not None
    assert (login.jump.host, login.jump.port) == ("localhost", sshd.port)
    assert hosts.probe_ssh([row]) == [True]
    with shell.connect(login) as connected:
        assert connected.script("echo hello", timeout=10).output == b"hello\n"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("  ProxyCommand nc %h %p\n", "ProxyCommand is not used by reef"),
        ("  ProxyJump a b\n", "ProxyJump: 'a b' is no"),
    ],
)
def test_what_cannot_be_used_is_refused(folder: Path, sshd: Sshd, more: str, problem: str) -> None:
    write(folder, sshd, more)
    with pytest.raises(ProviderRefused, match=problem):
        hosts.login(SshHost(name="builder", address="build"))


def test_unreadable_file_is_named(folder: Path, sshd: Sshd) -> None:
    (folder / "config").write_bytes(b"Host \xff\n")
    with pytest.raises(ProviderRefused, match="config cannot be read"):
        hosts.login(SshHost(name="builder", address="build"))
