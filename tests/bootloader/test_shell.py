"""The shell against a real sshd, plain and behind a TLS gateway."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootloader.exceptions import CommandTimeout, ShellError, ShellRefused, ShellUnavailable
from bootloader.providers.ssh import private_keys, shell, stream_pump
from tests.bootloader.ssh_servers import Gateway, Sshd, free_port, keygen
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    front = Gateway(tmp_path_factory.mktemp("gateway"), {"one.vm.test": sshd.port})
    yield front
    front.close()


def test_command_returns_its_output_errors_and_status(sshd: Sshd) -> None:
    with shell.connect(sshd.login()) as session:
        ran = session.run("echo out; echo err >&2; exit 7", timeout=10)
    assert (ran.exit_status, ran.output, ran.errors) == (7, b"out\n", b"err\n")


def test_large_streams_are_transferred_in_both_directions(sshd: Sshd) -> None:
    data = os.urandom(6 << 20)
    received = bytearray()
    with shell.connect(sshd.login()) as session:
        ran = session.run("cat", stdin=data, timeout=60, on_output=received.extend)
    assert ran.output == data
    assert received == data


def test_no_byte_of_the_output_is_lost(sshd: Sshd) -> None:
    script = "head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    with shell.connect(sshd.login()) as session:
        for _ in range(10):
            ran = session.run(script, timeout=60)
            assert (len(ran.output), len(ran.errors)) == (5_000_000, 3_000_000)


def test_unread_stdin_is_not_an_error(sshd: Sshd) -> None:
    with shell.connect(sshd.login()) as session:
        assert session.run("exit 3", stdin=b"x" * (8 << 20), timeout=20).exit_status == 3


def test_returned_output_is_limited(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_pump, "MAX_OUTPUT", 1000)
    with shell.connect(sshd.login()) as session:
        ran = session.run("head -c 3000000 /dev/zero", timeout=20)
    assert (ran.exit_status, len(ran.output)) == (0, 1000)


def test_exit_status_after_a_signal_is_minus_one(sshd: Sshd) -> None:
    with shell.connect(sshd.login()) as session:
        assert session.run("kill -9 $$", timeout=10).exit_status == -1
        assert session.run("true", timeout=10).exit_status == 0


def test_child_holding_the_output_open_does_not_block(sshd: Sshd) -> None:
    began = time.monotonic()
    with shell.connect(sshd.login()) as session:
        ran = session.run("sleep 120 & echo started $!", timeout=60)
        session.run(f"kill {ran.output.split()[1].decode()}", timeout=10)
    assert ran.exit_status == 0
    assert time.monotonic() - began < 10 * PATIENCE


def test_command_times_out(sshd: Sshd) -> None:
    with shell.connect(sshd.login()) as session:
        with pytest.raises(CommandTimeout, match=r"within 0\.5 s") as caught:
            session.run("sleep 30", timeout=0.5)
        assert caught.value.retry
        assert session.run("echo still here", timeout=10).output == b"still here\n"


def test_endless_output_is_limited(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reader thread would write to this pipe after it was closed.
    monkeypatch.delattr("paramiko.pipe.make_pipe")
    # The connection stays usable after many timeouts.
    for _ in range(3):
        with shell.connect(sshd.login()) as session:
            for _ in range(6):
                with pytest.raises(CommandTimeout):
                    session.run("yes", timeout=0.05)
            assert session.run("echo alive", timeout=10).output == b"alive\n"


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.15, 0.2])
def test_timeout_is_never_mistaken_for_an_exit(sshd: Sshd, seconds: float) -> None:
    with shell.connect(sshd.login()) as session:
        for _ in range(5):
            with pytest.raises(CommandTimeout):
                session.run("sleep 5", timeout=seconds)


def test_stored_host_key_of_an_unknown_type_is_refused(sshd: Sshd) -> None:
    with pytest.raises(ShellRefused, match="no kind that we know"):
        shell.connect(sshd.login(host_key="damaged AAAA"))


@pytest.mark.parametrize("name", ["plain", 'a b/it\'s $(x) "q".txt', "-dash"])
def test_files_are_written_completely_with_their_mode(
    sshd: Sshd, tmp_path: Path, name: str
) -> None:
    data = os.urandom(3_000_000)
    target = tmp_path / name
    with shell.connect(sshd.login()) as session:
        session.put(str(target), data, 0o640)
        session.put(str(target), data, 0o600)
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert target.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in target.parent.iterdir()] == [target.name]


def test_failed_write_names_the_path(sshd: Sshd) -> None:
    with shell.connect(sshd.login()) as session, pytest.raises(ShellError, match="/proc/nowhere"):
        session.put("/proc/nowhere/file", b"x", 0o600)


def test_first_host_key_is_pinned(sshd: Sshd, tmp_path: Path) -> None:
    kept: list[str] = []
    shell.connect(sshd.login(host_key=None, keep=kept.append)).close()
    assert kept == [sshd.host_key]

    other = Sshd(tmp_path / "other")
    try:
        changed = other.login(host_key=kept[0])
        with pytest.raises(ShellRefused, match="another host key than before"):
            shell.connect(changed)
        rsa = keygen(tmp_path / "rsa", "rsa", "-b", "2048") and (tmp_path / "rsa.pub").read_text()
        with pytest.raises(ShellRefused, match="another host key than before"):
            shell.connect(other.login(host_key=rsa))
    finally:
        other.stop()


def test_login_with_a_wrong_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(ShellRefused, match="in with our key") as caught:
        shell.connect(sshd.login(private_key=keygen(tmp_path / "wrong")))
    assert not caught.value.retry


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
@pytest.mark.parametrize("form", [(), ("-m", "PEM")])
def test_private_keys_of_all_types_are_read(
    tmp_path: Path, kind: str, form: tuple[str, ...]
) -> None:
    text = keygen(tmp_path / "key", kind, *form)
    public = (tmp_path / "key.pub").read_text().split()[1]
    assert private_keys.read_key(text.strip().replace("\n", "\r\n")).get_base64() == public


def test_error_does_not_quote_an_unreadable_key() -> None:
    begin, end = (f"-----{word} OPENSSH PRIVATE KEY-----" for word in ("BEGIN", "END"))
    with pytest.raises(ShellRefused) as caught:
        private_keys.read_key(f"{begin}\nc2VjcmV0c2VjcmV0\n{end}\n")
    assert "c2Vj" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_public_key_in_place_of_a_private_one_is_reported(sshd: Sshd) -> None:
    public = (sshd.folder / "key.pub").read_text()
    with pytest.raises(ShellRefused, match="This is a public key"):
        private_keys.read_key(public)


def test_repr_of_a_login_has_no_key(sshd: Sshd) -> None:
    assert "PRIVATE KEY" not in repr(sshd.login())


def test_unreachable_host_is_reported(sshd: Sshd) -> None:
    with pytest.raises(ShellUnavailable) as caught:
        shell.connect(sshd.login(port=free_port()), timeout=3)
    assert caught.value.retry
    with pytest.raises(ShellUnavailable):
        shell.connect(sshd.login(host="no.such.name.invalid"), timeout=3)


def test_silent_server_times_out(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(ShellUnavailable, match="did not answer by SSH within 1 s"):
            shell.connect(sshd.login(port=silent.getsockname()[1]), timeout=1)
    assert time.monotonic() - began < 5 * PATIENCE


def test_killed_server_is_reported_as_unavailable(tmp_path: Path) -> None:
    server = Sshd(tmp_path / "sshd")
    session = shell.connect(server.login())
    threading.Timer(0.5, server.stop).start()
    with session, pytest.raises(ShellUnavailable):
        session.run("sleep 30", timeout=25)
    server.stop()


def test_shell_works_inside_tls_with_sni(sshd: Sshd, gateway: Gateway) -> None:
    login = sshd.login(port=gateway.port, tls_name="one.vm.test", trust=str(gateway.ca))
    data = os.urandom(6 << 20)
    with shell.connect(login) as session:
        assert session.run("cat", stdin=data, timeout=60).output == data
    assert gateway.seen[-1] == "one.vm.test"


def test_shells_inside_tls_leave_no_threads(sshd: Sshd, gateway: Gateway) -> None:
    login = sshd.login(port=gateway.port, tls_name="one.vm.test", trust=str(gateway.ca))
    for number in range(5):
        with shell.connect(login) as session:
            assert session.run(f"echo {number}", timeout=10).output == b"%d\n" % number
    until(lambda: not [each for each in threading.enumerate() if each.name == "tls-pipe"])


def test_untrusted_certificate_is_refused(sshd: Sshd, gateway: Gateway) -> None:
    login = sshd.login(port=gateway.port, tls_name="one.vm.test")
    with pytest.raises(ShellRefused, match="no certificate that we trust"):
        shell.connect(login)
    wrong = sshd.login(port=gateway.port, tls_name="one.other.test", trust=str(gateway.ca))
    with pytest.raises(ShellRefused, match="no certificate that we trust"):
        shell.connect(wrong)


def test_invalid_certificate_file_is_named(sshd: Sshd, gateway: Gateway, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for file in (empty, tmp_path / "missing.pem"):
        login = sshd.login(port=gateway.port, tls_name="one.vm.test", trust=str(file))
        with pytest.raises(ShellRefused, match=r"CA certificates .*\.pem"):
            shell.connect(login)


def test_name_unknown_to_the_gateway_is_unavailable(sshd: Sshd, gateway: Gateway) -> None:
    login = sshd.login(port=gateway.port, tls_name="gone.vm.test", trust=str(gateway.ca))
    with pytest.raises(ShellUnavailable):
        shell.connect(login, timeout=5)


def test_aborted_connection_inside_tls_is_reported_as_unavailable(
    sshd: Sshd, gateway: Gateway
) -> None:
    login = sshd.login(port=gateway.port, tls_name="one.vm.test", trust=str(gateway.ca))
    threading.Timer(0.7, gateway.abort_connections).start()
    with shell.connect(login) as session, pytest.raises(ShellUnavailable):
        session.run("sleep 30", timeout=25)
