"""API of messages to lieutenants: `/lieutenant/lieutenants/<name>/{send,messages,rewind}`."""

from __future__ import annotations

from django.db.models import Q
from django.http import HttpResponse
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from lieutenants import membership, services
from lieutenants.api_base import (
    KEY_REUSED,
    NO_MESSAGE,
    NOT_FOUND,
    UNREADABLE,
    check_command_permission,
    check_readable,
    hold_until_answer,
    hold_until_rest,
    idempotency_key,
)
from lieutenants.messages import retrying, rewinding
from lieutenants.messages.image_response import image_response
from lieutenants.messages.images import MEDIA_TYPES
from lieutenants.messages.serializers import (
    MessageResponse,
    OneMessageResponse,
    RewindResponse,
    SentResponse,
    message_json,
    messages_json,
    sent_json,
)
from lieutenants.requests import MessageChangesBody, MessagesQuery, RewindBody, SendBody, WaitQuery
from lieutenants.transcript import outputs
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import list_of
from vmtree import permissions


class MessageActions(ViewSet):
    """Routes of a lieutenant's messages."""

    @action(detail=True, methods=["post"])
    @endpoint(
        query=WaitQuery,
        body=SendBody,
        response=SentResponse,
        errors={
            **NOT_FOUND,
            409: KEY_REUSED,
            413: "images: have 5000001 bytes, at most 5000000 are taken",
        },
    )
    def send(self, request: Request, name: str) -> Response:
        """Send a message; `?wait=<seconds>` waits for its answer."""
        query, body = WaitQuery.parse(request), SendBody.parse(request)
        message, _ = services.send(
            name,
            body["message"],
            mode=body.get("mode"),
            images=body["images"],
            key=idempotency_key(request),
            actor=request.user,
        )
        return hold_until_answer(Response(sent_json(message)), message, query["wait"])

    @action(detail=True, methods=["post"])
    @endpoint(
        query=WaitQuery,
        body=RewindBody,
        response=RewindResponse,
        status=202,
        errors={**NOT_FOUND, 409: "The agent 'command' cannot go back to before a message"},
    )
    def rewind(self, request: Request, name: str) -> Response:
        """Rewind to before a message: `messageId`, `entryId`, or the first that fails."""
        check_command_permission(request, name)
        seconds = WaitQuery.parse(request)["wait"]
        reference = RewindBody.parse(request)
        lieutenant, entry = rewinding.request_rewind(name, actor=request.user, **reference)
        facts = {"rewinding": True, "entryId": entry.pk, "messageId": entry.message_id}
        return hold_until_rest(Response(facts, status=202), lieutenant, seconds)

    @action(detail=True, methods=["get"])
    @endpoint(
        query=MessagesQuery,
        response=list_of("messages", MessageResponse, next_page=Text),
        errors=UNREADABLE,
    )
    def messages(self, request: Request, name: str) -> Response:
        """Return up to `?limit=` (100) messages, newest first, after `?cursor=`.

        `next` is the next cursor. Long texts are shortened to both ends.
        """
        query = MessagesQuery.parse(request)
        lieutenant = check_readable(services.find_any(name), request)
        rows = lieutenant.messages.order_by("-created_at", "-id")
        if query["cursor"]:
            last = services.find_cursor(lieutenant, query["cursor"])
            same = Q(created_at=last.created_at, pk__lt=last.pk)
            rows = rows.filter(same | Q(created_at__lt=last.created_at))
        limit = query["limit"]
        page = outputs.shortened(rows[: limit + 1])
        more, page = len(page) > limit, page[:limit]
        return Response(
            {
                "messages": messages_json(page),
                "count": len(page),
                "next": page[-1].pk if more else None,
            }
        )

    @action(detail=True, methods=["get"], url_path="messages/(?P<message_id>[^/]+)")
    @endpoint(query=WaitQuery, response=OneMessageResponse, errors={**UNREADABLE, **NO_MESSAGE})
    def message(self, request: Request, name: str, message_id: str) -> Response:
        """Return a message: its state, the evidence for it, and the answer.

        `?wait=<seconds>` waits for its outcome.
        """
        seconds = WaitQuery.parse(request)["wait"]
        lieutenant = check_readable(services.find_any(name), request)
        found = services.find_message(lieutenant, message_id)
        return hold_until_answer(Response(message_json(found)), found, seconds)

    @message.mapping.delete
    @endpoint(
        response=OneMessageResponse,
        errors={
            **NO_MESSAGE,
            409: "message: cannot be withdrawn, the agent has refused it",
        },
    )
    def withdraw(self, request: Request, name: str, message_id: str) -> Response:
        """Withdraw a queued message."""
        return Response(message_json(services.withdraw(name, message_id, actor=request.user)))

    @message.mapping.patch
    @endpoint(
        body=MessageChangesBody,
        response=OneMessageResponse,
        errors={**NO_MESSAGE, 409: "message: cannot be changed, the agent has begun with it"},
    )
    def change(self, request: Request, name: str, message_id: str) -> Response:
        """Change the text of a queued message, or its position in the queue.

        Messages that the agent has are not among those that a position counts.
        """
        lieutenant = services.find_any(name)
        permissions.check(request.user, permissions.Action.COMMAND, membership.vm_id_of(lieutenant))
        body = MessageChangesBody.parse(request)
        changed = services.change_message(name, message_id, **body, actor=request.user)
        return Response(message_json(changed))

    @action(
        detail=True,
        methods=["post"],
        url_path="messages/(?P<message_id>[^/]+)/send-again",
        url_name="send-again",
    )
    @endpoint(
        query=WaitQuery,
        response=SentResponse,
        errors={
            **NO_MESSAGE,
            409: "message: cannot be sent again, the agent has begun with it",
        },
    )
    def send_again(self, request: Request, name: str, message_id: str) -> Response:
        """Send a message that was withdrawn or refused again, with its images.

        A repeated request sends nothing, and returns the receipt of the first one.
        `?wait=<seconds>` waits for the answer.
        """
        query = WaitQuery.parse(request)
        message = retrying.send_again(name, message_id, actor=request.user)
        return hold_until_answer(Response(sent_json(message)), message, query["wait"])

    @action(
        detail=True,
        methods=["get"],
        url_path="messages/(?P<message_id>[^/]+)/images/(?P<number>[0-9]{1,4})",
    )
    @endpoint(response=MEDIA_TYPES, errors={**UNREADABLE, 404: "Image not found"})
    def image(self, request: Request, name: str, message_id: str, number: str) -> HttpResponse:
        """Return an image that was sent with a message."""
        lieutenant = check_readable(services.find_any(name), request)
        return image_response(lieutenant, message_id, int(number))
