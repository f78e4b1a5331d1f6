"""Changes of texts as lines that were kept, added or deleted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from lieutenants.transcript.terminal import mark_reordering

# Comparing takes the product of both numbers of lines, or more.
_MAX_COMPARED = 10_000
# Kept lines around a change.
_CONTEXT = 3
_MAX_LINES = 2_000
_UNIFIED = re.compile(r"\s*(?:diff --git |Index: |--- [^\n]*\n\+\+\+ )")
_TAGS = {"+": "ins", "-": "del"}

# The mark of a line (plus, minus, blank, or @ for a gap), and its text.
Line = tuple[str, str]


def compare(old: str, new: str) -> list[Line]:
    """Return the lines of both texts, with the mark of each; kept lines far from changes are gaps.

    Long texts are not compared line by line: what differs is deleted, and added anew.
    """
    before, after = old.splitlines(), new.splitlines()
    head = _count_equal(before, after)
    tail = _count_equal(before[head:][::-1], after[head:][::-1])
    old_middle = before[head : len(before) - tail]
    new_middle = after[head : len(after) - tail]
    lines = [(" ", each) for each in before[:head]]
    lines += _compare_lines(old_middle, new_middle)
    lines += [(" ", each) for each in before[len(before) - tail :]]
    return list(_with_gaps(lines))


def unified(text: str) -> list[Line]:
    """Return the lines of a unified diff with their marks."""
    found: list[Line] = []
    for line in text.splitlines():
        if line.startswith(("@@", "diff ", "index ", "--- ", "+++ ", "Index: ")):
            found.append(("@", line))
        else:
            mark = line[:1]
            # Lines around a diff have no mark.
            text = line[1:] if mark in _TAGS or mark == " " else line
            found.append((mark if mark in _TAGS else " ", text))
    return found


def is_unified(text: str) -> bool:
    """Return whether a text begins like a unified diff."""
    return _UNIFIED.match(text) is not None


def html(lines: Sequence[Line]) -> SafeString:
    """Return the lines as HTML; the marks are text, so that colour is not needed."""
    shown = "".join(_line_html(*each) for each in lines[:_MAX_LINES])
    if len(lines) > _MAX_LINES:
        shown += _line_html("@", f"… {len(lines) - _MAX_LINES:,} lines left out …")
    return mark_safe(shown)  # noqa: S308


def _line_html(mark: str, text: str) -> str:
    text = escape(mark_reordering(text))
    if mark == "@":
        return f'<span class="d-at">{text}</span>\n'
    tag = _TAGS.get(mark)
    line = f"{mark} {text}"
    return f"<{tag}>{line}</{tag}>\n" if tag else f"{line}\n"


def _count_equal(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the number of equal lines at the beginning."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _compare_lines(old: Sequence[str], new: Sequence[str]) -> Iterator[Line]:
    if len(old) * len(new) > _MAX_COMPARED:
        yield from (("-", each) for each in old)
        yield from (("+", each) for each in new)
        return
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if kind == "equal":
            yield from ((" ", each) for each in old[old_from:old_to])
        else:
            yield from (("-", each) for each in old[old_from:old_to])
            yield from (("+", each) for each in new[new_from:new_to])


def _with_gaps(lines: Sequence[Line]) -> Iterable[Line]:
    """Replace kept lines that are far from changes by one line that counts them."""
    changed = [number for number, (mark, _) in enumerate(lines) if mark != " "]
    near: set[int] = set()
    for number in changed:
        near.update(range(number - _CONTEXT, number + _CONTEXT + 1))
    skipped = 0
    for number, line in enumerate(lines):
        if number not in near:
            skipped += 1
            continue
        if skipped:
            yield "@", _gap(skipped)
            skipped = 0
        yield line
    if skipped:
        yield "@", _gap(skipped)


def _gap(count: int) -> str:
    return f"… {count:,} unchanged line{'s' if count > 1 else ''} …"
