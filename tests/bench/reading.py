"""CPU that the HTML of transcripts costs, for 100 kB of text of each kind.

.venv/bin/python tests/bench/reading.py
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

SIZE = 100_000
PROSE = (
    "Some **bold** words and `code`, see [x](https://a.example/b) or https://c.example.\n\n"
    "- one\n- two\n\n"
)
CODE = "def f(x: int) -> str:\n    # comment\n    return 'text' + str(x + 1)\n\n"
TABLE = "| a | b | c |\n|---|---|---|\n" + "| one | **two** | `3` |\n" * 40 + "\n"


def filled(text: str) -> str:
    return (text * (SIZE // len(text) + 1))[:SIZE]


def measure(name: str, render: Callable[[str], str], texts: list[str]) -> None:
    """Print the CPU per 100 kB of these texts, and the size of their HTML."""
    began, size = time.process_time(), 0
    for text in texts:
        size += len(render(text))
    seconds = (time.process_time() - began) * SIZE / sum(map(len, texts))
    print(
        f"{name:34} {seconds * 1000:7.1f} ms  {size * 100 // sum(map(len, texts)):5} % of the text"
    )


def main() -> None:
    """Measure all kinds."""
    import django

    django.setup()
    from lieutenants.transcript import diffs, highlighting, markdown, terminal

    def pieces(text: str, size: int) -> list[str]:
        whole = filled(text)
        # Each is another text, so that none is remembered.
        return [f"{at}\n\n{whole[at : at + size]}" for at in range(0, SIZE, size)]

    markdown.render("warm")
    highlighting.highlight("x = 1", "python")
    fenced = f"```python\n{CODE * 20}```\n\n"
    measure("Markdown, prose", markdown.render, pieces(PROSE, 10_000))
    measure("Markdown, code", markdown.render, pieces(fenced, 10_000))
    measure("Markdown, tables", markdown.render, pieces(TABLE, 10_000))
    measure("Markdown, the same again", markdown.render, pieces(PROSE, 10_000))
    measure(
        "first part of a long answer",
        lambda text: markdown.first_part(text).html,
        [filled(PROSE + "x")],
    )
    measure(
        "highlighted Python",
        lambda text: highlighting.highlight(text, "python"),
        pieces(CODE, 10_000),
    )
    measure(
        "terminal, plain lines",
        lambda text: terminal.html(text, SIZE),
        [filled("a line of output\n")],
    )
    coloured = filled("\x1b[32mPASSED\x1b[0m tests/test_x.py::test_y \x1b[36m[ 12%]\x1b[0m\n")
    measure("terminal, coloured lines", lambda text: terminal.html(text, SIZE), [coloured])
    measure("terminal, progress", lambda text: terminal.html(text, SIZE), [filled("12 % ####\r")])
    old = filled("one line\nanother line\n")
    changed = old.replace("another line\none line\n", "changed\n", 40)
    measure("diff of two texts", lambda text: diffs.html(diffs.compare(text, changed)), [old])


if __name__ == "__main__":
    main()
