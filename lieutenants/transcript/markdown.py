"""Renders the Markdown of agents as safe HTML.

Raw HTML is escaped, images become links, links may lead only to the web, and there are no inline
styles. Code is coloured, and addresses of the web are links. Texts that are nested too deeply for
the parser are shown as they are. A very long text is rendered in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from lieutenants.transcript import diffs, highlighting, links
from lieutenants.transcript.rendered import Remembered
from lieutenants.transcript.terminal import mark_reordering

# Longer texts are rendered in parts of about this many characters.
MAX_CHARACTERS = 60_000
PART_CHARACTERS = 30_000
# An unfinished text is rendered in pieces of less than this, if its blocks are not longer.
_PIECE = 8_000
# The parser leaves out what is nested more deeply.
_MAX_NESTING = 20
# Code with longer lines can be scrolled, so it can have the focus.
_WIDE = 80
_FENCE = re.compile(r"(?P<mark>`{3,20}|~{3,20})(?P<language>[\w+#.-]{0,40})")
# A last line that may turn the paragraph before it into a heading, a list or a table, or that opens
# a code block, whose language may not be complete.
_UNDECIDED = re.compile(r"[ \t]*(?:[-=*_#>`~|+:\d.)]+[ \t]*|`{3,}[^`]*|~{3,}.*)")
# As the parser sees them. A carriage return at the very end may be half of one.
_LINE_END = re.compile(r"\r\n|\r(?!\Z)|\n")
# Images within texts are walls of base64.
_PICTURE = re.compile(r"!\[([^\[\]\n]{0,200})\]\(data:image/[\w.+-]{1,40};base64,[A-Za-z0-9+/=]*\)")
_BASE64 = re.compile(r"(data:\w{1,40}/[\w.+-]{1,60};base64,)[A-Za-z0-9+/=]{200,}")
_BOXES = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}
_remembered = Remembered(8_000_000)


@dataclass(frozen=True)
class Part:
    """The beginning of a text as HTML, and how many of its characters that are.

    `fence` opens the code block in which the rest begins, if any.
    """

    html: SafeString
    length: int
    fence: str = ""


@dataclass(frozen=True)
class Unfinished:
    """A text that is still being written: what is clear of it as HTML, and the rest as it is.

    With `continues`, what is written next belongs into the last element of `html`.
    """

    html: SafeString
    rest: str
    continues: bool


def render(text: str) -> SafeString:
    """Return a text as safe HTML; very long ones, and those nested too deeply, as plain text."""
    text = mark_reordering(text)
    if len(text) > MAX_CHARACTERS:
        return _plain(text)
    return _remembered.get(text, lambda: _render(text))


def render_unfinished(text: str) -> Unfinished:
    """Return a text that is still being written.

    This is done about once a second for each reader. So only the last blocks are rendered anew, and
    a last block that is very long stays plain.
    """
    *pieces, last = _pieces(_decided(text))
    begin = sum(map(len, pieces))
    html = [render(piece) for piece in pieces]
    # Code takes little time.
    if len(last) > PART_CHARACTERS and not _FENCE.match(last):
        return Unfinished(_joined(html), text[begin:], continues=False)
    is_cut = not last.endswith("\n")
    # Spaces at the end are not in the HTML, and words follow them.
    shown = last.rstrip(" \t") if is_cut else last
    marked = mark_reordering(shown)
    tokens = _parse(marked)
    html.append(_html(tokens, marked))
    continues = bool(last) and (is_cut or _is_in_code(shown, tokens))
    return Unfinished(_joined(html), text[begin + len(shown) :], continues)


def _decided(text: str) -> str:
    """Return the text without a last line that may become part of the block before it."""
    before, newline, line = text.rpartition("\n")
    return before + newline if _UNDECIDED.fullmatch(line) else text


def _pieces(text: str) -> Iterator[str]:
    """Split a text between its blocks. When it gets longer, all pieces but the last stay."""
    begin, size = 0, _PIECE
    while begin + size < len(text):
        if length := _complete_length(text[begin : begin + size]):
            yield text[begin : begin + length]
            begin, size = begin + length, _PIECE
        else:
            size *= 2
    yield text[begin:]


@lru_cache(maxsize=256)
def _complete_length(head: str) -> int:
    """Return the length of the blocks before the last one, in a text that goes on."""
    lines = _decided(head)
    tokens: list[Token] = []
    _PARSER.block.parse(lines, _PARSER, {}, tokens)
    begins = [each.map[0] for each in tokens if each.level == 0 and each.map]
    if not begins or not begins[-1]:
        return 0
    ends = [each.end() for each in _LINE_END.finditer(lines)]
    return ends[begins[-1] - 1]


def _is_in_code(text: str, tokens: Sequence[Token]) -> bool:
    """Return whether a text ends within a code block that is open."""
    last = tokens[-1] if tokens else None
    if last is None or last.type != "fence" or last.map is None:
        return False
    lines = _LINE_END.split(text.rstrip())
    mark = lines[-1].strip()
    is_mark = set(mark) == {last.markup[0]} and len(mark) >= len(last.markup)
    return not is_mark or len(lines) - 1 <= last.map[0]


def _joined(pieces: Sequence[SafeString]) -> SafeString:
    return format_html_join("", "{}", ((piece,) for piece in pieces))


def first_part(text: str, *, fence: str = "", is_cut: bool = False) -> Part:
    """Return the first part of a text that may be longer than one, cut between its blocks.

    `fence` opens the code block in which the text begins. With `is_cut` the text goes on behind
    what is given, so its last block is not complete.
    """
    if not is_cut and len(text) <= PART_CHARACTERS:
        return Part(render(_opened(text, fence)), len(text))
    head = text[:PART_CHARACTERS]
    length, inner = _place_to_cut(head, fence)
    return Part(render(_opened(head[:length], fence)), length, inner)


def is_fence(text: str) -> bool:
    """Return whether this opens a code block, as `Part.fence` does."""
    return _FENCE.fullmatch(text) is not None


def _opened(text: str, fence: str) -> str:
    return f"{fence}\n{text}" if fence else text


def _place_to_cut(head: str, fence: str) -> tuple[int, str]:
    """Return where to cut a text that goes on, and what opens the code block that is cut."""
    text = _opened(head, fence)
    ends = [each.end() for each in _LINE_END.finditer(text)]
    blocks = [each for each in _PARSER.parse(text) if each.level == 0 and each.map]
    last = blocks[-1] if blocks else None
    skipped = len(fence) + 1 if fence else 0
    if last and last.map and last.map[0] > 0:
        return ends[last.map[0] - 1] - skipped, ""
    opening = _FENCE.match(text) if last and last.type == "fence" else None
    length = ends[-1] - skipped if ends else 0
    return length or len(head), opening[0] if opening else ""


def plain_text(text: str) -> str:
    """Return the words of a text without its Markdown; code and names of pictures stay."""
    return " ".join(_words(_PARSER.parse(text[:MAX_CHARACTERS])))


def _words(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield "".join(_inline_words(token.children or []))
        elif token.type in {"fence", "code_block"}:
            yield token.content


def _inline_words(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        # The name of a picture is the content of its token.
        yield " " if token.type in {"softbreak", "hardbreak"} else token.content


def _render(text: str) -> SafeString:
    return _html(_parse(text), text)


def _parse(text: str) -> list[Token]:
    return _PARSER.parse(_without_pictures(text))


def _html(tokens: Sequence[Token], text: str) -> SafeString:
    """Return the HTML of tokens; of those that are nested too deeply, the text."""
    if any(each.level >= _MAX_NESTING - 1 for each in tokens):
        return _plain(text)
    # Safe: the parser escapes all text and, as configured below, rejects HTML and other links.
    html: SafeString = mark_safe(_PARSER.renderer.render(tokens, _PARSER.options, {}))  # noqa: S308
    return html


def _plain(text: str) -> SafeString:
    return format_html('<pre class="plain">{}</pre>', text)


def _without_pictures(text: str) -> str:
    if ";base64," not in text:
        return text
    return _BASE64.sub(r"\1…", _PICTURE.sub(r"[picture: \1]", text))


def _link_addresses(state: StateCore) -> None:
    """Make links of addresses in texts, and boxes of the marks of tasks."""
    for number, block in enumerate(state.tokens):
        if block.type != "inline" or not block.children:
            continue
        is_item = number > 1 and state.tokens[number - 2].type == "list_item_open"
        if is_item and block.children[0].type == "text":
            first = block.children[0]
            if box := _BOXES.get(first.content[:4]):
                first.content = box + first.content[4:]
        if "://" in block.content:
            block.children = list(_with_links(block.children))


def _with_links(tokens: Sequence[Token]) -> Iterator[Token]:
    depth = 0
    for each in tokens:
        depth += (each.type == "link_open") - (each.type == "link_close")
        if depth or each.type != "text" or "://" not in each.content:
            yield each
            continue
        for piece, is_url in links.split(each.content):
            text = Token("text", "", 0, content=piece)
            if is_url:
                opening = Token("link_open", "a", 1, attrs={"href": piece})
                yield from (opening, text, Token("link_close", "a", -1))
            elif piece:
                yield text


class _Renderer(RendererHTML):
    """The standard HTML, with the exceptions above."""

    def link_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        token = tokens[idx]
        token.attrSet("rel", links.REL)
        token.attrSet("target", "_blank")
        return self.renderToken(tokens, idx, options, env)

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        words = self.renderInlineAsText(token.children or [], options, env)
        source = str(token.attrs.get("src", ""))
        if not links.is_web(source):
            return format_html("[picture: {}]", words)
        return format_html(
            '<a href="{}" rel="{}" target="_blank">[picture: {}]</a>',
            source,
            links.REL,
            words or source,
        )

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        code, info = tokens[idx].content, tokens[idx].info
        words = info.split(maxsplit=1)
        language = highlighting.language_of(words[0][:40]) if words else ""
        if language in ("diff", "patch"):
            return format_html(
                '<pre class="diff"{}><code>{}</code></pre>\n',
                _focus(code),
                diffs.html(diffs.unified(code)),
            )
        shown = highlighting.highlight(code, language)
        return format_html("<pre{}><code>{}</code></pre>\n", _focus(code), shown)

    code_block = fence

    def table_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        # The box scrolls, not the table, which would be no table for screen readers.
        return '<div class="wide-table" role="group" aria-label="Table" tabindex="0"><table>\n'

    def table_close(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        return "</table></div>\n"

    def _cell(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Turn the alignment of a cell into a class: the site's policy forbids inline styles."""
        token = tokens[idx]
        style = str(token.attrs.pop("style", ""))
        if style:
            token.attrSet("class", "to-" + style.removeprefix("text-align:"))
        return self.renderToken(tokens, idx, options, env)

    th_open = _cell
    td_open = _cell


def _focus(code: str) -> SafeString:
    is_wide = any(len(line) > _WIDE for line in code.split("\n"))
    return mark_safe(' tabindex="0"' if is_wide else "")  # noqa: S308


def _parser() -> MarkdownIt:
    options: dict[str, Any] = {"html": False, "linkify": False, "typographer": False}
    options["maxNesting"] = _MAX_NESTING
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.validateLink = links.is_web  # type: ignore[method-assign]
    parser.core.ruler.push("addresses", _link_addresses)
    return parser


_PARSER = _parser()
