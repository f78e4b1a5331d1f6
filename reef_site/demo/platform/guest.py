"""Files that the platform puts into a VM: its identity, its keys, its SSH server's settings."""

from __future__ import annotations

import os
import shlex
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEY_COMMENT = "platform-key"
# Settings of this machine for its package mirrors, which its VMs use as well.
MIRROR_PREFIXES = ["PIP_", "NPM_CONFIG_", "UV_INDEX", "UV_DEFAULT_INDEX", "NODE_EXTRA_CA_CERTS"]
MIRROR_PREFIXES += [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_",
    "REQUESTS_CA_",
    "CURL_CA_",
]
MIRROR_FILES = (".npmrc", ".pip/pip.conf", ".config/pip/pip.conf")
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Files of this machine's SSH server that VMs must not have.
HOST_FILES = ("etc/ssh/ssh_host_*", "etc/ssh/sshd_config.d/*")
SYNC = """#!/bin/sh
# Records the time of the call: the platform loses what was written later and not synced.
: > /run/.synced
exec /usr/bin/sync "$@"
"""
PAM = """auth required pam_permit.so
account required pam_permit.so
session optional pam_env.so
password required pam_deny.so
"""


@dataclass(frozen=True)
class File:
    """A file in a VM. With a `mark`, existing lines without that mark are kept."""

    path: str
    text: str
    mode: int = 0o644
    mark: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mirror_environment() -> dict[str, str]:
    """Return the variables of this process that configure package mirrors."""
    return {
        key: value
        for key, value in os.environ.items()
        if key.upper().startswith(tuple(MIRROR_PREFIXES))
    }


def ssh_settings(env: dict[str, str], *, pam: bool) -> str:
    """Return the sshd_config of a VM."""
    lines = [
        "Port 22",
        "HostKey /etc/ssh/ssh_host_ed25519_key",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        f"UsePAM {'yes' if pam else 'no'}",
        "UseDNS no",
        "PrintMotd no",
        "PidFile /run/sshd.pid",
        "MaxStartups 200:30:400",
        "MaxSessions 200",
        "AcceptEnv LANG LC_*",
        "Subsystem sftp internal-sftp",
    ]
    if env:
        pairs = [f'"{key}={value}"' for key, value in env.items() if '"' not in value]
        lines.append(f"SetEnv {' '.join(pairs)}")
    return "\n".join(lines) + "\n"


def name_servers(*, dead: bool = False) -> str:
    """Return a resolv.conf with the servers of this machine that VMs can reach."""
    if dead:
        return "nameserver 127.0.0.53\n"
    for source in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        lines = Path(source).read_text().splitlines() if Path(source).exists() else []
        usable = [line for line in lines if not line.startswith("nameserver 127.")]
        if any(line.startswith("nameserver") for line in usable):
            return "\n".join(usable) + "\n"
    return "nameserver 8.8.8.8\n"


def identity(vm_id: str, public_key: str, *, info: str) -> list[File]:
    """Return the files that every VM gets, including restored ones."""
    return [
        File("/etc/vm_id", f"{vm_id}\n"),
        File("/etc/vminfo", info),
        File("/root/.ssh/authorized_keys", public_key, 0o600, KEY_COMMENT),
    ]


def first_boot(vm_id: str, host_key: tuple[str, str]) -> list[File]:
    """Return the files that a VM from an image gets, and its copies inherit."""
    name = f"vm-{vm_id[:8]}"
    hosts = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else ""
    pam = Path("/etc/pam.d/sshd").exists()
    env = mirror_environment()
    files = [
        File("/etc/hostname", f"{name}\n"),
        File("/etc/hosts", f"{hosts.rstrip()}\n127.0.0.1 localhost\n127.0.1.1 {name}\n"),
        File("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444),
        File("/etc/resolv.conf", name_servers()),
        File("/etc/environment", f'PATH="{ROOT_PATH}"\n'),
        File("/etc/ssh/ssh_host_ed25519_key", host_key[0], 0o600),
        File("/etc/ssh/ssh_host_ed25519_key.pub", host_key[1]),
        File("/etc/ssh/sshd_config", ssh_settings(env, pam=pam)),
        # Packages must not start services, because there is no service manager.
        File("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755),
        File("/usr/local/bin/sync", SYNC, 0o755),
    ]
    if pam:
        files.append(File("/etc/pam.d/sshd", PAM))
    return files


def environment_file(values: dict[str, str]) -> str:
    """Return /etc/environment as the platform writes it: sorted, without quotes."""
    return "".join(f"{key}={values[key]}\n" for key in sorted(values))


def read_environment_file(text: str) -> dict[str, str]:
    """Return the variables that a program finds there."""
    pairs = [line.partition("=") for line in text.splitlines() if "=" in line]
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def in_folder(argv: list[str], folder: str | None) -> list[str]:
    """Return a command that runs `argv` in a folder."""
    if not folder:
        return argv
    return ["sh", "-c", f'cd {shlex.quote(folder)} && exec "$@"', "sh", *argv]
