"""The agents' door to lieutenants, by the wire contract."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from lieutenants import outputs, services, views
from lieutenants.exceptions import BadInput, NotFound
from lieutenants.models import Lieutenant, Usage
from lieutenants.presence import vm_of
from lieutenants.serializers import (
    MOST_ENTRIES,
    body_of,
    changes_of,
    entry_json,
    lieutenants_json,
    message_json,
    query_flag,
    query_number,
    read_json,
    sent_json,
    usage_json,
    wish_of,
)
from lieutenants.states import Status
from lieutenants.transcript import texts_of_open
from vmtree import permissions
from vmtree.permissions import Action

WAIT_SECONDS = 60
# The edge keeps an answer with this header back until the lieutenant is at rest.
WAIT_HEADER = "Reef-Wait"


def _wait(response: Response, lieutenant: Lieutenant, seconds: int) -> Response:
    if seconds:
        response[WAIT_HEADER] = f"{lieutenant.pk} {seconds}"
    return response


def _legible(lieutenant: Lieutenant, request: Request) -> Lieutenant:
    """Return the lieutenant, if the caller may read its transcript. Raises Forbidden."""
    permissions.check(request.user, Action.READ_TRANSCRIPT, vm_of(lieutenant))
    return lieutenant


def _check_first(request: Request, name: str) -> None:
    """Refuse before values are looked at. `services` says what is wrong with an unknown name."""
    if lieutenant := Lieutenant.objects.living().filter(name=name).first():
        permissions.check(request.user, Action.COMMAND, vm_of(lieutenant))


class LieutenantViewSet(ViewSet):
    """`/lieutenant/lieutenants`; `services` checks permissions wherever something changes."""

    asks_authority = True
    lookup_field = "name"
    lookup_value_regex = "[^/]+"

    def list(self, request: Request) -> Response:
        """All living ones, newest first; `?status=` narrows, `?brief=true` has no long texts."""
        rows = Lieutenant.objects.living()
        if status := request.query_params.get("status"):
            rows = rows.filter(status=status)
        brief = query_flag(request, "brief")
        found = lieutenants_json(rows, caller=request.user, brief=brief)
        return Response({"lieutenants": found, "count": len(found)})

    def create(self, request: Request) -> Response:
        """Make one; `?wait=<seconds>` waits for the end of its start."""
        seconds = query_number(request, "wait", most=WAIT_SECONDS)
        lieutenant = services.create(wish_of(body_of(request)), actor=request.user)
        response = Response(lieutenants_json([lieutenant], caller=request.user)[0], status=201)
        return _wait(response, lieutenant, seconds)

    def retrieve(self, request: Request, name: str) -> Response:
        """One; `?brief=true` leaves out long texts."""
        brief = query_flag(request, "brief")
        found = [services.find(name)]
        return Response(lieutenants_json(found, caller=request.user, brief=brief)[0])

    def partial_update(self, request: Request, name: str) -> Response:
        """Another model, restart policy or limit; `{"restart": true}` starts its agent with it."""
        _check_first(request, name)
        seconds = query_number(request, "wait", most=WAIT_SECONDS)
        changes, restart = changes_of(body_of(request))
        found = services.adjust(name, changes, actor=request.user, restart_now=restart)
        facts = lieutenants_json([found], caller=request.user)[0]
        return _wait(Response(facts), found, seconds)

    def destroy(self, request: Request, name: str) -> Response:
        """End it for good; 200 again when repeated."""
        detail = services.destroy(name, actor=request.user)
        response = Response({"destroyed": True, "detail": detail})
        lieutenant = Lieutenant.objects.filter(name=name).first()
        return _wait(response, lieutenant, 10) if lieutenant else response

    @action(detail=True, methods=["post"])
    def send(self, request: Request, name: str) -> Response:
        """A message. Its id leads to the agent's verdict."""
        data = body_of(request)
        message, _ = services.send(
            name,
            data.get("message"),
            mode=data.get("mode"),
            key=request.headers.get("Idempotency-Key", "").strip(),
            actor=request.user,
        )
        return Response(sent_json(message))

    @action(detail=True, methods=["get"])
    def read(self, request: Request, name: str) -> Response:
        """The running answer, or the newest one; `?tail=` characters, `?history=` answers.

        `?limit=` characters after the first `?after=` are a page of it.
        """
        asked = {key: query_number(request, key) for key in ("tail", "history", "after", "limit")}
        lieutenant = _legible(services.find(name), request)
        return Response(read_json(lieutenant, **asked))

    @action(detail=True, methods=["post"])
    def pause(self, request: Request, name: str) -> Response:
        """End the agent, keep its session; `{"force": true}` while it is working."""
        _check_first(request, name)
        force = body_of(request).get("force", False)
        if not isinstance(force, bool):
            raise BadInput("force: must be true or false", "force")
        lieutenant = services.pause(name, actor=request.user, force=force)
        return _wait(Response({"paused": True}), lieutenant, 10)

    @action(detail=True, methods=["post"])
    def resume(self, request: Request, name: str) -> Response:
        """Start the agent again on its session."""
        seconds = query_number(request, "wait", most=WAIT_SECONDS)
        lieutenant = services.resume(name, actor=request.user)
        return _wait(Response({"resumed": True}), lieutenant, seconds)

    @action(detail=True, methods=["post"])
    def restart(self, request: Request, name: str) -> Response:
        """End the agent and start it again, also after an error."""
        seconds = query_number(request, "wait", most=WAIT_SECONDS)
        lieutenant = services.restart(name, actor=request.user)
        return _wait(Response({"restarted": True}), lieutenant, seconds)

    @action(detail=True, methods=["post"])
    def abort(self, request: Request, name: str) -> Response:
        """Break off the running answer."""
        services.abort(name, actor=request.user)
        return Response({"aborted": True})

    @action(detail=True, methods=["get"])
    def transcript(self, request: Request, name: str) -> Response:
        """Entries with an id above `?after=`, at most `?limit=` (200); `next` leads on.

        Very long entries make a page shorter; `?textLimit=` shows both ends of longer texts.
        """
        lieutenant = _legible(services.find_kept(name), request)
        after, shown = query_number(request, "after"), query_number(request, "textLimit")
        limit = query_number(request, "limit", most=MOST_ENTRIES) or 200
        rows, more = outputs.page_of_entries(lieutenant, after=after, limit=limit, text_limit=shown)
        texts = texts_of_open(rows)
        entries = [entry_json(row, texts.get(row.pk)) for row in rows]
        last = entries[-1]["id"] if more else None
        return Response(
            {"entries": entries, "count": len(entries), "next": last, "rev": lieutenant.rev}
        )

    @action(detail=True, methods=["get"])
    def messages(self, request: Request, name: str) -> Response:
        """Messages, newest first, at most `?limit=` (100); of long ones both ends."""
        limit = query_number(request, "limit", most=MOST_ENTRIES) or 100
        lieutenant = _legible(services.find_kept(name), request)
        rows = outputs.shortened(lieutenant.messages.order_by("-created_at", "-id")[:limit])
        found = [message_json(row) for row in rows]
        return Response({"messages": found, "count": len(found)})

    @action(detail=True, methods=["get"], url_path="messages/(?P<message_id>[^/]+)")
    def message(self, request: Request, name: str, message_id: str) -> Response:
        """One message: its state and the evidence for it."""
        lieutenant = _legible(services.find_kept(name), request)
        found = lieutenant.messages.filter(pk=message_id).first()
        if found is None:
            raise NotFound("Message not found")
        return Response(message_json(found))

    @action(detail=True, methods=["get"])
    def usage(self, request: Request, name: str) -> Response:
        """Tokens and cost of each day (UTC), newest first, and of all days."""
        mine = Usage.objects.filter(lieutenant=_legible(services.find_kept(name), request))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in mine.sums_by_day()]
        return Response({"days": days, "total": usage_json(mine.sums())})

    @action(detail=True, methods=["get"])
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

    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse
