"""A machine with one account for each login shell, each on its own port, printing noise."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from bootloader.providers.base import Login
from tests.bootloader.overlay_machine import Machine
from tests.bootloader.ssh_servers import SSHD, free_port, keygen
from tests.waiting import until

NOISE = "printf '\\033[31mWelcome\\033[0m to the\\nmachine\\nyou have no mail'"


@dataclass(frozen=True)
class Account:
    """An account. `rc` are lines of its start file; sshd runs `force` instead of the command."""

    name: str
    shell: str
    rc: tuple[str, str] = ("", "")
    force: str = ""
    runs_scripts: bool = True


ACCOUNTS = (
    Account("plain", "/bin/bash"),
    Account("bash", "/bin/bash", (".bashrc", f"{NOISE}\ncd /tmp\numask 077")),
    Account("zsh", "/usr/bin/zsh", (".zshenv", f"{NOISE}\nno-such-command\nprintf oops >&2")),
    Account("fish", "/usr/bin/fish", (".config/fish/config.fish", NOISE)),
    Account("csh", "/usr/bin/tcsh", (".cshrc", f"set prompt = 'Hi! > '\n{NOISE}")),
    Account("dash", "/usr/bin/dash"),
    Account("line", "/bin/bash", force='echo Authorised use only; eval "$SSH_ORIGINAL_COMMAND"'),
    Account("words", "/bin/bash", force="printf 'no line end'; $SSH_ORIGINAL_COMMAND; echo bye"),
    Account("refuses", "/usr/sbin/nologin", runs_scripts=False),
    Account("told", "/bin/bash", force="echo Ask Anna for access", runs_scripts=False),
)


class Accounts:
    """The machine with its accounts. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.key = keygen(folder / "key")
        self.public = (folder / "key.pub").read_text().strip()
        self.machine = Machine()
        self.ports = {account.name: free_port() for account in ACCOUNTS}

    def __enter__(self) -> Self:
        self.machine.__enter__()
        for account in ACCOUNTS:
            self._add(account)
        self.machine.output_of(f"mkdir -p /run/sshd; ssh-keygen -A >/dev/null; {self._sshd()}")
        for port in self.ports.values():
            until(partial(_accepts_ssh, port))
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.__exit__()

    def login(self, name: str) -> Login:
        """Return the login of one account."""
        return Login("127.0.0.1", self.ports[name], name, self.key)

    def _add(self, account: Account) -> None:
        name, home = account.name, f"/home/{account.name}"
        assert shutil.which(account.shell), f"{account.shell} is missing"
        self.machine.output_of(f"useradd -m -s {account.shell} -p '*' {name}")
        if account.rc[0]:
            self.machine.put(f"{home}/{account.rc[0]}", account.rc[1])
        self.machine.put(f"{home}/.ssh/authorized_keys", self.public, 0o600)
        self.machine.output_of(f"chown -R {name}: {home}; chmod 700 {home}/.ssh")

    def _sshd(self) -> str:
        lines = [
            *(f"Port {port}" for port in self.ports.values()),
            *("ListenAddress 127.0.0.1", "PidFile none", "UsePAM no", "StrictModes no"),
            *("PasswordAuthentication no", "MaxStartups 100:30:200", "LogLevel ERROR"),
        ]
        for account in ACCOUNTS:
            if account.force:
                lines += [f"Match User {account.name}", f"ForceCommand {account.force}"]
        self.machine.put("/etc/ssh/tests_config", "\n".join(lines))
        return f"{SSHD} -f /etc/ssh/tests_config"


def _accepts_ssh(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as sock:
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False
