"""Render the documentation's Markdown files as HTML.

The files belong to the project, so their links and texts are trusted. Raw HTML in them is escaped.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

FOLDER = Path(__file__).parent
# Slugs of the pages in reading order, with what each one is about.
PAGES = {
    "operations": "Settings, production, backup and restore, upgrade, and how it fails.",
    "api": "Routes, errors and permissions, for agents and scripts.",
    "architecture": "How reef is built, and where to change it.",
    "glossary": "The words of the project.",
}
_PAGE_LINK = re.compile(r"(?P<slug>[a-z]+)\.md(?P<fragment>#.*)?")


@dataclass(frozen=True)
class Heading:
    """A heading of the second level, with the id that links use."""

    id: str
    text: str


@dataclass(frozen=True)
class Page:
    """A page of the documentation, as HTML without its title."""

    slug: str
    title: str
    html: SafeString
    headings: tuple[Heading, ...]


def anchor(text: str) -> str:
    """Return the id of a heading, in the form that links in the files use."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@functools.lru_cache(maxsize=len(PAGES) * 4)
def render(slug: str, index_url: str) -> Page:
    """Return a page, with links to other pages below `index_url`.

    Raises KeyError if there is no such page.
    """
    if slug not in PAGES:
        raise KeyError(slug)
    parser = _parser()
    tokens = parser.parse((FOLDER / f"{slug}.md").read_text(encoding="utf-8"))
    title = slug
    if tokens and tokens[0].type == "heading_open":
        title, tokens = tokens[1].content, tokens[3:]
    headings = _set_ids(tokens)
    # Safe: all text is escaped, and the files are part of the project.
    html = mark_safe(parser.renderer.render(tokens, parser.options, {"index": index_url}))  # noqa: S308
    return Page(slug, title, html, tuple(headings))


def _set_ids(tokens: Sequence[Token]) -> list[Heading]:
    """Give each heading its id, and return those of the second level."""
    found = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            text = inline.content.replace("`", "")
            opening.attrSet("id", anchor(text))
            if opening.tag == "h2":
                found.append(Heading(anchor(text), text))
    return found


class _Renderer(RendererHTML):
    """The standard HTML, with links to other pages of the documentation and no inline styles."""

    def link_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
    ) -> str:
        token = tokens[idx]
        if match := _PAGE_LINK.fullmatch(str(token.attrs.get("href", ""))):
            url = f"{env['index']}{match['slug']}/{match['fragment'] or ''}"
            token.attrSet("href", url)
        return self.renderToken(tokens, idx, options, env)

    def _cell(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Turn the alignment of a cell into a class: the site's policy forbids inline styles."""
        token = tokens[idx]
        if style := str(token.attrs.pop("style", "")):
            token.attrSet("class", "to-" + style.removeprefix("text-align:"))
        return self.renderToken(tokens, idx, options, env)

    th_open = _cell
    td_open = _cell


def _parser() -> MarkdownIt:
    options: dict[str, Any] = {"html": False, "linkify": False, "typographer": False}
    return MarkdownIt("commonmark", options, renderer_cls=_Renderer).enable("table")
