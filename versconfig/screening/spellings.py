"""The forms in which a secret occurs in texts: as it is, escaped, and in base64.

All forms are without line breaks, like texts after `normalize`: tools break long values at 40, 64
or 76 columns, and JSON writes a break as two characters.
"""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote

BREAK = re.compile(r"[\r\n]|\\[nr]")
_ARMOR = "-----"


def normalize(text: str) -> str:
    """Return the text without line breaks, both characters and JSON escapes."""
    return BREAK.sub("", text)


def plain_forms(value: str) -> list[str]:
    """Return the value as it is, JSON-escaped and URL-quoted."""
    value = _without_armor(value)
    forms = [value, json.dumps(value, ensure_ascii=False)[1:-1], quote(value, safe="")]
    return _distinct(forms)


def base64_forms(value: str) -> list[str]:
    """Return the base64 forms of the value behind 0, 1 or 2 other bytes, in both alphabets.

    Characters that depend on neighbouring bytes are left out.
    """
    data = _without_armor(value).encode()
    forms = []
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data).decode()
        first, end = -(-8 * before // 6), 8 * (before + len(data)) // 6
        form = encoded[first:end]
        forms += [form, form.replace("+", "-").replace("/", "_")]
    return _distinct(forms)


def _distinct(forms: list[str]) -> list[str]:
    return list(dict.fromkeys(normalize(each) for each in forms))


def _without_armor(value: str) -> str:
    """Return a private key without its first and last line, which all keys share."""
    lines = value.splitlines()
    return "\n".join(line for line in lines if not line.startswith(_ARMOR))
