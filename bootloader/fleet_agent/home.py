"""The folder of this VM's membership: identity, tokens and state."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import stat
import tempfile
from typing import Dict, Optional

from .errors import AgentError, Json


class Home:
    """The folder of this VM's membership."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.identity_file = self.path("identity.json")
        self.state_file = self.path("run", "fleet-agent.json")

    def path(self, *names: str) -> str:
        """Return a path below the folder."""
        return os.path.join(self.folder, *names)

    def identity(self) -> Dict[str, str]:
        """Read identity.json. Raise AgentError."""
        try:
            found = json.loads(read_private(self.identity_file))
        except ValueError:
            raise AgentError("{} is not JSON".format(self.identity_file)) from None
        if not isinstance(found, dict):
            raise AgentError("{} is not an object".format(self.identity_file))
        return {str(key): str(value) for key, value in found.items() if value is not None}

    def join_token(self, identity: Dict[str, str]) -> str:
        """Return the join token; empty if there is none."""
        if identity.get("REEF_JOIN_TOKEN"):
            return identity["REEF_JOIN_TOKEN"].strip()
        path = self.path("join-token")
        return read_private(path).strip() if os.path.exists(path) else ""

    def nonce(self) -> str:
        """Return a random value that stays the same until the VM has joined."""
        path = self.path("run", "join-nonce")
        if not os.path.exists(path):
            write_private(path, secrets.token_urlsafe(24) + "\n")
        return read_private(path).strip()

    def keep_token(self, token: str, more: Optional[Dict[str, str]] = None) -> None:
        """Store the VM's own token in the identity files, and delete the join token."""
        identity = {**self.identity(), **(more or {}), "VERS_AUTH_TOKEN": token}
        identity.pop("REEF_JOIN_TOKEN", None)
        write_private(self.identity_file, json.dumps(identity, indent=1) + "\n")
        env = self.path("identity.env")
        if os.path.exists(env):
            write_private(env, with_token(read_private(env), token))
        for name in (self.path("join-token"), self.path("run", "join-nonce")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def state(self) -> Json:
        """Return the state written by the running agent; empty if there is none."""
        try:
            with open(self.state_file, "rb") as file:
                found = json.loads(file.read())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def read_private(path: str) -> str:
    """Read a file that only its owner may read. Raise AgentError."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            about = os.fstat(file.fileno())
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise AgentError(
                    "{} can be read by others; mend it with: chmod 600 {}".format(
                        path, shlex.quote(path)
                    )
                )
            if about.st_uid not in (os.geteuid(), 0):
                raise AgentError("{} belongs to somebody else".format(path))
            return file.read()
    except OSError as error:
        raise AgentError("{} cannot be read: {}".format(path, error.strerror)) from None


def write_private(path: str, text: str) -> None:
    """Write a file of mode 0600 atomically."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=folder, prefix=".fleet-agent-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def with_token(env: str, token: str) -> str:
    """Return lines of shell with VERS_AUTH_TOKEN set to this token, and without the join token."""
    setting = re.compile(r"(?m)^(export )?(VERS_AUTH_TOKEN|REEF_JOIN_TOKEN)=.*\n?")
    exported = any(line.startswith("export ") for line in env.splitlines())
    rest = setting.sub("", env)
    if rest and not rest.endswith("\n"):
        rest += "\n"
    word = "export " if exported else ""
    return "{}{}VERS_AUTH_TOKEN={}\n".format(rest, word, shlex.quote(token))


def changed_at(path: str) -> int:
    """Return a file's modification time in nanoseconds; 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
