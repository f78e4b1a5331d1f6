"""Aliases in `~/.ssh/config` of the user that reef runs as."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bootloader.exceptions import ProviderRefused
from bootloader.providers.base import Login

if TYPE_CHECKING:
    import paramiko

MAX_JUMPS = 8
_MAX_PAUSE = 3600
_JUMP = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:\s]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Alias:
    """Settings of a host in the file; empty values and 0 where it has none."""

    host: str
    port: int = 0
    user: str = ""
    # Paths of private keys.
    identities: tuple[str, ...] = ()
    # As in ProxyJump, the one that is reached first in front.
    jumps: tuple[str, ...] = ()
    # ServerAliveInterval; None where the file does not say.
    keepalive_seconds: int | None = None

    def key(self) -> str:
        """Return the first private key that can be read; empty without one."""
        for path in self.identities:
            try:
                return Path(path).read_text()
            except (OSError, UnicodeError):
                continue
        return ""


def find(name: str) -> Alias | None:
    """Return the alias that is listed by this very name, if there is one. Raise ProviderRefused."""
    config = _load()
    if config is None or name not in config.get_hostnames() or "*" in name:
        return None
    return _alias(config, name)


def jump_logins(alias: Alias, usual_key: str) -> Login | None:
    """Return the login at the last jump host of an alias, through those before it.

    Raise ProviderRefused if the host key or the private key of one is unknown.
    """
    if len(alias.jumps) > MAX_JUMPS:
        raise ProviderRefused(f"{alias.host} has more than {MAX_JUMPS} jump hosts")
    found: Login | None = None
    for text in alias.jumps:
        found = _jump_login(text, usual_key, found)
    return found


def door(alias: Alias) -> tuple[str, int]:
    """Return host and port of what is reached first on the way."""
    if not alias.jumps:
        return alias.host, alias.port or 22
    first = _parse_jump(alias.jumps[0])
    return first.host, first.port or 22


def known_host_key(host: str, port: int) -> str:
    """Return the first key of a host in `~/.ssh/known_hosts`, as one line; empty if unknown."""
    import paramiko

    try:
        known = paramiko.HostKeys(str(_folder() / "known_hosts"))
    except OSError:
        return ""
    keys = known.lookup(host if port == 22 else f"[{host}]:{port}")
    lines = [f"{kind} {key.get_base64()}" for kind, key in keys.items()] if keys else []
    # The kind that servers prefer, so that the key is the one that they show.
    lines.sort(key=lambda line: not line.startswith("ssh-ed25519"))
    return lines[0] if lines else ""


def _folder() -> Path:
    return Path.home() / ".ssh"


def _load() -> paramiko.SSHConfig | None:
    path = _folder() / "config"
    if not path.is_file():
        return None
    import paramiko

    try:
        return paramiko.SSHConfig.from_path(str(path))
    except (OSError, UnicodeError, paramiko.SSHException) as error:
        raise ProviderRefused(f"{path} cannot be read: {error}") from None


def _alias(config: paramiko.SSHConfig, name: str) -> Alias:
    said = config.lookup(name)
    jumps = str(said.get("proxyjump") or "")
    port = str(said.get("port") or "")
    pause = str(said.get("serveraliveinterval") or "")
    if said.get("proxycommand"):
        raise ProviderRefused(f"{name}: ProxyCommand is not used by reef; use ProxyJump instead")
    return Alias(
        host=str(said.get("hostname") or name),
        port=int(port) if port.isdecimal() else 0,
        user=str(said.get("user") or ""),
        identities=tuple(said.get("identityfile") or ()),
        jumps=() if jumps in ("", "none") else tuple(each.strip() for each in jumps.split(",")),
        keepalive_seconds=min(int(pause), _MAX_PAUSE) if pause.isdecimal() else None,
    )


def _parse_jump(text: str) -> Alias:
    """Return where a jump host is; it may itself be an alias, whose jump hosts do not count."""
    parts = _JUMP.fullmatch(text.removeprefix("ssh://"))
    if parts is None:
        raise ProviderRefused(f"ProxyJump: '{text[:80]}' is no [user@]host[:port]")
    name = parts["host"].strip("[]")
    known = find(name) or Alias(name)
    port = int(parts["port"]) if parts["port"] else known.port
    return Alias(
        *(known.host, port, parts["user"] or known.user, known.identities),
        keepalive_seconds=known.keepalive_seconds,
    )


def _jump_login(text: str, usual_key: str, through: Login | None) -> Login:
    jump = _parse_jump(text)
    port, key = jump.port or 22, jump.key() or usual_key
    host_key = known_host_key(jump.host, port)
    if not host_key:
        raise ProviderRefused(
            f"The host key of the jump host {jump.host} is unknown: log in there by ssh once, or "
            "register it as an SSH host"
        )
    if not key:
        raise ProviderRefused(f"There is no private key for the jump host {jump.host}")
    return Login(
        *(jump.host, port, jump.user or "root", key),
        host_key=host_key,
        jump=through,
        keepalive_seconds=jump.keepalive_seconds,
    )
