"""Address and token of reef: from the environment, else of the reef that `up` runs here."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from reef_site.client.errors import UsageError

ADDRESS, TOKEN = "VERS_INFRA_URL", "VERS_AUTH_TOKEN"
PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A reef: its address without a slash at the end, and the caller's token."""

    url: str
    token: str = field(repr=False)

    @property
    def is_here(self) -> bool:
        """Return whether the address is on the loopback, where no proxy is used."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


def find_server() -> Server:
    """Return the reef to use. Raises UsageError.

    The root token of this host is sent to the reef of this host only.
    """
    address, token = _variable(ADDRESS).rstrip("/"), _variable(TOKEN)
    folder = data_folder()
    local = _local_address(folder)
    if not address:
        address = local
    if not address:
        raise UsageError(
            f"{ADDRESS} is not set, and no reef runs on {folder}: set it to the address of reef, "
            f"and {TOKEN} to your token"
        )
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise UsageError(f"{ADDRESS}: must be like https://reef.example")
    if not token and address == local:
        token = _stored_token(folder)
    if not token:
        raise UsageError(f"{TOKEN} is not set: {address} needs a token")
    if not token.isascii() or not token.isprintable():
        raise UsageError(f"{TOKEN}: has characters that no token has")
    return Server(address, token)


def data_folder() -> Path:
    """Return the data folder of this host's reef, as the settings have it."""
    if given := _variable("REEF_DATA_DIR"):
        return Path(given).expanduser().absolute()
    if not (PACKAGES / "reef_site" / "resources").is_dir():
        return PACKAGES / "data"
    home = _variable("REEF_HOME")
    return (Path(home).expanduser().absolute() if home else Path.home() / ".reef") / "data"


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _local_address(folder: Path) -> str:
    """Return the address that `up` has written down while it runs; empty without one."""
    try:
        return str(json.loads((folder / "up.json").read_text())["url"]).rstrip("/")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _stored_token(folder: Path) -> str:
    try:
        return (folder / "root-token").read_text().strip()
    except (OSError, ValueError):
        return ""
