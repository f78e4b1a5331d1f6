"""The agents' door to lieutenants, by the wire contract."""

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

from lieutenants import outputs, rewinding, services, views, waits
from lieutenants.hosts import silence
from lieutenants.models import Lieutenant, Message, Usage
from lieutenants.presence import vm_of
from lieutenants.serializers import (
    ADJUSTABLE,
    CREATED,
    MOST_ENTRIES,
    changes_of,
    entry_json,
    is_new_session,
    lieutenants_json,
    message_json,
    message_wanted,
    messages_json,
    read_json,
    sent_json,
    usage_json,
    wish_of,
)
from lieutenants.states import Status
from lieutenants.transcript import texts_of_open
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

WAIT_SECONDS = 60
# Of pause and destroy, which wait by themselves.
DEFAULT_WAIT = 10


def _wait(response: Response, lieutenant: Lieutenant, seconds: int) -> Response:
    """Have the edge keep the response back until the lieutenant is at rest."""
    if seconds:
        response[waits.HEADER] = waits.at_rest(lieutenant.pk, seconds)
    return response


def _done(lieutenant: Lieutenant, word: str, seconds: int, **more: str) -> Response:
    """Return the answer of a verb: done after a wait, or only asked of a host that is silent."""
    if note := silence.note_on(lieutenant):
        return Response({word: False, "asked": True, "note": note, **more}, status=202)
    return _wait(Response({word: True, **more}), lieutenant, seconds)


def _wait_for_answer(response: Response, message: Message, seconds: int) -> Response:
    """Have the edge keep the response back until the message has an outcome."""
    if seconds:
        response[waits.HEADER] = waits.answered(message.lieutenant_id, message.pk, seconds)
    return response


def _seconds(request: Request, default: int = 0) -> int:
    given = query_number(request, "wait", most=WAIT_SECONDS)
    return default if given is None else given


def _idempotency_key(request: Request) -> str:
    return request.headers.get("Idempotency-Key", "").strip()


def _legible(lieutenant: Lieutenant, request: Request) -> Lieutenant:
    """Return the lieutenant, if the caller may read its transcript. Raises Forbidden."""
    permissions.check(request.user, Action.READ_TRANSCRIPT, vm_of(lieutenant))
    return lieutenant


def _check_first(request: Request, name: str) -> None:
    """Refuse before values are looked at. `services` says what is wrong with an unknown name."""
    if lieutenant := Lieutenant.objects.living().filter(name=name).first():
        permissions.check(request.user, Action.COMMAND, vm_of(lieutenant))


def _start(name: str, request: Request, begin: Callable[..., Lieutenant]) -> Lieutenant:
    """Start the agent by `begin`, on its session or on a new one."""
    if is_new_session(body_of(request)):
        return services.new_session(name, actor=request.user, begin=begin)
    return begin(name, actor=request.user)


class LieutenantViewSet(ViewSet):
    """`/lieutenant/lieutenants`; `services` checks permissions wherever something changes."""

    asks_authority = True
    lookup_field = "name"
    named_parts: ClassVar = {"name": services.called}
    lookup_value_regex = "[^/]+"

    @takes(query=("status", "brief"))
    def list(self, request: Request) -> Response:
        """All living ones, newest first; `?status=` narrows, `?brief=true` has no long texts."""
        rows = Lieutenant.objects.living()
        if status := request.query_params.get("status"):
            rows = rows.filter(status=status)
        brief = query_flag(request, "brief")
        found = lieutenants_json(rows, caller=request.user, brief=brief)
        return Response({"lieutenants": found, "count": len(found)})

    @takes(query=("wait",), body=CREATED)
    def create(self, request: Request) -> Response:
        """Make one; `?wait=<seconds>` waits for the end of its start.

        With an `Idempotency-Key` header the same request again is 200 with the same one.
        """
        seconds = _seconds(request)
        lieutenant, is_new = services.create_once(
            wish_of(body_of(request)), actor=request.user, key=_idempotency_key(request)
        )
        facts = lieutenants_json([lieutenant], caller=request.user)[0]
        response = Response(facts, status=201 if is_new else 200)
        return _wait(response, lieutenant, seconds)

    @takes(query=("brief",))
    def retrieve(self, request: Request, name: str) -> Response:
        """One; `?brief=true` leaves out long texts."""
        brief = query_flag(request, "brief")
        found = [services.find(name)]
        return Response(lieutenants_json(found, caller=request.user, brief=brief)[0])

    @takes(query=("wait",), body=(*ADJUSTABLE, "restart"))
    def partial_update(self, request: Request, name: str) -> Response:
        """Another model, restart policy or limit; `{"restart": true}` starts its agent with it."""
        _check_first(request, name)
        seconds = _seconds(request)
        changes, restart = changes_of(body_of(request))
        found = services.adjust(name, changes, actor=request.user, restart_now=restart)
        facts = lieutenants_json([found], caller=request.user)[0]
        return _wait(Response(facts), found, seconds)

    @takes(query=("wait",))
    def destroy(self, request: Request, name: str) -> Response:
        """End it for good; 200 again when repeated."""
        seconds = _seconds(request, DEFAULT_WAIT)
        detail = services.destroy(name, actor=request.user)
        lieutenant = Lieutenant.objects.filter(name=name).first()
        if lieutenant is None:
            return Response({"destroyed": True, "detail": detail})
        return _done(lieutenant, "destroyed", seconds, detail=detail)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("message", "mode"))
    def send(self, request: Request, name: str) -> Response:
        """A message; `?wait=<seconds>` waits for the agent's answer to it."""
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
        """The running answer, or the newest one; `?tail=` characters, `?history=` answers.

        `?limit=` characters after the first `?after=` are a page of it.
        """
        names = ("tail", "history", "after", "limit")
        asked = {key: query_number(request, key) or 0 for key in names}
        lieutenant = _legible(services.find(name), request)
        return Response(read_json(lieutenant, **asked))

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("force",))
    def pause(self, request: Request, name: str) -> Response:
        """End the agent, keep its session; `{"force": true}` while it is working."""
        _check_first(request, name)
        seconds = _seconds(request, DEFAULT_WAIT)
        force = flag_of(body_of(request).get("force", False), "force")
        lieutenant = services.pause(name, actor=request.user, force=force)
        return _done(lieutenant, "paused", seconds)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("session",))
    def resume(self, request: Request, name: str) -> Response:
        """Start the agent again on its session, or with `{"session": "new"}`."""
        _check_first(request, name)
        seconds = _seconds(request)
        lieutenant = _start(name, request, services.resume)
        return _done(lieutenant, "resumed", seconds)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("session",))
    def restart(self, request: Request, name: str) -> Response:
        """End the agent and start it again; `{"session": "new"}` begins a new session."""
        _check_first(request, name)
        seconds = _seconds(request)
        lieutenant = _start(name, request, services.restart)
        return _done(lieutenant, "restarted", seconds)

    @action(detail=True, methods=["post"])
    @takes(query=("wait",), body=("messageId", "entryId"))
    def rewind(self, request: Request, name: str) -> Response:
        """Go back to before a message: `messageId`, `entryId`, or the first one that fails."""
        _check_first(request, name)
        seconds = _seconds(request)
        message_id, entry_id = message_wanted(body_of(request))
        lieutenant, entry = rewinding.ask(
            name, actor=request.user, message_id=message_id, entry_id=entry_id
        )
        facts = {"rewinding": True, "entryId": entry.pk, "messageId": entry.message_id}
        return _wait(Response(facts, status=202), lieutenant, seconds)

    @action(detail=True, methods=["post"])
    def abort(self, request: Request, name: str) -> Response:
        """Break off the running answer."""
        return _done(services.abort(name, actor=request.user), "aborted", 0)

    @action(detail=True, methods=["get"])
    @takes(query=("after", "cursor", "limit", "textLimit"))
    def transcript(self, request: Request, name: str) -> Response:
        """Entries with an id above `?cursor=`, at most `?limit=` (200); `next` leads on.

        Very long entries make a page shorter; `?textLimit=` shows both ends of longer texts.
        """
        lieutenant = _legible(services.find_kept(name), request)
        after = query_cursor(request, "after") or 0
        limit = query_limit(request, most=MOST_ENTRIES, default=200)
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
        """Messages, newest first, at most `?limit=` (100) behind `?cursor=`; `next` leads on.

        Of long texts both ends are shown.
        """
        limit = query_limit(request, most=MOST_ENTRIES, default=100)
        lieutenant = _legible(services.find_kept(name), request)
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
        """One message: its state, the evidence for it, and the answer.

        `?wait=<seconds>` waits for its outcome.
        """
        seconds = _seconds(request)
        lieutenant = _legible(services.find_kept(name), request)
        found = services.find_message(lieutenant, message_id)
        return _wait_for_answer(Response(message_json(found)), found, seconds)

    @message.mapping.delete
    def withdraw(self, request: Request, name: str, message_id: str) -> Response:
        """Take a message back that waits in the queue."""
        return Response(message_json(services.withdraw(name, message_id, actor=request.user)))

    @action(detail=True, methods=["get"])
    def usage(self, request: Request, name: str) -> Response:
        """Tokens and cost of each day (UTC), newest first, and of all days."""
        mine = Usage.objects.filter(lieutenant=_legible(services.find_kept(name), request))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in mine.sums_by_day()]
        return Response({"days": days, "total": usage_json(mine.sums())})

    @action(detail=True, methods=["get"])
    @takes(query=("after", "cursor"))
    def stream(self, request: Request, name: str) -> Response:
        """Whether the caller may follow this transcript. The edge asks, and streams itself."""
        lieutenant = _legible(services.find_kept(name), request)
        return Response({"id": lieutenant.pk, "rev": lieutenant.rev})


class DestroyAll(APIView):
    """`POST /lieutenant/lieutenants/destroy-all`"""

    asks_authority = True

    def post(self, request: Request) -> Response:
        """One line for each; a node destroys those below it."""
        return Response({"results": services.destroy_all(actor=request.user)})


class Discover(APIView):
    """`POST /lieutenant/lieutenants/discover`; not for nodes."""

    asks_authority = True

    def post(self, request: Request) -> Response:
        """One line for each agent that was found."""
        return Response({"results": services.discover(actor=request.user)})


class FleetUsage(APIView):
    """`GET /lieutenant/usage`"""

    def get(self, request: Request) -> Response:
        """Tokens and cost by day (UTC): of all lieutenants, or of those of a node's line."""
        rows = Usage.objects.all()
        line = permissions.readable(request.user, Action.READ_TRANSCRIPT)
        if line is not None:
            rows = rows.filter(lieutenant__in=line.values("vm_id"))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in rows.sums_by_day()]
        return Response({"days": days, "total": usage_json(rows.sums())})


class Panel(APIView):
    """`GET /lieutenant/_panel`"""

    def get(self, request: Request) -> HttpResponse:
        """A table that other pages can include."""
        return HttpResponse(views.panel_html(request._request))


class ListingEvents(APIView):
    """`GET /events`: whether the caller may hear them. The edge asks, and streams itself."""

    def get(self, request: Request) -> Response:
        """The statuses there are, so that the answer is not empty."""
        return Response({"statuses": Status.values})


class Nothing(APIView):
    """A known service's unknown path: 404 for those who may come in, else 401."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse
