"""Typed readers of environment variables. An invalid value stops the start with one sentence.

Each reader takes the variable's name and the default for an unset or empty one.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


# Variables that reef itself sets: for its agents, its processes and its tests.
_INTERNAL = ("VERS_VM_ID", "VERS_AGENT_ROLE", "REEF_LIEUTENANT", "REEF_UP")
_INTERNAL_PREFIXES = ("REEF_TEST", "REEF_BENCH")
# Names that were read so far.
_known: set[str] = set()


class SettingError(SystemExit):
    """An invalid setting; as a SystemExit it ends the start without a traceback."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"reef: {name}: {problem}")


def text(name: str, default: str = "") -> str:
    """Return the variable's text, trimmed."""
    _known.add(name)
    return os.environ.get(name, "").strip() or default


def names(name: str, *, each: str = r"\S+") -> list[str]:
    """Return a list of words, separated by commas or blanks, that match the pattern `each`."""
    given = text(name).replace(",", " ").split()
    for word in given:
        if not re.fullmatch(each, word):
            raise SettingError(name, f"'{word}' is not valid here")
    return given


def networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Return a list of IP addresses and networks, separated by commas or blanks."""
    found = []
    for word in names(name):
        try:
            found.append(ipaddress.ip_network(word))
        except ValueError:
            problem = f"'{word}' is neither an IP address nor a network such as 10.0.0.0/8"
            raise SettingError(name, problem) from None
    return found


def fernet_keys(name: str) -> list[str]:
    """Return keys of 32 bytes in base64, separated by commas or blanks; errors hide them."""
    given = text(name).replace(",", " ").split()
    for number, word in enumerate(given, 1):
        try:
            good = len(base64.b64decode(word, altchars=b"-_", validate=True)) == 32
        except ValueError:
            good = False
        if not good:
            raise SettingError(name, f"its key number {number} is not 32 bytes in base64")
    return given


def matching(name: str, default: str, form: str) -> str:
    """Return a text that matches the regular expression `form`; the default if it is empty."""
    given = text(name)
    if given and not re.fullmatch(form, given):
        raise SettingError(name, f"'{given}' has invalid characters")
    return given or default


def integer(name: str, default: int, *, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`."""
    given = text(name)
    if not given:
        return default
    try:
        number = int(given)
    except ValueError:
        raise SettingError(name, f"'{given}' is not a whole number") from None
    if not least <= number <= most:
        raise SettingError(name, f"{number} is not between {least} and {most}")
    return number


def boolean(name: str, default: bool = False) -> bool:
    """Return the truth of yes/no, on/off, true/false or 1/0."""
    given = text(name).lower()
    if not given:
        return default
    if given in TRUE:
        return True
    if given in FALSE:
        return False
    raise SettingError(name, f"'{given}' is neither yes nor no")


def choice(name: str, default: str, valid: tuple[str, ...]) -> str:
    """Return one of the `valid` words, in upper case."""
    given = text(name, default).upper()
    if given not in valid:
        raise SettingError(name, f"'{given}' must be one of {', '.join(valid)}")
    return given


def word(name: str, default: str, valid: tuple[str, ...]) -> str:
    """Return one of the `valid` words, in lower case."""
    given = text(name, default).lower()
    if given not in valid:
        raise SettingError(name, f"'{given}' must be one of {', '.join(valid)}")
    return given


def time_zone(name: str, default: str) -> str:
    """Return the name of a time zone that this machine knows."""
    given = text(name, default)
    try:
        ZoneInfo(given)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingError(name, f"'{given}' is not a time zone") from None
    return given


def path(name: str, default: Path) -> Path:
    """Return an absolute path; a relative one starts at the working directory."""
    given = text(name)
    if "\0" in given:
        raise SettingError(name, "a path has no NUL byte")
    return Path(given).expanduser().absolute() if given else default


def url(name: str, default: str, schemes: tuple[str, ...]) -> str:
    """Return a URL whose scheme is one of `schemes`."""
    given = text(name, default)
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError as error:
        raise SettingError(name, f"is not a URL ({error})") from None
    if parts.scheme not in schemes:
        wanted = ", ".join(f"{scheme}://" for scheme in schemes)
        raise SettingError(name, f"must start with one of {wanted}")
    return given


def register_names(names: Iterable[str]) -> None:
    """Register names that are read elsewhere, such as the config keys of versconfig."""
    _known.update(names)


def warnings_for(names: Iterable[str]) -> list[str]:
    """Return a warning for each of these names that looks like a setting but is unknown.

    To be called when all settings have been read. Other programs use variables that begin with
    VERS_, too, so of those only near misses of our names are reported.
    """
    warnings = []
    for name in sorted(set(names) - _known - set(_INTERNAL)):
        if not name.startswith(("REEF_", "VERS_")) or name.startswith(_INTERNAL_PREFIXES):
            continue
        near = difflib.get_close_matches(name, sorted(_known), 1, 0.7 if name[0] == "R" else 0.85)
        if near:
            warnings.append(f"{name} is not a setting of reef; did you mean {near[0]}?")
        elif name.startswith("REEF_"):
            warnings.append(
                f"{name} is not a setting of reef; reef_site/docs/operations.md lists them"
            )
    return warnings
