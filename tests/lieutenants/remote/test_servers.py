"""SSH servers that misbehave: a sentence for each, and nothing is left behind."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bootloader.providers.base import Login
from lieutenants.exceptions import NotConnected
from lieutenants.supervision.transports.base import Launch
from lieutenants.supervision.transports.ssh import session
from lieutenants.supervision.transports.ssh.link import Link
from lieutenants.supervision.transports.ssh.pump import Pump
from lieutenants.supervision.transports.ssh.transport import HomeFiles, SshTransport, links
from tests.bootloader.login_shells import Accounts
from tests.bootloader.overlay_machine import is_supported
from tests.bootloader.ssh_servers import Sshd, keygen
from tests.lieutenants.remote.test_machines import Direct
from tests.waiting import until

needs_root = pytest.mark.skipif(not is_supported(), reason="needs root for a machine of its own")


class Odd:
    """A server that treats each connection in one way."""

    def __init__(self, treat: Callable[[socket.socket], object]) -> None:
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._kept: list[socket.socket] = []

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError):
                if self._treat(near):
                    self._kept.append(near)
                    continue
            near.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for each in self._kept:
            each.close()


def say(text: bytes) -> Callable[[socket.socket], bool]:
    """Return a treatment: print a text, read the client's greeting, and hang up."""

    def treat(near: socket.socket) -> bool:
        near.settimeout(5)
        if text:
            near.sendall(text)
            near.recv(1000)
        return False

    return treat


def keep(_: socket.socket) -> bool:
    """Say nothing at all."""
    return True


ODD = {
    "silent": (keep, "did not answer by SSH within 1 s"),
    "hangs up": (say(b""), "hung up before its SSH greeting; it may be busy"),
    "MaxStartups": (say(b"Exceeded MaxStartups\r\n"), "hung up before its SSH greeting"),
    "penalty": (say(b"Not allowed at this time\r\n"), "hung up before its SSH greeting"),
    "greets and hangs up": (say(b"SSH-2.0-Odd\r\n"), "it ended the connection"),
}


@pytest.fixture
def odd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    monkeypatch.setattr(session, "LOGIN_SECONDS", 1.0)
    server = Odd(ODD[request.param][0])
    yield server
    server.close()


@pytest.fixture
def key(tmp_path: Path) -> str:
    return keygen(tmp_path / "key")


@pytest.mark.parametrize("odd", ODD, indirect=True)
def test_odd_server_is_named(odd: Odd, key: str, request: pytest.FixtureRequest) -> None:
    expected = ODD[request.node.callspec.params["odd"]][1]
    link = Link(Direct(way=Login("127.0.0.1", odd.port, "root", key)), Pump())
    with pytest.raises(NotConnected) as caught:
        link.wait_until_open(10, force=True)
    assert expected in str(caught.value)
    link.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"MaxSessions": "0"}, "opens no session"),
        (
            {"PubkeyAuthentication": "no", "PasswordAuthentication": "yes"},
            "in with a key; it offers: password",
        ),
        ({"ForceCommand": "internal-sftp"}, "runs no script for"),
        ({"DenyUsers": "*"}, "does not let "),
        ({"SetEnv": "HOME=/proc/nowhere"}, ""),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, dict) else None,
)
def test_server_that_lets_nobody_work_is_named(
    tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    server = Sshd(tmp_path, **settings)
    link = Link(Direct(way=server.login()), Pump())
    if says:
        with pytest.raises(NotConnected, match=says):
            link.wait_until_open(20, force=True)
    else:
        with pytest.raises(Exception, match=r"cannot make|No such file|cannot write"):
            link.install()
    link.close()
    server.stop()


@needs_root
def test_agent_runs_where_nothing_in_temporary_folders_can_be_executed(tmp_path: Path) -> None:
    with Accounts(tmp_path) as accounts:
        mount = "mount -t tmpfs -o noexec tmpfs"
        accounts.machine.output_of(f"{mount} /tmp; {mount} /var/tmp; {mount} /dev/shm")
        # Its umask is 077, and its shell prints a lot.
        transport = SshTransport(Direct(way=accounts.login("bash")))
        home = "/home/bash/.reef-agents/lieutenants/x"
        spec = Launch(
            *("run", f"{home}/runs/run", ["cat"], {"PATH": "/usr/bin:/bin"}, "/", ""),
            heal=[],
            tag="REEF_LIEUTENANT=x",
            hello=[],
        )
        handle = transport.start(spec, HomeFiles(folders=("runs",)))
        assert transport.alive(handle)
        runs = transport.list_runs()
        assert [each["alive"] for each in runs] == [True]
        transport.stop(spec.dir, handle, None)
        until(lambda: not any(each["alive"] for each in transport.list_runs()), 20)
        links.drop(transport.place)
