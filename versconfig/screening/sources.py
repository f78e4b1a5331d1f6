"""Where the secrets are that reef knows, and the `Screen` that covers all of them.

A source has a cheap fingerprint, so that a change anywhere is noticed by every process without
opening anything. Other apps register theirs in `AppConfig.ready`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings

from versconfig import files, vault
from versconfig.exceptions import Unreadable
from versconfig.keys import ALL
from versconfig.models import Version
from versconfig.screening.screen import Screen, Secret
from vmtree.exceptions import FleetError

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
# Old values may be in the environment of agents that were started with them.
MAX_VERSIONS = 1000
_SECRET_NAME = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


@dataclass(frozen=True)
class Source:
    """`fingerprint` differs whenever `secrets` would give something else."""

    fingerprint: Callable[[], Hashable]
    secrets: Callable[[], Iterable[Secret]]


_sources: dict[str, Source] = {}
_lock = threading.Lock()
_known: tuple[Hashable, Screen] | None = None
_first: Screen | None = None
_checked_at = 0.0
_unsealed: dict[str, str] = {}


def register(name: str, source: Source) -> None:
    """Cover the secrets of this source, too; the first source of a value names it."""
    _sources[name] = source


def current(*, recheck: bool = False) -> Screen:
    """Return the screen for all secrets there are, at most `CHECK_SECONDS` old.

    With `recheck` it has every secret that is committed now.
    """
    global _known, _checked_at
    with _lock:
        now = time.monotonic()
        if _known and not recheck and now - _checked_at < CHECK_SECONDS:
            return _known[1]
        mark = tuple(source.fingerprint() for source in _sources.values())
        if _known is None or _known[0] != mark:
            secrets = [each for source in _sources.values() for each in source.secrets()]
            _known = (mark, Screen(secrets))
        _checked_at = now
        return _known[1]


def latest() -> Screen:
    """Return the newest screen of this process, without a look at the database.

    Before there is one it has what needs no database: reef's own secrets and the environment's.
    """
    global _first
    if _known:
        return _known[1]
    if _first is None:
        _first = Screen([*_own_secrets(), *_environment()])
    return _first


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


# -- environment, files, and what is stored ------------------------------------------------------


def _environment() -> tuple[Secret, ...]:
    names = [key.name for key in ALL.values() if key.secret]
    names += [name for name in settings.AGENT_ENV if _SECRET_NAME.search(name)]
    found = [Secret(name, os.environ.get(name, "")) for name in dict.fromkeys(names)]
    proxies = [Secret(f"{each} password", _password_of(os.environ.get(each))) for each in _PROXIES]
    return tuple(each for each in (*found, *proxies) if each.value)


def _files_fingerprint() -> Hashable:
    return tuple(_changed(files.folder() / name) for name in files.NAMES)


def _files_secrets() -> Iterator[Secret]:
    found = files.read()
    for key in ALL.values():
        if key.secret:
            yield from (Secret(key.name, value) for _, value, _ in found.layers(key) if value)


def _stored_fingerprint() -> Hashable:
    newest = Version.objects.exclude(sealed="").order_by("-pk").values_list("pk", "sealed").first()
    return newest, _changed(vault.key_file())


def _stored_secrets() -> list[Secret]:
    global _unsealed
    rows = Version.objects.exclude(sealed="").order_by("-pk")
    known, _unsealed = _unsealed, {}
    found = []
    for key, sealed in rows.values_list("key", "sealed")[:MAX_VERSIONS]:
        text = known.get(sealed) or unseal(key, partial(vault.unseal, key, sealed))
        _unsealed[sealed] = text
        found.append(Secret(key, text))
    return found


def unseal(what: str, opened: Callable[[], str]) -> str:
    """Return what `opened` gives; empty, with a line in the log, if it cannot be read."""
    try:
        return opened()
    except FleetError as error:
        logger.warning("%s cannot be read, so it is not covered in texts: %s", what, error)
        return ""


# -- the agent's own folder ----------------------------------------------------------------------


def _agent_files() -> list[Path]:
    return [settings.AGENT_CONFIG_DIR / name for name in ("models.json", "auth.json")]


def agent_secrets() -> Iterator[Secret]:
    """Find keys that operators gave the agents in files of their own."""
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
    """Find the keys of providers in the agent's files, named by their provider."""
    if not isinstance(value, dict):
        return
    for key, each in value.items():
        if isinstance(each, str) and key in ("apiKey", "key", "access", "refresh"):
            # One that begins with a sign is a command or a variable's name.
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
    """Return the file's time and size; None without one."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


register("reef", Source(_own_fingerprint, _own_secrets))
register("environment", Source(_environment, _environment))
register("store", Source(_stored_fingerprint, _stored_secrets))
register("files", Source(_files_fingerprint, _files_secrets))
register("agent", Source(lambda: tuple(map(_changed, _agent_files())), agent_secrets))
