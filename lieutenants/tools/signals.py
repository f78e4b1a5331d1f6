"""The tool that sends signals to relatives in the tree."""

from __future__ import annotations

from typing import Any

from lieutenants.messages.signals import Direction, Receipt, signal
from lieutenants.requests import RequiredText
from reef_site.common.api.fields import Choice
from reef_site.common.api.serializers import Body
from reef_site.common.tools import Tool, ToolResult
from vmtree.permissions import Action

Json = dict[str, Any]


class SignalArguments(Body):
    to = Choice(Direction, help_text="Who gets it.")
    message = RequiredText(help_text="Text of the signal.")


def send_signal(caller: object, arguments: Json) -> ToolResult:
    receipts = signal(Direction(arguments["to"]), arguments["message"], actor=caller)
    lines = [_line(each) for each in receipts]
    if any(each.message for each in receipts):
        lines.append("reef_wait (messages) tells when it was processed.")
    return ToolResult("\n".join(lines), {"signals": [_json(each) for each in receipts]})


def _line(receipt: Receipt) -> str:
    if receipt.message is None:
        return f"Not signalled: {receipt.name}: {receipt.error}"
    return f"Signalled {receipt.name}: message {receipt.message.pk} is {receipt.message.state}."


def _json(receipt: Receipt) -> Json:
    if receipt.message is None:
        return {"name": receipt.name, "error": receipt.error}
    message = receipt.message
    return {"name": receipt.name, "messageId": message.pk, "state": message.state}


TOOLS = (
    Tool(
        "reef_signal",
        "Send a signal to your parent, your children or your siblings in the tree, for example a "
        "report to the agent that made you. It has a receipt: reef_wait tells when it was "
        "processed.",
        SignalArguments,
        send_signal,
        action=Action.SIGNAL,
    ),
)
