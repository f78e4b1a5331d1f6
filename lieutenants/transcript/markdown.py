"""Renders the Markdown of agents as safe HTML.

Raw HTML is escaped, images become links, links may lead only to the web, and there are no inline
styles.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from lieutenants.transcript.terminal import mark_reordering

# Longer texts are shown as plain text.
MAX_CHARACTERS = 60_000
_CACHED = 20_000
_SCHEMES = frozenset({"http", "https", "mailto"})


def render(text: str) -> SafeString:
    """Return a text as safe HTML; very long ones as plain text."""
    text = mark_reordering(text)
    if len(text) > MAX_CHARACTERS:
        return format_html('<pre class="plain">{}</pre>', text)
    return _rendered(text) if len(text) <= _CACHED else _render(text)


def _render(text: str) -> SafeString:
    # Safe: the parser escapes all text and, as configured below, rejects HTML and other links.
    html: SafeString = mark_safe(_PARSER.render(text))  # noqa: S308
    return html


@functools.lru_cache(maxsize=1000)
def _rendered(text: str) -> SafeString:
    return _render(text)


def _may_link(url: str) -> bool:
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    return parts.scheme.lower() in _SCHEMES


class _Renderer(RendererHTML):
    """The standard HTML, with the exceptions above."""

    def link_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        token = tokens[idx]
        token.attrSet("rel", "noopener noreferrer nofollow")
        token.attrSet("target", "_blank")
        return self.renderToken(tokens, idx, options, env)

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        words = self.renderInlineAsText(token.children or [], options, env)
        source = str(token.attrs.get("src", ""))
        if not _may_link(source):
            return format_html("[picture: {}]", words)
        return format_html(
            '<a href="{}" rel="noopener noreferrer nofollow" target="_blank">[picture: {}]</a>',
            source,
            words or source,
        )

    def _cell(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Turn the alignment of a cell into a class: the site's policy forbids inline styles."""
        token = tokens[idx]
        style = str(token.attrs.pop("style", ""))
        if style:
            token.attrSet("class", "to-" + style.removeprefix("text-align:"))
        return self.renderToken(tokens, idx, options, env)

    th_open = _cell
    td_open = _cell


def _parser() -> MarkdownIt:
    options: dict[str, Any] = {"html": False, "linkify": False, "typographer": False}
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.validateLink = _may_link  # type: ignore[method-assign]
    return parser


_PARSER = _parser()
