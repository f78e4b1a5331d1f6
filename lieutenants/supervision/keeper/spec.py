"""The launch parameters."""

from __future__ import annotations

import os

from .control import seconds

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


class KeeperError(Exception):
    """The agent could not be started; the text says why."""


class Spec:
    """The launch parameters, see `Launch` in `lieutenants.supervision.transports`."""

    def __init__(self, given: dict[str, Any]) -> None:
        """Raises KeeperError that names the invalid field."""
        self.run = _text(given, "run")
        self.dir = _text(given, "dir", absolute=True)
        self.cwd = _text(given, "cwd", absolute=True)
        self.lock = _text(given, "lock", absolute=True, optional=True)
        self.tag = _text(given, "tag", optional=True)
        self.argv = _texts(given, "argv")
        self.heal = _texts(given, "heal", optional=True)
        self.warnings = _texts(given, "warnings", optional=True)
        self.env: dict[str, str] = given.get("env", {})
        self.isolation: dict[str, Any] = given.get("isolation", {"mode": "none"})
        self.hello: list[dict[str, Any]] = given.get("hello", [])
        self.stop_seconds = seconds(given.get("stop_seconds"), 3.0)
        if not self.argv:
            raise KeeperError("spec: argv is empty")
        if not isinstance(self.env, dict) or not all(
            isinstance(value, str) for value in self.env.values()
        ):
            raise KeeperError("spec: env must map names to texts")
        if not isinstance(self.isolation, dict):
            raise KeeperError("spec: isolation must be an object")
        if not isinstance(self.hello, list) or not all(
            isinstance(line, dict) for line in self.hello
        ):
            raise KeeperError("spec: hello must be a list of objects")

    @property
    def lieutenants(self) -> str:
        """Return the folder with the folders of all lieutenants: <it>/<id>/runs/<run>."""
        return os.path.dirname(os.path.dirname(os.path.dirname(self.dir)))

    @property
    def own_user(self) -> int:
        """Return the user that only this agent's processes have; 0 if it has none."""
        uid = self.isolation.get("uid")
        return uid if self.isolation.get("own_user") and type(uid) is int else 0


def _text(given: dict[str, Any], name: str, absolute: bool = False, optional: bool = False) -> str:
    value = given.get(name, "" if optional else None)
    if not isinstance(value, str) or not (value or optional):
        raise KeeperError("spec: {} must be a text".format(name))
    if absolute and value and not os.path.isabs(value):
        raise KeeperError("spec: {} must be an absolute path".format(name))
    return value


def _texts(given: dict[str, Any], name: str, optional: bool = False) -> list[str]:
    value = given.get(name, [] if optional else None)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise KeeperError("spec: {} must be a list of texts".format(name))
    return value
