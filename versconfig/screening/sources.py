"""Sources of the secrets that reef knows, and the `Screen` that masks all of them.

A source has a cheap fingerprint, so that every process notices a change without decrypting
anything. Other apps register theirs in `AppConfig.ready`. Secrets stored by nodes do not belong to
a source: they are masked only in texts of the node and its descendants, see `for_node`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings

from reef_site.common.hooks import Hook
from versconfig import files, vault
from versconfig.exceptions import Unreadable
from versconfig.keys import ALL
from versconfig.screening import stored
from versconfig.screening.screen import Screen, Secret
from versconfig.screening.stored import unseal as unseal

logger = logging.getLogger(__name__)

_MAX_SCREENS = 500
_SECRET_NAME = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


@dataclass(frozen=True)
class Source:
    """A source of secrets. `fingerprint` changes whenever `secrets` would return something else."""

    fingerprint: Callable[[], Hashable]
    secrets: Callable[[], Iterable[Secret]]
    # Whether every local agent gets these secrets.
    for_agents: bool = False


@dataclass(frozen=True)
class _Known:
    """All secrets at one moment, compiled, and the screens of nodes built from them."""

    began: float
    fingerprint: Hashable
    secrets: tuple[Secret, ...]
    # The secrets that every local agent gets.
    for_agents: tuple[Secret, ...]
    screen: Screen
    of_nodes: dict[Hashable, Screen] = field(default_factory=dict)


secret_sources: Hook[Source] = Hook(
    "screening.secret_sources",
    "Secrets that are covered in texts and logs; the first source of a value names it.",
)
_lock = threading.Lock()
_local = threading.local()
_known: _Known | None = None
_first: Screen | None = None
_checked_at = 0.0


def current(*, recheck: bool = False) -> Screen:
    """Return the screen for whole secrets, at most `stored.CHECK_SECONDS` old.

    With `recheck` it has every secret that is committed now.
    """
    return _current(recheck=recheck).screen


def recheck() -> None:
    """Look for changes now, once for the many screens that are asked for after it."""
    _current(recheck=True)
    stored.recheck()


def for_node(
    vm_id: str, versions: Sequence[int] = (), *, is_agent: bool = False, recheck: bool = False
) -> Screen:
    """Return the screen for texts of a node, with the secrets stored by it and its ancestors.

    For a local agent it also masks fragments and edges of the secrets that the agent has: those of
    every agent, and stored ones of these versions.
    """
    known = _current(recheck=recheck)
    line = stored.of_line(vm_id, recheck=recheck)
    if not is_agent and not line:
        return known.screen
    key = (line, tuple(versions), is_agent)
    screen = known.of_nodes.get(key)
    if screen is None:
        own = (*known.for_agents, *stored.of_versions(versions)) if is_agent else ()
        # Many lieutenants share the same secrets.
        same = (line, own)
        screen = known.of_nodes.get(same) or Screen((*known.secrets, *line), own)
        if len(known.of_nodes) > _MAX_SCREENS:
            known.of_nodes.clear()
        known.of_nodes[key] = known.of_nodes[same] = screen
    return screen


def latest() -> Screen:
    """Return the newest screen of this process, without a query.

    Before the first query it has only reef's own secrets and the environment's.
    """
    global _first
    if _known:
        return _known.screen
    if _first is None:
        _first = Screen([*_own_secrets(), *_environment(), *_agents_environment()])
    return _first


def is_being_read() -> bool:
    """Return whether this thread is reading secrets right now."""
    return getattr(_local, "is_reading", False)


def age_seconds() -> float:
    """Return how long ago this process checked for secrets."""
    return time.monotonic() - _checked_at if _known else float("inf")


def _current(*, recheck: bool) -> _Known:
    global _known, _checked_at
    began, known = time.monotonic(), _known
    if known and not recheck and began - _checked_at < stored.CHECK_SECONDS:
        return known
    # Read and compiled without the lock: other threads go on with the old screen.
    _local.is_reading = True
    try:
        fingerprint = tuple(source.fingerprint() for source in secret_sources)
        if known is None or known.fingerprint != fingerprint:
            known = _read(began, fingerprint)
    finally:
        _local.is_reading = False
    with _lock:
        if _known is None or _known.began <= known.began:
            _known = known
        _checked_at = max(_checked_at, began)
    return known


def _read(began: float, fingerprint: Hashable) -> _Known:
    everything: list[Secret] = []
    for_agents: list[Secret] = []
    for source in secret_sources:
        found = [each for each in source.secrets() if each.value]
        everything += found
        for_agents += found if source.for_agents else []
    return _Known(began, fingerprint, tuple(everything), tuple(for_agents), Screen(everything))


# -- reef itself ---------------------------------------------------------------------------------


def _own_fingerprint() -> Hashable:
    own = (settings.ROOT_TOKEN, settings.SECRET_KEY, settings.REDIS_URL, settings.EDGE_KEY)
    return own, tuple(settings.CONFIG_KEYS), _changed(vault.key_file())


def _own_secrets() -> Iterator[Secret]:
    yield Secret("root token", settings.ROOT_TOKEN)
    yield Secret("secret key", settings.SECRET_KEY)
    yield Secret("edge key", settings.EDGE_KEY)
    try:
        keys = vault.keys()
    except Unreadable as error:
        logger.warning("keys of stored secrets are not covered: %s", error)
        keys = []
    yield from (Secret("config key", key) for key in keys)
    yield Secret("database password", str(settings.DATABASES["default"].get("PASSWORD") or ""))
    yield Secret("Redis password", _password_of(settings.REDIS_URL))
    yield Secret("mail password", settings.EMAIL_HOST_PASSWORD)


# -- environment, files, and what is stored ------------------------------------------------------


def _environment() -> tuple[Secret, ...]:
    """Return the secrets of reef's environment that agents do not get."""
    names = [key.name for key in ALL.values() if key.secret and key.name not in settings.AGENT_ENV]
    return _variables(names, [name for name in _PROXIES if name not in settings.AGENT_ENV])


def _agents_environment() -> tuple[Secret, ...]:
    """Return the secrets that every local agent gets from reef's environment."""
    passed = settings.AGENT_ENV
    secret = {key.name for key in ALL.values() if key.secret}
    names = [name for name in passed if name in secret or _SECRET_NAME.search(name)]
    return _variables(names, [name for name in _PROXIES if name in passed])


def _variables(names: Iterable[str], proxies: Iterable[str]) -> tuple[Secret, ...]:
    found = [Secret(name, os.environ.get(name, "")) for name in dict.fromkeys(names)]
    found += [Secret(f"{each} password", _password_of(os.environ.get(each))) for each in proxies]
    return tuple(each for each in found if each.value)


def _files_fingerprint() -> Hashable:
    return tuple(_changed(files.folder() / name) for name in files.FILE_NAMES)


def _files_secrets() -> Iterator[Secret]:
    found = files.read()
    for key in ALL.values():
        if key.secret:
            yield from (Secret(key.name, value) for _, value, _ in found.layers(key) if value)


def _stored_fingerprint() -> Hashable:
    return stored.fingerprint(), _changed(vault.key_file())


# -- the agent's own folder ----------------------------------------------------------------------


def _agent_files() -> list[Path]:
    return [settings.AGENT_CONFIG_DIR / name for name in ("models.json", "auth.json")]


def _agent_fingerprint() -> Hashable:
    return tuple(map(_changed, _agent_files()))


def agent_secrets() -> Iterator[Secret]:
    """Yield keys from the files in which operators configure the agents."""
    for path in _agent_files():
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read (%s); keys in it are not covered", path.name, error)
            continue
        yield from _keys_in(found, path.stem)


def _keys_in(value: Any, name: str) -> Iterator[Secret]:
    """Yield the keys of providers in an agent's file, named after their provider."""
    if not isinstance(value, dict):
        return
    for key, each in value.items():
        if isinstance(each, str) and key in ("apiKey", "key", "access", "refresh"):
            # A value that begins with such a sign is a command or a variable's name.
            if not each.startswith(("!", "$")):
                yield Secret(f"{name} key", each)
        elif isinstance(each, dict):
            yield from _keys_in(each, name if key == "providers" else str(key)[:40])


def _password_of(url: object) -> str:
    try:
        return unquote(urlsplit(str(url or "")).password or "")
    except ValueError:
        return ""


def _changed(path: Path) -> tuple[int, int] | None:
    """Return the file's modification time and size; None without a file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


_OWN_SOURCES = {
    "reef": Source(_own_fingerprint, _own_secrets),
    "environment": Source(_environment, _environment),
    "agents": Source(_agents_environment, _agents_environment, for_agents=True),
    "store": Source(_stored_fingerprint, stored.everywhere),
    "files": Source(_files_fingerprint, _files_secrets),
    "agent": Source(_agent_fingerprint, agent_secrets, for_agents=True),
}
for _name, _source in _OWN_SOURCES.items():
    secret_sources.register(_source, key=_name)
