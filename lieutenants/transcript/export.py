"""A whole transcript as one file: HTML, Markdown or JSON.

It is made from the rows, page by page, so that it works for every agent, also when none runs, and
secrets are covered in it. Some agents' programs can make a page of their own (`AGENT`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from django.http import StreamingHttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import content_disposition_header

from lieutenants.agents import dialect_of
from lieutenants.exceptions import NotSupported
from lieutenants.membership import vm_id_of
from lieutenants.messages import images
from lieutenants.models import Entry, Lieutenant, Message
from lieutenants.transcript import markdown, outputs, terminal
from lieutenants.transcript.recorder import texts_of_open
from lieutenants.transcript.serializers import entries_json, exported_json
from reef_site.common.json_format import dumps
from versconfig.screening import sources
from versconfig.screening.screen import Screen

# Small, since the texts of a page are measured, and long ones are left for the next page.
_PAGE_SIZE = 50
_FENCE = re.compile(r"`{3,}")
# The file runs nothing and loads nothing, wherever it is opened.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f3f4f6; padding: .6rem; overflow-x: auto; white-space: pre-wrap }
article { border-top: 1px solid #ddd; padding: .4rem 0 }
h2 { font-size: .85rem; color: #555; margin: .2rem 0 }
.user .said { white-space: pre-wrap; background: #eef4ff; padding: .6rem; border-radius: 6px }
.thinking, .notice { color: #666; white-space: pre-wrap }
.error { color: #a40000; white-space: pre-wrap }
img { max-width: 100% }
"""


class ExportFormat(StrEnum):
    """Format of an exported transcript. `AGENT` is the page that the agent's program makes."""

    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"
    AGENT = "agent"


class _Kind(NamedTuple):
    write: Callable[[Lieutenant], Iterator[str | bytes]]
    content_type: str
    extension: str


class _Item(NamedTuple):
    """An entry, who sent its message, and the images of that."""

    entry: Entry
    actor: str
    images: Sequence[images.ImageFacts]


def export_response(lieutenant: Lieutenant, format_: ExportFormat) -> StreamingHttpResponse:
    """Return the transcript as a download. The caller has checked that it may be read.

    Raises NotSupported, ExportFailed, AgentMissing, IsolationUnavailable for a page by the agent's
    program.
    """
    kind = _KINDS[format_]
    name = f"{lieutenant.name}-{timezone.now():%Y-%m-%d}.{kind.extension}"
    headers = {
        "Content-Disposition": content_disposition_header(True, name) or "attachment",
        "Content-Security-Policy": f"{_POLICY}; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    pieces = kind.write(lieutenant)
    return StreamingHttpResponse(pieces, content_type=kind.content_type, headers=headers)


def _pages(lieutenant: Lieutenant) -> Iterator[list[Entry]]:
    """Yield the entries in pages, with the texts of open ones so far."""
    after, more = 0, True
    while more:
        rows, more = outputs.page_of_entries(
            lieutenant, after=after, limit=_PAGE_SIZE, text_limit=0
        )
        texts = texts_of_open(rows)
        for row in rows:
            row.text = texts.get(row.pk, row.text)
        if rows:
            after = rows[-1].pk
            yield rows


def _items(lieutenant: Lieutenant) -> Iterator[_Item]:
    """Yield the entries with what their headings need, read once for each page."""
    for rows in _pages(lieutenant):
        message_ids = {row.message_id for row in rows if row.kind == Entry.Kind.USER}
        messages = Message.objects.filter(pk__in=message_ids - {None})
        actors = dict(messages.values_list("pk", "actor"))
        facts = images.facts_by_message(row.message_id for row in rows if _has_images(row))
        for row in rows:
            pk = row.message_id or ""
            yield _Item(row, actors.get(pk, ""), facts.get(pk, ()) if _has_images(row) else ())


def _by_agent(lieutenant: Lieutenant) -> Iterator[bytes]:
    """Return the page of the present session that the agent's program makes."""
    dialect = dialect_of(lieutenant)
    if not dialect.features.export:
        raise NotSupported(f"The agent '{lieutenant.agent}' exports no session")
    return iter([dialect.export_html(lieutenant, screen_of(lieutenant))])


def screen_of(lieutenant: Lieutenant) -> Screen:
    """Return the screen for a session, with the secrets of all starts of its agent."""
    states = lieutenant.processes.values_list("state__secret_versions", flat=True)
    versions = sorted({pk for found in states if found for pk in found})
    return sources.for_node(vm_id_of(lieutenant), versions, is_agent=True, recheck=True)


# -- JSON ----------------------------------------------------------------------------------------


def _json(lieutenant: Lieutenant) -> Iterator[bytes]:
    yield b'{"lieutenant":' + dumps(exported_json(lieutenant)) + b',"entries":['
    comma = b""
    for rows in _pages(lieutenant):
        for entry in entries_json(rows):
            yield comma + dumps(entry)
            comma = b",\n"
    yield b"]}\n"


# -- Markdown ------------------------------------------------------------------------------------


def _markdown(lieutenant: Lieutenant) -> Iterator[str]:
    yield f"# {lieutenant.name}\n\n{lieutenant.role}\n\n"
    for item in _items(lieutenant):
        yield from _markdown_of(item)


def _markdown_of(item: _Item) -> Iterator[str]:
    entry = item.entry
    kind, text = entry.kind, _text(entry)
    if kind == Entry.Kind.USER:
        yield f"## {_heading(item)}\n\n{text}\n\n"
        if item.images:
            kinds = ", ".join(each.media_type for each in item.images)
            yield f"*With images: {kinds}*\n\n"
    elif kind == Entry.Kind.TEXT:
        yield f"{text}\n\n"
    elif kind == Entry.Kind.THINKING:
        yield "".join(f"> {line}\n" for line in text.splitlines()) + "\n"
    elif kind == Entry.Kind.TOOL_CALL:
        yield f"**{entry.tool or 'tool call'}**\n\n{_fenced(_arguments(entry), 'json')}\n\n"
    elif kind == Entry.Kind.TOOL_RESULT:
        yield f"{_fenced(text)}\n\n"
    elif kind != Entry.Kind.USAGE:
        yield f"*{entry.get_kind_display()}: {' '.join(text.split())}*\n\n"


def _fenced(text: str, language: str = "") -> str:
    """Return a code block whose fence is longer than any in the text."""
    longest = max(map(len, _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


# -- HTML ----------------------------------------------------------------------------------------


def _html(lieutenant: Lieutenant) -> Iterator[str]:
    yield format_html(
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        "<title>{}</title>\n<style>{}</style>\n<h1>{}</h1>\n<p>{}</p>\n",
        _POLICY,
        lieutenant.name,
        _STYLE,
        lieutenant.name,
        lieutenant.role,
    )
    for item in _items(lieutenant):
        if item.entry.kind != Entry.Kind.USAGE:
            yield format_html('<article class="{}">\n', item.entry.kind)
            yield from _html_of(item)
            yield "</article>\n"
    yield "</html>\n"


def _html_of(item: _Item) -> Iterator[str]:
    entry = item.entry
    kind, text = entry.kind, _text(entry)
    if kind == Entry.Kind.USER:
        yield format_html('<h2>{}</h2>\n<div class="said">{}</div>\n', _heading(item), text)
        if item.images:
            # Message by message: those of a page together may have hundreds of megabytes.
            yield from map(_html_image, images.load(item.images[0].message_id))
    elif kind == Entry.Kind.TEXT:
        yield f"{markdown.render(text)}\n"
    elif kind == Entry.Kind.TOOL_CALL:
        name = entry.tool or "tool call"
        yield format_html("<h2>{}</h2>\n<pre>{}</pre>\n", name, _arguments(entry))
    elif kind == Entry.Kind.TOOL_RESULT:
        yield format_html("<pre>{}</pre>\n", text)
    else:
        yield format_html("<p>{}</p>\n", text)


def _html_image(image: images.NewImage) -> str:
    data = base64.b64encode(image.data).decode("ascii")
    return format_html('<img alt="" src="data:{};base64,{}">\n', image.media_type, data)


# -- both ----------------------------------------------------------------------------------------


def _text(entry: Entry) -> str:
    """Return the text as it is shown; only output of programs has control codes."""
    if entry.kind in (Entry.Kind.USER, Entry.Kind.TEXT):
        return terminal.mark_reordering(entry.text)
    return terminal.plain_text(entry.text)


def _heading(item: _Item) -> str:
    return f"{item.actor or 'somebody'}, {_moment(item.entry.at)}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _has_images(entry: Entry) -> bool:
    return bool(entry.data and entry.data.get("images"))


def _arguments(entry: Entry) -> str:
    arguments: Any = (entry.data or {}).get("arguments")
    return json.dumps(arguments, ensure_ascii=False, indent=2) if arguments is not None else ""


_HTML_TYPE = "text/html; charset=utf-8"
_KINDS = {
    ExportFormat.HTML: _Kind(_html, _HTML_TYPE, "html"),
    ExportFormat.MARKDOWN: _Kind(_markdown, "text/markdown; charset=utf-8", "md"),
    ExportFormat.JSON: _Kind(_json, "application/json", "json"),
    ExportFormat.AGENT: _Kind(_by_agent, _HTML_TYPE, "html"),
}
