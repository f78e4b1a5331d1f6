"""Markdown written by agents is harmless."""

from __future__ import annotations

import re

import pytest

from lieutenants.transcript.markdown import MAX_CHARACTERS, render


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&#58;alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](vbscript:x)",
        "[x](/lieutenants/ada/destroy)",
        "<img src=x onerror=alert(1)>",
        "<a href='javascript:alert(1)'>x</a>",
        "<javascript:alert(1)>",
        "![x](javascript:alert(1))",
        '[x](http://a.example/"onmouseover="alert(1))',
        '```html"><script>alert(1)</script>\n</code><script>\n```',
        "[x]: javascript:alert(1)\n\n[x]",
    ],
)
def test_markdown_lets_nothing_dangerous_through(text: str) -> None:
    html = render(text)
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"p", "a", "pre", "code"}
    for attributes in re.findall(r"<a ([^>]*)>", html):
        assert re.match(r'href="https?://[^"]*" rel="noopener noreferrer nofollow"', attributes)


def test_pictures_are_links_and_alignment_is_a_class() -> None:
    assert "<img" not in render("![a cat](https://cats.example/1.png)")
    assert ">[picture: a cat]</a>" in render("![a cat](https://cats.example/1.png)")
    assert '<td class="to-right">b</td>' in render("| a |\n|--:|\n| b |")


def test_very_long_text_stays_plain() -> None:
    html = render("**x** <b> " * (MAX_CHARACTERS // 5))
    assert html.startswith('<pre class="plain">**x** &lt;b&gt;')
