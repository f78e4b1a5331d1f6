"""Permissions that the agent asks for: granted, refused, or put to a person."""

from __future__ import annotations

import json

from .output import dicts, emit, notice, text_of

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .peer import Peer

ALLOW, REJECT, ASK = "allow", "reject", "ask"
# Members of an input that are shown as they are, the first that is there.
TEXTS = ("command", "message")
# The kinds of options that fit a policy, the first that is offered counts.
KINDS = {ALLOW: ("allow_once", "allow_always"), REJECT: ("reject_once", "reject_always")}
CANCELLED = {"outcome": {"outcome": "cancelled"}}
# Further requests of the agent are refused while so many wait.
MAX_WAITING = 40
# Characters of a tool's input that people see; of a longer one they see both ends.
MAX_INPUT = 8000
INVALID_PARAMS = -32602


class Permissions:
    """Requests of the agent for a permission, each of which is answered once."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._count = 0
        # The agent, the id of its request, and the options, by the id of the dialog.
        self._waiting: dict[str, tuple[Peer, Any, list[dict[str, Any]]]] = {}
        self._is_flooded = False

    def ask(self, peer: Peer, ident: Any, params: dict[str, Any]) -> None:
        """Answer a request, or open a dialog for it."""
        options = [each for each in dicts(params.get("options")) if text_of(each, "optionId")]
        if not options:
            peer.refuse(ident, INVALID_PARAMS, "options: at least one is required")
        elif self._policy != ASK:
            peer.respond(ident, _choice(options, self._policy))
        elif len(self._waiting) >= MAX_WAITING:
            if not self._is_flooded:
                notice(f"{MAX_WAITING} permissions wait for an answer; further ones are refused.")
            self._is_flooded = True
            peer.respond(ident, _choice(options, REJECT))
        else:
            self._open(peer, ident, params, options)

    def answer(self, command: dict[str, Any]) -> None:
        """Pass an answer of reef on. A dialog that was dismissed refuses the permission."""
        waiting = self._waiting.pop(text_of(command, "id"), None)
        if waiting is None:
            return
        self._is_flooded = False
        peer, ident, options = waiting
        value = command.get("value")
        if any(value == each["optionId"] for each in options):
            peer.respond(ident, _selected(value))
        else:
            peer.respond(ident, _choice(options, REJECT))

    def cancel_all(self) -> None:
        """Answer all requests as cancelled, as the protocol wants it after a cancel."""
        for peer, ident, _ in self._waiting.values():
            peer.respond(ident, CANCELLED)
        self._waiting.clear()

    def _open(
        self, peer: Peer, ident: Any, params: dict[str, Any], options: list[dict[str, Any]]
    ) -> None:
        self._count += 1
        dialog = f"permission-{self._count}"
        self._waiting[dialog] = peer, ident, options
        call = params.get("toolCall")
        emit(
            {
                "type": "extension_ui_request",
                "id": dialog,
                # The keeper knows this as one that waits for a reply.
                "method": "select",
                "title": text_of(call, "title") or text_of(call, "kind") or "May the agent go on?",
                "message": _input(call),
                "options": [
                    {"value": each["optionId"], "label": text_of(each, "name") or each["optionId"]}
                    for each in options
                ],
            }
        )


def _input(call: Any) -> str:
    """Return all that the tool is to be called with, as text: whoever permits it must see it."""
    given = call.get("rawInput") if isinstance(call, dict) else None
    rest = dict(given) if isinstance(given, dict) else {}
    shown = next((rest.pop(name) for name in TEXTS if text_of(rest, name)), "")
    found = rest if shown else given
    more = json.dumps(found, ensure_ascii=False, indent=1) if found else ""
    text = "\n".join(filter(None, [shown, more]))
    if len(text) <= MAX_INPUT:
        return text
    half = MAX_INPUT // 2
    cut = f"[… {len(text) - 2 * half} characters are not shown …]"
    return f"{text[:half]}\n{cut}\n{text[-half:]}"


def _choice(options: list[dict[str, Any]], policy: str) -> dict[str, Any]:
    """Return the outcome that fits a policy; cancelled if no option does."""
    for kind in KINDS[policy]:
        for each in options:
            if each.get("kind") == kind:
                return _selected(each["optionId"])
    return CANCELLED


def _selected(option: Any) -> dict[str, Any]:
    return {"outcome": {"outcome": "selected", "optionId": option}}
