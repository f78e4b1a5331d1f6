"""A test of the way to a machine, step by step, each with its time."""

from __future__ import annotations

import contextlib
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bootloader.exceptions import ShellRefused, ShellUnavailable
from bootloader.providers.base import Login
from bootloader.providers.ssh.protocol import Shell
from reef_site.common.errors import ReefError
from reef_site.common.hooks import Hook
from reef_site.common.text import clip_words, to_storable

CONNECT_SECONDS = 12.0
COMMAND_SECONDS = 8.0
# Names and paths of one kind of agent's program, by its name.
agent_programs: Hook[Sequence[str]] = Hook(
    "connection_tests.agent_programs", "Where machines have the program of this kind of agent."
)

_VERSION = "import sys; v = sys.version_info; print('%d.%d.%d' % v[:3]); sys.exit(v < (3, 8))"
_PYTHON = f"""
command -v python3 >/dev/null || {{ echo "there is no python3"; exit 1; }}
python3 -I -S -c {shlex.quote(_VERSION)}
"""
_SEARCH = 'PATH="$PATH:/usr/local/bin:/usr/bin:/bin:$HOME/.local/bin:$HOME/bin"\n'
_DISK = """
test=$HOME/.reef-test.$$
(echo test >"$test") 2>/dev/null || { echo "cannot write to $HOME"; exit 1; }
rm -f -- "$test"
df -Pk -- "$HOME" | awk 'END { printf "%d MiB free", $4 / 1024 }'
"""


@dataclass
class Step:
    """One step: its time, and what was found or is wrong."""

    name: str
    seconds: float = 0.0
    note: str = ""
    problem: str = ""


class _Failed(Exception):
    """A step failed, and the later ones cannot be done."""


class ConnectionTest:
    """One test. `steps` are those that were begun."""

    def __init__(self, login: Login) -> None:
        self.steps: list[Step] = []
        self._login = login
        nearest = login
        while nearest.jump:
            nearest = nearest.jump
        # All that can be reached from here directly.
        self._nearest = nearest

    def run(self) -> list[dict[str, Any]]:
        """Do all steps until one fails."""
        with contextlib.suppress(_Failed):
            self._reach()
            with self._connect() as shell:
                self._look(shell)
        return [asdict(step) for step in self.steps]

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Record one step. Raises _Failed if it fails."""
        began, entry = time.monotonic(), Step(name)
        self.steps.append(entry)
        try:
            yield entry
        except (ReefError, OSError, UnicodeError) as error:
            entry.problem = clip_words(str(error) or type(error).__name__, 500)
            raise _Failed from error
        finally:
            entry.seconds = round(time.monotonic() - began, 3)

    def _reach(self) -> None:
        host, port = self._nearest.host, self._nearest.port
        with self.step("address") as entry:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            entry.note = ", ".join(sorted({str(each[4][0]) for each in found}))
            if self._login.jump:
                entry.note += f" (the jump host {host})"
        with self.step("tcp") as entry:
            sock = socket.create_connection((host, port), CONNECT_SECONDS)
            entry.note = f"port {port}"
            sock.close()
        self._greet()

    def _greet(self) -> None:
        from bootloader.providers.ssh import client

        kind = "tls" if self._nearest.tls_name else "banner"
        with self.step(kind) as entry:
            sock = client.open_socket(self._nearest, CONNECT_SECONDS)
            if kind == "tls":
                entry.note = f"its certificate is of {self._nearest.tls_name}"
            else:
                with sock:
                    entry.note = _banner(sock)
                return
        with sock, self.step("banner") as entry:
            entry.note = _banner(sock)

    def _connect(self) -> Shell:
        from bootloader.providers.ssh import client

        try:
            shell = client.connect(self._login, CONNECT_SECONDS, self.step)
        except (ReefError, OSError) as error:
            # Before the first stage: the connection itself, or a jump host.
            problem = clip_words(str(error), 500)
            self.steps.append(Step("host key", problem=problem))
            raise _Failed from error
        pinned = "as before" if self._login.host_key else "kept from now on"
        self._named("host key").note = f"{shell.host_key.split()[0]}, {pinned}"
        self._named("login").note = f"as {self._login.user}"
        return shell

    def _named(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def _look(self, shell: Shell) -> None:
        with self.step("shell") as entry:
            entry.note = f"{_output(shell, 'uname -sm')}, login shell " + _output(
                shell, 'echo "${SHELL:-unknown}"'
            )
        with self.step("python") as entry:
            needed = "agents need Python 3.8 or newer there"
            entry.note = _output(shell, _SEARCH + _PYTHON, needed)
        with self.step("disk") as entry:
            entry.note = _output(shell, _DISK)
        for kind, programs in agent_programs.items():
            with self.step("agent") as entry:
                entry.note = _output(shell, _find(kind, programs))


def _banner(sock: socket.socket) -> str:
    """Return the greeting of an SSH server. Raises ShellUnavailable, ShellRefused."""
    sock.settimeout(CONNECT_SECONDS)
    # Some gateways wait for the greeting of the client.
    with contextlib.suppress(OSError):
        sock.sendall(b"SSH-2.0-reef\r\n")
    head = b""
    while b"\n" not in head and len(head) < 512:
        data = sock.recv(256)
        if not data:
            break
        head += data
    text = to_storable(head.decode("utf-8", "replace")).strip()
    if not text:
        raise ShellUnavailable("it hung up before its SSH greeting; it may be busy")
    if not text.startswith("SSH-"):
        raise ShellRefused(f"this is no SSH server: it says {text[:80]!r}")
    return text.splitlines()[0][:200]


def _output(shell: Shell, script: str, problem: str = "") -> str:
    """Return what a script prints, as one line. Raises ShellRefused if it fails."""
    ran = shell.script(script, timeout=COMMAND_SECONDS)
    text = to_storable((ran.output + ran.errors).decode("utf-8", "replace"))
    text = clip_words(" ".join(text.split()), 300)
    if ran.exit_status:
        parts = (text or f"a command ended with {ran.exit_status}", problem)
        raise ShellRefused("; ".join(part for part in parts if part))
    return text


def _find(kind: str, programs: Sequence[str]) -> str:
    """Return the script that looks for the program of one kind of agent."""
    lines = [_SEARCH]
    for program in programs:
        word = shlex.quote(program)
        if program.startswith("~/"):
            word = f'"$HOME"/{shlex.quote(program[2:])}'
        report = f"printf '%s\\n' {shlex.quote(kind)}: \"$found\"; exit"
        lines.append(f"found=$(command -v {word}) && {{ {report}; }}")
    return "\n".join([*lines, f"echo {shlex.quote(f'the agent {kind} is not on it')}; exit 1"])
