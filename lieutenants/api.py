"""API of lieutenants. Its wire contract is fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.db.models import Q
from django.http import HttpResponse
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from lieutenants import services, views
from lieutenants.hosts import liveness
from lieutenants.membership import vm_id_of
from lieutenants.messages import rewinding, waits
from lieutenants.models import Lieutenant, Message, Usage
from lieutenants.serializers import (
    ADJUSTABLE_FIELDS,
    CREATE_FIELDS,
    MAX_ENTRIES,
    entry_json,
    is_new_session,
    lieutenants_json,
    message_json,
    messages_json,
    parse_changes,
    parse_create,
    parse_message_reference,
    read_json,
    sent_json,
    usage_json,
)
from lieutenants.transcript import outputs
from lieutenants.transcript.recorder import texts_of_open
from reef_site.common.errors import NotFound
from reef_site.common.request_names import takes, takes_anything
from reef_site.common.request_values import (
    body_of,
    flag_of,
    query_cursor,
    query_flag,
    query_limit,
    query_number,
)
from vmtree import permissions
from vmtree.permissions import Action

MAX_WAIT_SECONDS = 60
# Default of pause and destroy; all others return at once.
DEFAULT_WAIT_SECONDS = 10


def _wait(response: Response, lieutenant: Lieutenant, seconds: int) -> Response:
    """Let the edge hold the response back until the lieutenant is idle or stopped."""
    if seconds:
        response[waits.HEADER] = waits.at_rest(lieutenant.pk, seconds)
    return response


def _action_response(lieutenant: Lieutenant, done_key: str, seconds: int, **more: str) -> Response:
    """Return the response of an action: done after a wait, or 202 if its host does not respond."""
    if note := liveness.pending_note(lieutenant):
        return Response({done_key: False, "asked": True, "note": note, **more}, status=202)
    return _wait(Response({done_key: True, **more}), lieutenant, seconds)


def _wait_for_answer(response: Response, message: Message, seconds: int) -> Response:
    """Let the edge hold the response back until the message has an outcome."""
    if seconds:
        response[waits.HEADER] = waits.answered(message.lieutenant_id, message.pk, seconds)
    return response


def _seconds(request: Request, default: int = 0) -> int:
    given = query_number(request, "wait", most=MAX_WAIT_SECONDS)
    return default if given is None else given


def _idempotency_key(request: Request) -> str:
    return request.headers.get("Idempotency-Key", "").strip()


def _readable(lieutenant: Lieutenant, request: Request) -> Lieutenant:
    """Return the lieutenant if the caller may read its transcript. Raises Forbidden."""
    permissions.check(request.user, Action.READ_TRANSCRIPT, vm_id_of(lieutenant))
    return lieutenant


def _check_command_permission(request: Request, name: str) -> None:
    """Raise Forbidden before values are validated. Unknown names are left to `services`."""
    if lieutenant := Lieutenant.objects.active().filter(name=name).first():
        permissions.check(request.user, Action.COMMAND, vm_id_of(lieutenant))


def _start(name: str, request: Request, begin: Callable[..., Lieutenant]) -> Lieutenant:
    """Start the agent with `begin`, in its session or in a new one."""
    if is_new_session(body_of(request)):
        return services.new_session(name, actor=request.user, begin=begin)
    return begin(name, actor=request.user)


class LieutenantViewSet(ViewSet):
    """`/lieutenant/lieutenants`; `services` checks the permissions of everything that changes."""

    checks_permission = True
    lookup_field = "name"
    named_parts: ClassVar = {"name": services.name_of}
    lookup_value_regex = "[^/]+"

    @takes(query=("status", "brief"))
    def list(self, request: Request) -> Response:
        """Return active lieutenants, newest first.

        `?status=` filters, `?brief=true` omits long texts.
        """
        rows = Lieutenant.objects.active()
        if status := request.query_params.get("status"):
            rows = rows.filter(status=status)
        brief = query_flag(request, "brief")
        found = lieutenants_json(rows, caller=request.user, brief=brief)
        return Response({"lieutenants": found, "count": len(found)})

    @takes(query=("wait",), body=CREATE_FIELDS)
    def create(self, request: Request) -> Response:
        """Create a lieutenant; `?wait=<seconds>` waits until it has started.

        A repeated request with the same `Idempotency-Key` header returns 200 and the same one.
        """
        seconds = _seconds(request)
        lieutenant, is_new = services.create_once(
            parse_create(body_of(request)), actor=request.user, key=_idempotency_key(request)
        )
        facts = lieutenants_json([lieutenant], caller=request.user)[0]
        response = Response(facts, status=201 if is_new else 200)
        return _wait(response, lieutenant, seconds)

    @takes(query=("brief",))
    def retrieve(self, request: Request, name: str) -> Response:
        """Return a lieutenant; `?brief=true` omits long texts."""
        brief = query_flag(request, "brief")
        found = [services.find(name)]
        return Response(lieutenants_json(found, caller=request.user, brief=brief)[0])

    @takes(query=("wait",), body=(*ADJUSTABLE_FIELDS, "restart"))
    def partial_update(self, request: Request, name: str) -> Response:
        """Change model, restart policy or limits; `{"restart": true}` applies them at once."""
        _check_command_permission(request, name)
        seconds = _seconds(request)
        changes, restart = parse_changes(body_of(request))
        found = services.adjust(name, changes, actor=request.user, restart_now=restart)
        facts = lieutenants_json([found], caller=request.user)[0]
        return _wait(Response(facts), found, seconds)

    @takes(query=("wait",))
    def destroy(self, request: Request, name: str) -> Response:
        """Destroy a lieutenant; repeating that returns 200 again."""
        seconds = _seconds(request, DEFAULT_WAIT_SECONDS)
        detail = services.destroy(name, actor=request.user)
        lieutenant = Lieutenant.objects.filter(name=name).first()
        if lieutenant is None:
            return Response({"destroyed": True, "detail": detail})
        return _action_response(lieutenant, "destroyed", seconds, detail=detail)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("message", "mode"))
    def send(self, request: Request, name: str) -> Response:
        """Send a message; `?wait=<seconds>` waits for its answer."""
        seconds, data = _seconds(request), body_of(request)
        message, _ = services.send(
            name,
            data.get("message"),
            mode=data.get("mode"),
            key=_idempotency_key(request),
            actor=request.user,
        )
        return _wait_for_answer(Response(sent_json(message)), message, seconds)

    @action(detail=True, methods=["get"])
    @takes(query=("tail", "history", "after", "limit"))
    def read(self, request: Request, name: str) -> Response:
        """Return the end of the running or newest answer (`?tail=` characters).

        With `?history=`, also return that many earlier answers. With `?limit=`,
        return that many characters after position `?after=`.
        """
        names = ("tail", "history", "after", "limit")
        params = {key: query_number(request, key) or 0 for key in names}
        lieutenant = _readable(services.find(name), request)
        return Response(read_json(lieutenant, **params))

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("force",))
    def pause(self, request: Request, name: str) -> Response:
        """Stop the agent and keep its session; `{"force": true}` does so even while it works."""
        _check_command_permission(request, name)
        seconds = _seconds(request, DEFAULT_WAIT_SECONDS)
        force = flag_of(body_of(request).get("force", False), "force")
        lieutenant = services.pause(name, actor=request.user, force=force)
        return _action_response(lieutenant, "paused", seconds)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("session",))
    def resume(self, request: Request, name: str) -> Response:
        """Start the agent in its session, or in a new one with `{"session": "new"}`."""
        _check_command_permission(request, name)
        seconds = _seconds(request)
        lieutenant = _start(name, request, services.resume)
        return _action_response(lieutenant, "resumed", seconds)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("session",))
    def restart(self, request: Request, name: str) -> Response:
        """Stop and start the agent; `{"session": "new"}` begins a new session."""
        _check_command_permission(request, name)
        seconds = _seconds(request)
        lieutenant = _start(name, request, services.restart)
        return _action_response(lieutenant, "restarted", seconds)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("messageId", "entryId"))
    def rewind(self, request: Request, name: str) -> Response:
        """Rewind to before a message: `messageId`, `entryId`, or the first that fails."""
        _check_command_permission(request, name)
        seconds = _seconds(request)
        message_id, entry_id = parse_message_reference(body_of(request))
        lieutenant, entry = rewinding.request_rewind(
            name, actor=request.user, message_id=message_id, entry_id=entry_id
        )
        facts = {"rewinding": True, "entryId": entry.pk, "messageId": entry.message_id}
        return _wait(Response(facts, status=202), lieutenant, seconds)

    @action(detail=True, methods=["post"])
    def abort(self, request: Request, name: str) -> Response:
        """Abort the running answer."""
        return _action_response(services.abort(name, actor=request.user), "aborted", 0)

    @action(detail=True, methods=["get"])
    @takes(query=("after", "cursor", "limit", "textLimit"))
    def transcript(self, request: Request, name: str) -> Response:
        """Return up to `?limit=` (200) transcript entries with ids above `?cursor=`.

        `next` is the next cursor. Very long entries make a page shorter; `?textLimit=` shortens
        long texts to both ends.
        """
        lieutenant = _readable(services.find_any(name), request)
        after = query_cursor(request, "after") or 0
        limit = query_limit(request, most=MAX_ENTRIES, default=200)
        shown = query_number(request, "textLimit") or 0
        rows, more = outputs.page_of_entries(lieutenant, after=after, limit=limit, text_limit=shown)
        texts = texts_of_open(rows)
        entries = [entry_json(row, texts.get(row.pk)) for row in rows]
        last = entries[-1]["id"] if more else None
        return Response(
            {"entries": entries, "count": len(entries), "next": last, "rev": lieutenant.rev}
        )

    @action(detail=True, methods=["get"])
    @takes(query=("cursor", "limit"))
    def messages(self, request: Request, name: str) -> Response:
        """Return up to `?limit=` (100) messages, newest first, after `?cursor=`.

        `next` is the next cursor. Long texts are shortened to both ends.
        """
        limit = query_limit(request, most=MAX_ENTRIES, default=100)
        lieutenant = _readable(services.find_any(name), request)
        rows = lieutenant.messages.order_by("-created_at", "-id")
        if cursor := request.query_params.get("cursor", ""):
            last = services.find_cursor(lieutenant, cursor)
            same = Q(created_at=last.created_at, pk__lt=last.pk)
            rows = rows.filter(same | Q(created_at__lt=last.created_at))
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
    @takes(query=("wait",))
    def message(self, request: Request, name: str, message_id: str) -> Response:
        """Return a message: its state, the evidence for it, and the answer.

        `?wait=<seconds>` waits for its outcome.
        """
        seconds = _seconds(request)
        lieutenant = _readable(services.find_any(name), request)
        found = services.find_message(lieutenant, message_id)
        return _wait_for_answer(Response(message_json(found)), found, seconds)

    @message.mapping.delete
    def withdraw(self, request: Request, name: str, message_id: str) -> Response:
        """Withdraw a queued message."""
        return Response(message_json(services.withdraw(name, message_id, actor=request.user)))

    @action(detail=True, methods=["get"])
    def usage(self, request: Request, name: str) -> Response:
        """Return tokens and cost by day (UTC), newest first, and in total."""
        mine = Usage.objects.filter(lieutenant=_readable(services.find_any(name), request))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in mine.sums_by_day()]
        return Response({"days": days, "total": usage_json(mine.sums())})

    @action(detail=True, methods=["get"])
    @takes(query=("after", "cursor"))
    def stream(self, request: Request, name: str) -> Response:
        """Check permission to follow the transcript; the edge calls this before it streams."""
        lieutenant = _readable(services.find_any(name), request)
        return Response({"id": lieutenant.pk, "rev": lieutenant.rev})


class DestroyAll(APIView):
    """`POST /lieutenant/lieutenants/destroy-all`"""

    checks_permission = True

    def post(self, request: Request) -> Response:
        """Destroy all active lieutenants, or those below the calling node; return one line each."""
        return Response({"results": services.destroy_all(actor=request.user)})


class Discover(APIView):
    """`POST /lieutenant/lieutenants/discover`. Not for nodes."""

    checks_permission = True

    def post(self, request: Request) -> Response:
        """Follow agents again that were lost; return one line each."""
        return Response({"results": services.discover(actor=request.user)})


class FleetUsage(APIView):
    """`GET /lieutenant/usage`"""

    def get(self, request: Request) -> Response:
        """Return tokens and cost by day (UTC), of all lieutenants that the caller may read."""
        rows = Usage.objects.all()
        line = permissions.readable(request.user, Action.READ_TRANSCRIPT)
        if line is not None:
            rows = rows.filter(lieutenant__in=line.values("vm_id"))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in rows.sums_by_day()]
        return Response({"days": days, "total": usage_json(rows.sums())})


class Panel(APIView):
    """`GET /lieutenant/_panel`"""

    def get(self, request: Request) -> HttpResponse:
        """Return an HTML table for other pages."""
        return HttpResponse(views.panel_html(request._request))


class UnknownPath(APIView):
    """Answers 404 to unknown paths of this app; 401 without authentication."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse
