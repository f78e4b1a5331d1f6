"""Markdown written by agents is harmless."""

from __future__ import annotations

import re
import time
from html import unescape
from typing import Any

import pytest
from markdown_it.token import Token

from lieutenants.transcript import markdown
from lieutenants.transcript.markdown import (
    MAX_CHARACTERS,
    PART_CHARACTERS,
    first_part,
    plain_text,
    render,
    render_unfinished,
)


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
        "javascript://a.example/%0aalert(1)",
        'https://a.example/"onmouseover=alert(1)',
        "https://a.example/<script>alert(1)</script>",
        "```diff\n+<script>\n-<img src=x onerror=alert(1)>\n```",
        "```python\n'<script>' # <b>\n```",
        "```js onload=alert(1)\nx</code>\n```",
        "![<b>](data:image/png;base64,AAAA)",
    ],
)
def test_markdown_lets_nothing_dangerous_through(text: str) -> None:
    html = render(text)
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"p", "a", "pre", "code", "span", "ins", "del"}
    assert set(re.findall(r"<span ([^>]*)>", html)) <= {f'class="s-{each}"' for each in "cksnfab"}
    for attributes in re.findall(r"<a ([^>]*)>", html):
        assert re.match(r'href="https?://[^"]*" rel="noopener noreferrer nofollow"', attributes)


def test_pictures_are_links_and_alignment_is_a_class() -> None:
    assert "<img" not in render("![a cat](https://cats.example/1.png)")
    assert ">[picture: a cat]</a>" in render("![a cat](https://cats.example/1.png)")
    assert '<td class="to-right">b</td>' in render("| a |\n|--:|\n| b |")


def test_addresses_are_links_and_mail_is_not() -> None:
    html = render("see https://a.example/x_y_z (or `https://b.example`), [m](mailto:a@b.example).")
    assert html.count("<a ") == 1
    assert '<a href="https://a.example/x_y_z" rel="noopener noreferrer nofollow" target' in html
    assert render("[https://a.example](https://b.example)").count("<a ") == 1


def test_code_is_coloured_by_classes_in_its_language_only() -> None:
    assert '<span class="s-k">def </span>' in render("```python\ndef f\n```")
    assert "span" not in render("```nonsense\ndef\n```")
    assert "span" not in render("```python\n" + "x" * 3000 + "\n```")
    diff = render("```diff\n@@ -1 +1 @@\n-old\n+new\n same\n```")
    assert '<span class="d-at">@@ -1 +1 @@</span>\n<del>- old</del>\n<ins>+ new</ins>\n' in diff
    assert "style=" not in diff


def test_tables_scroll_and_tasks_have_boxes() -> None:
    table = render("| a |\n|--:|\n| b |")
    assert table.startswith('<div class="wide-table" role="group" aria-label="Table" tabindex="0">')
    assert table.count("<div") == table.count("</div>")
    assert "<li>☑ done</li>\n<li>☐ open [x]</li>" in render("- [x] done\n- [ ] open [x]")


def test_pictures_within_texts_are_no_walls() -> None:
    wall = "A" * 5_000
    assert render(f"![a cat](data:image/png;base64,{wall})") == "<p>[picture: a cat]</p>\n"
    assert len(render(f"url(data:font/woff2;base64,{wall})")) < 100


@pytest.mark.parametrize(
    "text", [">" * 5_000, "\n".join("  " * depth + "- x" for depth in range(200)), "> - " * 9_000]
)
def test_deeply_nested_text_is_shown_as_it_is(text: str) -> None:
    assert unescape(render(text)) == f'<pre class="plain">{text}</pre>'
    assert unescape(render("> " * 8 + "deep")).count("<blockquote>") == 8


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 60_000, "![" * 30_000, "[a](" * 15_000, "**a *b " * 8_000, "`" * 60_000),
        *("https://a/" * 6_000, "|\n|-|\n" * 8_000, "<" * 60_000, "[a]: http://x\n" * 4_000),
        "```python\n" + "('" * 9_000 + "\n```",
        "```js\n" + "/*" * 900 + "`${" * 900 + "\n```",
    ],
)
def test_no_text_of_60_kb_takes_long(text: str) -> None:
    began = time.process_time()
    render(text)
    assert time.process_time() - began < 5


def test_very_long_text_stays_plain() -> None:
    html = render("**x** <b> " * (MAX_CHARACTERS // 5))
    assert html.startswith('<pre class="plain">**x** &lt;b&gt;')


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\r\r\n"])
@pytest.mark.parametrize(("begin", "between"), [("", 2), ("```py", 1)])
def test_parts_of_a_long_text_are_cut_at_its_lines(begin: str, between: int, end: str) -> None:
    lines = [begin, *(f"line {number} {'x' * (number % 7)}" for number in range(9_000))]
    rest = (end * between).join(lines)
    fence, shown = "", []
    while rest:
        part = first_part(rest, fence=fence)
        assert 0 < part.length <= PART_CHARACTERS
        cut, rest = rest[: part.length], rest[part.length :]
        assert not rest or (cut.endswith(("\n", "\r")) and not rest.startswith("\n"))
        shown += re.findall(r"line (?:<[^>]*>)?(\d+)", str(part.html))
        fence = part.fence
    assert shown == [str(number) for number in range(9_000)]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("gave back **4 lines**:\n```\na *b\n```", "gave back 4 lines: a *b"),
        (
            "# Done\n\n- `make` is _green_\n- see [the log](https://a.example/x)",
            "Done make is green see the log",
        ),
        ("1 < 2 &amp; <b>x</b> ![a cat](https://cats.example/1.png)", "1 < 2 & <b>x</b> a cat"),
        ("one\ntwo  \nthree ```cut", "one two three ```cut"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a b 1 2"),
        ("", ""),
    ],
)
def test_plain_text_has_the_words_only(text: str, plain: str) -> None:
    assert " ".join(plain_text(text).split()) == plain


@pytest.mark.parametrize(
    ("text", "html", "rest", "continues"),
    [
        ("one **two** th", "<p>one <strong>two</strong> th</p>", "", True),
        ("one **tw", "<p>one **tw</p>", "", True),
        ("one\n- two ", "<li>two</li>", " ", True),
        ("one\n\n", "<p>one</p>", "", False),
        # Not a heading yet: this may become a list.
        ("one\n-", "<p>one</p>", "-", False),
        ("a | b\n|--", "<p>a | b</p>", "|--", False),
        ("a `x` b\n```py\nx", "<p>a <code>x</code> b</p>", None, True),
        ("```\nx\n", "<pre><code>x\n</code></pre>", "", True),
        ("```\nx\n```\n", "<pre><code>x\n</code></pre>", "", False),
        # The language may go on.
        ("x\n\n```py", "<p>x</p>", "```py", False),
        ("```\nx  ", "<pre><code>x</code></pre>", "  ", True),
        ("> " * 30 + "x\u202ey", "x[U+202E]y</pre>", "", True),
        ("<b>x</b>\u202ey", "<p>&lt;b&gt;x&lt;/b&gt;[U+202E]y</p>", "", True),
        ("", "", "", False),
    ],
)
def test_unfinished_text_is_formatted_as_far_as_it_is_clear(
    text: str, html: str, rest: str | None, continues: bool
) -> None:
    found = render_unfinished(text)
    assert html in str(found.html)
    assert rest is None or found.rest == rest
    assert found.continues is continues


ANSWER = """# Title one

A *short* text with `code` and ~~old~~ words
that goes on

1. first
2. second
   - inner **bold**

| a | b |
|---|---|
| 1 | 2 |

```
def f(x):
    return x
```

> quoted
=== end"""


@pytest.mark.parametrize("length", range(len(ANSWER) + 1))
def test_unfinished_text_shows_each_word(length: int) -> None:
    found = render_unfinished(ANSWER[:length])
    shown = unescape(re.sub(r"<[^>]*>", " ", str(found.html))) + found.rest
    # Without the marks within words.
    written = re.sub(r"[*~`]", "", ANSWER[:length])
    assert re.findall("[a-zA-Z]+", shown) == re.findall("[a-zA-Z]+", written)


@pytest.mark.parametrize("length", range(1_000, 40_000, 3_001))
def test_unfinished_text_in_pieces_is_formatted_as_one(length: int) -> None:
    text = f"{ANSWER}\n\n".replace("===", "and") * 200
    found = render_unfinished(text[:length])
    written = text[: length - len(found.rest)]
    assert str(found.html) == str(render(written))


def test_unfinished_text_is_not_rendered_again_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered: list[int] = []

    def count(text: str, *arguments: Any) -> list[Token]:
        rendered.append(len(text))
        return parse(text, *arguments)

    parse = markdown._PARSER.parse
    monkeypatch.setattr(markdown._PARSER, "parse", count)
    text = "Some *words* here.\n\n" * 2_500
    for length in (len(text) - 100, len(text)):
        rendered.clear()
        render_unfinished(text[:length])
    assert sum(rendered) < 20_000


def test_very_long_last_block_of_an_unfinished_text_stays_as_it_is() -> None:
    block = "**x** " * 6_000
    found = render_unfinished(f"*first*\n\n{block}")
    assert "<em>first</em>" in str(found.html)
    assert (found.rest, found.continues) == (block, False)


def test_long_code_of_an_unfinished_text_is_code() -> None:
    found = render_unfinished("```\n" + "x = 1\n" * 8_000)
    assert (str(found.html)[:11], found.rest, found.continues) == ("<pre><code>", "", True)
