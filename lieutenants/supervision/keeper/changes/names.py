"""Names of files as text: as git prints them, in quotes with escapes where they are odd.

A name is plain if it is UTF-8 that can be printed, without quotes and backslashes; all others are
like `"caf\\303\\251\\n.txt"`. The text can be turned back into exactly the same bytes.
"""

from __future__ import annotations

MAX_BYTES = 4096
_LETTERS = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_CODES = {letter: code for code, letter in _LETTERS.items()}


def quote(name: bytes) -> str:
    """Return the name as text; characters that cannot be printed are escaped."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and text.strip() == text and '"' not in text and "\\" not in text:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char.isprintable() and char not in '"\\':
        return char
    data = char.encode("utf-8", "surrogateescape")
    return "".join(
        "\\" + _LETTERS[code] if code in _LETTERS else "\\{:03o}".format(code) for code in data
    )


def unquote(text: str) -> bytes:
    """Return the name that this text stands for. Raises ValueError."""
    if not text.startswith('"'):
        return text.encode("utf-8")
    if len(text) < 2 or not text.endswith('"'):
        raise ValueError("has no closing quote")
    inner, name, at = text[1:-1], bytearray(), 0
    while at < len(inner):
        if inner[at] == '"':
            raise ValueError("has a quote that is not escaped")
        if inner[at] != "\\":
            name += inner[at].encode("utf-8")
            at += 1
        elif inner[at + 1 : at + 2] in _CODES:
            name.append(_CODES[inner[at + 1]])
            at += 2
        else:
            digits = inner[at + 1 : at + 4]
            if len(digits) != 3 or digits.strip("01234567") or int(digits, 8) > 255:
                raise ValueError("has an unknown escape")
            name.append(int(digits, 8))
            at += 4
    return bytes(name)


def parse_path(text: str) -> bytes:
    """Return the relative path that this text stands for. Raises ValueError."""
    path = unquote(text)
    if not path or len(path) > MAX_BYTES or b"\0" in path:
        raise ValueError("must be a path of 1 to {} bytes without NUL".format(MAX_BYTES))
    if any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise ValueError("must be a path below the folder, without empty parts, . and ..")
    return path
