"""Names of VMs: new names have no invisible characters; in older names they are shown as marks."""

from __future__ import annotations

import unicodedata

from reef_site.common.errors import BadInput

# Control characters, format characters (such as text direction and zero width), and separators of
# lines and paragraphs.
_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp"})


def check(name: str, field: str = "name") -> None:
    """Raise BadInput if the name has control or invisible characters."""
    if found := next(filter(_is_invisible, name), ""):
        mark = _mark(found)
        raise BadInput(f"{field}: must not have control or invisible characters, {mark}", field)


def marked(name: str) -> str:
    """Return the name with a visible mark for each control or invisible character."""
    if name.isprintable():
        return name
    return "".join(f"[{_mark(sign)}]" if _is_invisible(sign) else sign for sign in name)


def _is_invisible(sign: str) -> bool:
    return unicodedata.category(sign) in _INVISIBLE


def _mark(sign: str) -> str:
    return f"U+{ord(sign):04X}"
