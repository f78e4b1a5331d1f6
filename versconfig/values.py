"""Parsing, validation and masking of values. Error texts never repeat the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from reef_site.common.hooks import Hook
from versconfig.keys import Key, Kind, matches

MAX_LENGTH = 16_000
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})
MAX_LABELS = 64
# Visible characters of a secret, for operators (as in the wire contract) and for nodes.
MASK_OPERATOR, MASK_NODE = 8, 3
# User and password of a URL: up to the last @ before the path.
_USERINFO = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*://)?.*@", re.DOTALL)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9._:/@ -]{0,255}")


# Further rules for a key's values: takes the text, returns what is wrong with it.
Rule = Callable[[str], str]
value_rules: Hook[Rule] = Hook(
    "config.value_rules", "Say what is wrong with a value; the hook's key is the name of the key."
)


def problem(key: Key, text: str) -> str:
    """Return what is wrong with this value of the key; empty if nothing is."""
    if len(text) > MAX_LENGTH:
        return f"must have at most {MAX_LENGTH} characters"
    allows_breaks = key.kind is Kind.LINES
    if any(not (char.isprintable() or (allows_breaks and char in "\r\n")) for char in text):
        return "has characters that cannot be in it"
    if key.secret and not text.isascii():
        # Secrets are sent in headers, or are key files.
        return "has letters that no key has; use plain ASCII"
    rule = value_rules.get(key.name)
    return _parse_problem(key, text) or (rule(text) if rule else "")


def mask(text: str | None, most: int = MASK_OPERATOR) -> str | None:
    """Return the beginning of a secret: at most `most` characters, never more than a quarter."""
    return None if text is None else text[: min(most, len(text) // 4)] + "..."


def is_secret(key: Key, text: str) -> bool:
    """Return whether to encrypt and mask the value; a URL is secret if it has a password."""
    return key.secret or (key.kind is Kind.URL and "@" in text)


def shown(key: Key, text: str | None, most: int = MASK_OPERATOR) -> str | None:
    """Return the value, masked if secret; at most `most` characters of a secret are visible."""
    if text is None or not is_secret(key, text):
        return text
    return mask(text, most) if key.secret else _USERINFO.sub(r"\1…@", text)


def integer(key: Key, text: str) -> int:
    """Return the number. Raises ValueError with the problem."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or not key.least <= int(text) <= key.most:
        raise ValueError(f"must be a whole number from {key.least} to {key.most}")
    return int(text)


def boolean(text: str) -> bool:
    """Return the boolean. Raises ValueError."""
    word = text.lower()
    if word not in TRUE | FALSE:
        raise ValueError("must be yes or no")
    return word in TRUE


def names(key: Key, text: str) -> list[str]:
    """Return the words between commas or blanks. Raises ValueError."""
    found = text.replace(",", " ").split()
    if not all(matches(key.form, word) for word in found):
        raise ValueError("has a word that cannot be in it")
    return found


def pairs(text: str) -> dict[str, str]:
    """Parse `a=b, c=d`. Raises ValueError."""
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, sign, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not sign or not _LABEL.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError("must be like name=value, other=value")
        found[name] = value
    if len(found) > MAX_LABELS:
        raise ValueError(f"must be at most {MAX_LABELS} pairs")
    return found


def lines(key: Key, text: str) -> list[str]:
    """Return the lines without empty ones and comments. Raises ValueError."""
    found = [line.strip() for line in text.splitlines()]
    found = [line for line in found if line and not line.startswith("#")]
    if not all(matches(key.form, line) for line in found):
        raise ValueError("has a line that cannot be in it")
    return found


def url(text: str) -> str:
    """Return an http(s) URL with a host. Raises ValueError."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text):
        raise ValueError("must be a URL that starts with http:// or https://")
    return text


def _text(key: Key, text: str) -> str:
    if not matches(key.form, text):
        raise ValueError(
            f"must be {key.like}" if key.like else "has not the form that it must have"
        )
    if key.choices and text not in key.choices:
        raise ValueError(f"must be one of {', '.join(key.choices)}")
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must be an absolute path")
    return text


# Parses values of each kind; raises ValueError with the problem.
_READERS: dict[Kind, Callable[[Key, str], object]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: integer,
    Kind.BOOLEAN: lambda _key, text: boolean(text),
    Kind.URL: lambda _key, text: url(text),
    Kind.NAMES: names,
    Kind.PAIRS: lambda _key, text: pairs(text),
    Kind.LINES: lines,
    Kind.PATH: lambda _key, text: _path(text),
}


def _parse_problem(key: Key, text: str) -> str:
    try:
        _READERS[key.kind](key, text)
    except ValueError as error:
        return str(error)
    return ""
