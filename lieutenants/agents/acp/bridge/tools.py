"""Tool calls of the agent: from reports in pieces to one start and one end."""

from __future__ import annotations

import json

from .output import dicts, dig, emit, text_block, text_of

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_NAME = 80
MAX_TEXT = 1 << 20
# Longer files are not compared.
MAX_COMPARED = 200_000
ENDED = {"completed": False, "failed": True}


def name_of(report: dict[str, Any]) -> str:
    """Return the name of a tool: its kind, or its title if it is of no known kind."""
    kind, title = text_of(report, "kind"), text_of(report, "title")
    return (kind if kind not in ("", "other") else title or "tool").split("\n")[0][:MAX_NAME]


def arguments_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a tool is called with, and its title."""
    given = report.get("rawInput")
    arguments = given if isinstance(given, dict) else {} if given is None else {"input": given}
    paths = [text_of(each, "path") for each in dicts(report.get("locations"))]
    shown = {"paths": list(filter(None, paths))} if not arguments and any(paths) else arguments
    title = text_of(report, "title")
    return shown if not title or title == name_of(report) else {"title": title, **shown}


def content_text(content: Any) -> str:
    """Return one content block as text."""
    kind = text_of(content, "type")
    if kind == "text":
        return text_of(content, "text")
    if kind == "resource":
        return text_of(content, "resource", "text") or text_of(content, "resource", "uri")
    if kind == "resource_link":
        return text_of(content, "uri")
    return f"[{kind}]" if kind else ""


class Call:
    """One tool call. Its result is what the newest report says."""

    def __init__(self, ident: str) -> None:
        self.ident = ident
        self.is_ended = False
        self._facts: dict[str, Any] = {}
        self._is_started = False
        self._terminal = ""
        self._shown = ""

    def report(self, update: dict[str, Any], before: Callable[[], None]) -> None:
        """Take over a report; `before` is called before the start of the call is printed."""
        if self.is_ended:
            return
        known = {name: each for name, each in update.items() if each is not None}
        self._facts.update(known)
        self._terminal += text_of(update, "_meta", "terminal_output", "data")
        self._terminal = self._terminal[-MAX_TEXT:]
        status = text_of(self._facts, "status")
        # Many agents tell the arguments only when the call begins to run.
        if status not in ("", "pending"):
            self.start(before)
        if status in ENDED:
            self.end(self._text(), is_error=ENDED[status])
        elif self._is_started:
            self._show(self._text())

    def start(self, before: Callable[[], None]) -> None:
        """Print that the call runs, unless that was done."""
        if self._is_started:
            return
        self._is_started = True
        before()
        emit({"type": "tool_execution_start", **self._head(), "args": arguments_of(self._facts)})

    def end(self, text: str, *, is_error: bool) -> None:
        """Print the result of a call that has started."""
        self.is_ended = True
        blocks: list[dict[str, str]] = text_block(text)
        blocks += [{"type": "image"}] * self._count_images()
        result = {"content": blocks}
        emit({"type": "tool_execution_end", **self._head(), "result": result, "isError": is_error})

    def close(self) -> None:
        """Print an end of a call for which the agent reported none."""
        if self._is_started and not self.is_ended:
            self.end(self._text() or "No result was reported.", is_error=True)

    def _head(self) -> dict[str, str]:
        return {"toolCallId": self.ident, "toolName": name_of(self._facts)}

    def _show(self, text: str) -> None:
        if text and text != self._shown:
            self._shown = text
            partial = {"content": text_block(text)}
            emit({"type": "tool_execution_update", **self._head(), "partialResult": partial})

    def _text(self) -> str:
        parts = [_result_text(each) for each in dicts(self._facts.get("content"))]
        text = "\n".join(filter(None, parts)) or self._terminal
        return (text or _raw_text(self._facts.get("rawOutput")))[:MAX_TEXT]

    def _count_images(self) -> int:
        found = dicts(self._facts.get("content"))
        return sum(text_of(each, "content", "type") == "image" for each in found)


def _result_text(each: dict[str, Any]) -> str:
    kind = each.get("type")
    if kind == "content":
        is_image = text_of(each, "content", "type") == "image"
        return "" if is_image else content_text(each.get("content"))
    return _difference(each) if kind == "diff" else ""


def _raw_text(output: Any) -> str:
    if output is None or isinstance(output, str):
        return output or ""
    for name in ("output", "error", "stdout"):
        if text := text_of(output, name):
            return text
    blocks = dig(output, "content")
    text = "".join(content_text(each) for each in dicts(blocks))
    return text or json.dumps(output, ensure_ascii=False)


def _difference(change: dict[str, Any]) -> str:
    """Return a change of a file as a unified diff."""
    path, old, new = (text_of(change, name) for name in ("path", "oldText", "newText"))
    if len(old) + len(new) > MAX_COMPARED:
        return f"{path}: {len(new):,} characters"
    import difflib  # only few agents report changes like this

    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"a/{path}", f"b/{path}", lineterm=""
    )
    return "\n".join(lines)
