"""A real OpenSSH server for one test on the loopback, with its own host key and one user key."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from bootloader.providers.base import Login
from tests.waiting import until

SSHD = os.environ.get("REEF_TEST_SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


def keygen(path: Path, kind: str = "ed25519", *more: str) -> str:
    """Create a key pair and return the private key."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path), *more], check=True)
    return path.read_text()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# Tests run beside each other on one machine; each process looks for the agent of an older server in
# a folder of its own.
OLDER_AGENT_FOLDER = f"/tmp/pi-rpc-{os.getpid()}"


class Sshd:
    """An sshd in the foreground that accepts only `key`. `more` are further settings of sshd.

    A list is a setting that is given several times.
    """

    def __init__(self, folder: Path, **more: object) -> None:
        if not SSHD:
            pytest.fail("no sshd: run the tests with `python3 manage.py test`")
        self.folder = folder
        self.more = more
        folder.mkdir(parents=True, exist_ok=True)
        self.key = keygen(folder / "key")
        self.new_host_key()
        shutil.copy(folder / "key.pub", folder / "authorized")
        self.port = free_port()
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def new_host_key(self) -> None:
        for old in self.folder.glob("host*"):
            old.unlink()
        keygen(self.folder / "host")
        self.host_key = " ".join((self.folder / "host.pub").read_text().split()[:2])

    def start(self) -> None:
        variables = f"{self.more.get('SetEnv', '')} REEF_OLDER_AGENT_FOLDER={OLDER_AGENT_FOLDER}"
        settings = {
            "ListenAddress": "127.0.0.1",
            "Port": self.port,
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "authorized",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "LogLevel": "ERROR",
            **self.more,
            "SetEnv": variables.strip(),
        }
        pairs = [
            (name, each)
            for name, value in settings.items()
            for each in (value if isinstance(value, list) else [value])
        ]
        options = [word for name, value in pairs for word in ("-o", f"{name}={value}")]
        assert SSHD
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", "/dev/null", *options], stderr=subprocess.DEVNULL
        )
        until(self._sends_greeting)

    def _sends_greeting(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                return sock.recv(4) == b"SSH-"
        except OSError:
            return False

    def stop(self) -> None:
        """End the listener and all its sessions."""
        if self.process is None:
            return
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        ).stdout.split()
        self.process.kill()
        self.process.wait(10)
        self.process = None
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), 9)

    def login(self, **changes: object) -> Login:
        facts: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "private_key": self.key,
            "host_key": self.host_key,
            **changes,
        }
        return Login(**facts)  # type: ignore[arg-type]


class Gateway:
    """A TLS server that forwards each connection to the port that its SNI name belongs to."""

    def __init__(self, folder: Path, routes: dict[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.routes = routes
        self.seen: list[str] = []
        self.ca = folder / "gateway.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-days", "2", "-subj", "/CN=vm.test", "-keyout", str(folder / "key")),
                *("-addext", "subjectAltName=DNS:*.vm.test", "-out", str(self.ca)),
            ],
            check=True,
            capture_output=True,
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.ca, folder / "key")
        self.context.sni_callback = self._record_name
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _record_name(
        self, sock: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: object
    ) -> None:
        self.seen.append(name or "")

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError, KeyError):
            inside = self.context.wrap_socket(raw, server_side=True)
            behind = socket.create_connection(("127.0.0.1", self.routes[self.seen[-1]]))
            self.open += [inside, behind]
            back = threading.Thread(target=self._copy, args=(behind, inside), daemon=True)
            back.start()
            self._copy(inside, behind)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def abort_connections(self) -> None:
        """Abort all connections."""
        for sock in self.open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        self.abort_connections()
