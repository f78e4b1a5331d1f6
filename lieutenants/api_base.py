"""Waits, permissions and declared errors that the API's views have in common."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from lieutenants.hosts import liveness
from lieutenants.membership import vm_id_of
from lieutenants.messages import waits
from lieutenants.models import Lieutenant, Message
from vmtree import permissions
from vmtree.permissions import Action

EVENT_STREAM = "text/event-stream"
NOT_FOUND = {404: "Lieutenant 'ada' not found"}
LOST_RACE = {409: "Lieutenant 'ada' is no longer idle"}
KEY_REUSED = "Idempotency-Key: was used for another message"
NO_AGENT = {503: "There is no agent program on this host."}
UNREADABLE = {
    403: "rule: a node reads transcripts of itself and its descendants",
    **NOT_FOUND,
}
NO_MESSAGE = {404: "Message not found"}


def hold_until_rest(response: Response, lieutenant: Lieutenant, seconds: int) -> Response:
    """Let the edge hold the response back until the lieutenant is idle or stopped."""
    if seconds:
        response[waits.HEADER] = waits.at_rest(lieutenant.pk, seconds)
    return response


def action_response(lieutenant: Lieutenant, done_key: str, seconds: int, **more: str) -> Response:
    """Return the response of an action: done after a wait, or 202 if its host does not respond."""
    if note := liveness.pending_note(lieutenant):
        return Response({done_key: False, "asked": True, "note": note, **more}, status=202)
    return hold_until_rest(Response({done_key: True, **more}), lieutenant, seconds)


def hold_until_answer(response: Response, message: Message, seconds: int) -> Response:
    """Let the edge hold the response back until the message has an outcome."""
    if seconds:
        response[waits.HEADER] = waits.answered(message.lieutenant_id, message.pk, seconds)
    return response


def idempotency_key(request: Request) -> str:
    return request.headers.get("Idempotency-Key", "").strip()


def check_readable(lieutenant: Lieutenant, request: Request) -> Lieutenant:
    """Return the lieutenant if the caller may read its transcript. Raises Forbidden."""
    permissions.check(request.user, Action.READ_TRANSCRIPT, vm_id_of(lieutenant))
    return lieutenant


def check_command_permission(request: Request, name: str) -> None:
    """Raise Forbidden before values are validated. Unknown names are left to `services`."""
    if lieutenant := Lieutenant.objects.active().filter(name=name).first():
        permissions.check(request.user, Action.COMMAND, vm_id_of(lieutenant))
