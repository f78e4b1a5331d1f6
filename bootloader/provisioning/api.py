"""The API of provisioning: create, list, retry and cancel provisionings; machines and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader import outside_calls, providers
from bootloader.inventory import reconcile
from bootloader.models import Finding, LogLine, Machine, Provisioning
from bootloader.provisioning import preview, quota, requests, services
from bootloader.states import FindingKind, FindingState, Proposal, State
from reef_site.common import outside
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.models import OutsideCall
from reef_site.common.outside_answers import api_answer, api_state
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes
from reef_site.common.request_values import (
    body_of,
    choice_of,
    is_dry_run,
    query_choice,
    query_cursor,
    query_limit,
)
from reef_site.common.text import is_storable
from vmtree import aliases, permissions
from vmtree.models import Node
from vmtree.permissions import Action

Json = dict[str, Any]
MAX_ROWS = 1000
DEFAULT_ROWS = 100
MAX_KEY_LENGTH = 200

Row = TypeVar("Row", bound=Model)


class Provision(APIView):
    """`POST /bootloader/provision`"""

    checks_permission = True

    @takes(query=("dryRun",), body=requests.FIELDS)
    def post(self, request: Request) -> Response:
        """Provision a VM, or `count` VMs. 202, or 200 if they exist already.

        `{"dryRun": true}` returns what would be requested and run, with secrets masked.
        """
        body = body_of(request)
        vm_request = requests.parse_request(body)
        if is_dry_run(request):
            return Response({"dryRun": True, **preview.as_json(vm_request, by=request.user)})
        key = _key(request.headers.get("Idempotency-Key", ""))
        started = services.start(vm_request, by=request.user, key=key)
        response: Json = {
            "provisionings": provisionings_json(started.rows),
            "count": len(started.rows),
            "continued": started.existing,
        }
        if vm_request.count is None:
            response["provisioning"] = response["provisionings"][0]
        return Response(response, status=200 if started.existing else 202)


class Provisionings(APIView):
    """`GET /bootloader/provisionings`"""

    @takes(query=("state", "name", "batch", "vmId", "limit", "cursor"))
    def get(self, request: Request) -> Response:
        """List provisionings, newest first; filter by `?state= name= batch= vmId= limit=
        cursor=`.
        """
        rows = services.list_provisionings(state=query_choice(request, "state", State.values))
        for name, column in (("name", "name"), ("batch", "batch"), ("vmId", "vm_id")):
            if value := _query(request, name):
                value = aliases.resolve(value) if name == "vmId" else value
                rows = rows.filter(**{column: value})
        if cursor := _query(request, "cursor"):
            rows = rows.filter(pk__lt=cursor)
        limit = query_limit(request, most=MAX_ROWS, default=DEFAULT_ROWS)
        found, more = take_page(rows, limit)
        shown = _visible_json(request, found)
        return Response(
            {"provisionings": shown, "count": len(shown), "next": found[-1].pk if more else None}
        )


class OneProvisioning(APIView):
    """`GET /bootloader/provisionings/<id>`"""

    def get(self, request: Request, provisioning_id: str) -> Response:
        """Return a provisioning with its steps."""
        row = services.find(provisioning_id)
        return Response({"provisioning": _visible_json(request, [row])[0]})


class Log(APIView):
    """`GET /bootloader/provisionings/<id>/log`"""

    @takes(query=("after", "cursor", "limit"))
    def get(self, request: Request, provisioning_id: str) -> Response:
        """Return lines after `?after=`, oldest first; `next` is the cursor of the following
        ones.
        """
        row = services.find(provisioning_id)
        permissions.check(request.user, Action.READ_MACHINES, _subject_ids([row])[row.pk] or None)
        after = query_cursor(request, "after") or 0
        limit = query_limit(request, most=MAX_ROWS, default=MAX_ROWS)
        found = services.log_of(row, after, limit)
        return Response(
            {
                "lines": [line_json(line) for line in found],
                "count": len(found),
                "next": found[-1].pk if found else after,
                "state": row.state,
            }
        )


class Retry(APIView):
    """`POST /bootloader/provisionings/<id>/retry`"""

    checks_permission = True

    def post(self, request: Request, provisioning_id: str) -> Response:
        """Continue from the failed step."""
        row = services.retry(provisioning_id, by=request.user)
        return Response({"provisioning": provisioning_json(row)}, status=202)


class Cancel(APIView):
    """`POST /bootloader/provisionings/<id>/cancel`"""

    checks_permission = True

    @takes(body=("machine",))
    def post(self, request: Request, provisioning_id: str) -> Response:
        """Cancel; `{"machine": "keep"}` or `"delete"` is the cleanup policy for its VM."""
        services.may_command(services.find(provisioning_id), request.user)
        cleanup = requests.parse_cleanup(body_of(request).get("machine"))
        row = services.cancel(provisioning_id, cleanup, by=request.user)
        return Response({"provisioning": provisioning_json(row)}, status=202)


class Machines(APIView):
    """`GET /bootloader/machines`"""

    @takes(query=("gone", "provider", "limit", "cursor"))
    def get(self, request: Request) -> Response:
        """List known machines of providers; `?provider=` filters, `?gone=true` includes gone
        ones.
        """
        rows = Machine.objects.all()
        if request.query_params.get("gone") != "true":
            rows = rows.active()
        if provider := _query(request, "provider"):
            rows = rows.of(provider)
        legible = _readable(rows, request)
        found, following = _page(request, legible)
        shown = [machine_json(row) for row in found]
        return Response({"machines": shown, "count": len(shown), "next": following})


class Findings(APIView):
    """`GET /bootloader/findings`"""

    @takes(query=("state", "limit", "cursor"))
    def get(self, request: Request) -> Response:
        """List findings, newest first; `?state=` (default open)."""
        state = request.query_params.get("state", FindingState.OPEN.value)
        choice_of(state, "state", FindingState.values)
        rows = _readable(Finding.objects.filter(state=state), request)
        found, following = _page(request, rows)
        shown = [finding_json(row) for row in found]
        return Response({"findings": shown, "count": len(shown), "next": following})


class Reconcile(APIView):
    """`POST /bootloader/reconcile`"""

    checks_permission = True

    def post(self, request: Request) -> Response:
        """Compare providers, tree and registry now."""
        permissions.check(request.user, "command", None)
        return _call_response(outside_calls.compare(by=request.user))


class DecideMany(APIView):
    """`POST /bootloader/findings/act`"""

    checks_permission = True

    @takes(body=("ids", "kind", "provider", "action"))
    def post(self, request: Request) -> Response:
        """Act on several findings: `{"ids": […]}`, or `{"kind": …}` with an optional `provider`.

        200 with the result for each; failed ones stay open and give the reason.
        """
        permissions.check(request.user, "command", None)
        body = body_of(request)
        ids, kind, provider = (body.get(name) for name in ("ids", "kind", "provider"))
        if (ids is None) == (kind is None):
            raise BadInput("ids: say either ids or kind", "ids")
        if ids is not None:
            if not isinstance(ids, list) or not ids or not all(type(key) is int for key in ids):
                raise BadInput("ids: must be a list of numbers", "ids")
            selected = [reconcile.find(key) for key in dict.fromkeys(ids[:MAX_ROWS])]
        else:
            choice_of(kind, "kind", FindingKind.values)
            rows = Finding.objects.open().filter(kind=kind)
            if provider is not None:
                rows = rows.filter(provider=_provider(provider))
            selected = list(rows.order_by("id")[:MAX_ROWS])
        proposal = _proposal(body)
        return _call_response(outside_calls.act_on_many(selected, proposal, by=request.user))


class Decide(APIView):
    """`POST /bootloader/findings/<id>/{act,dismiss}`"""

    checks_permission = True

    @takes(body=("action",))
    def post(self, request: Request, finding_id: str, word: str) -> Response:
        """Carry out the proposal (`{"action": …}`: another allowed action), or dismiss the
        finding.
        """
        permissions.check(request.user, Action.COMMAND, None)
        if word == "dismiss":
            return Response(
                {"finding": finding_json(reconcile.dismiss(int(finding_id), by=request.user))}
            )
        proposal = _proposal(body_of(request))
        permissions.check(request.user, "command", None)
        reconcile.find(int(finding_id))
        return _call_response(outside_calls.act(int(finding_id), proposal, by=request.user))


class Call(APIView):
    """`GET /bootloader/calls/<id>`"""

    checks_permission = True

    def get(self, request: Request, call_id: str) -> Response:
        """Return the result of a request that was answered with 202; `state` tells whether it
        has ended.
        """
        permissions.check(request.user, "command", None)
        row = outside.find(call_id, *_RESULT_JSON)
        if row is None:
            raise NotFound("there is no such call")
        return api_state(row, lambda row: _RESULT_JSON[row.kind](row.result))


# -- calls to providers, made by a worker --------------------------------------------------------


def _call_response(row: OutsideCall) -> Response:
    path = f"/bootloader/calls/{row.pk}"
    return api_answer(row, path, lambda row: _RESULT_JSON[row.kind](row.result))


def _compared(_result: Json) -> Json:
    shown = [finding_json(row) for row in Finding.objects.open().order_by("-id")[:MAX_ROWS]]
    skipped = [machine_json(row) for row in reconcile.too_new()[:MAX_ROWS]]
    note = {"note": reconcile.SKIPPED_NOTE} if skipped else {}
    return {"findings": shown, "count": len(shown), "skipped": skipped, **note}


def _acted(result: Json) -> Json:
    return {"finding": finding_json(reconcile.find(result["id"]))}


def _acted_on_many(result: Json) -> Json:
    why = {key: text for key, _, text in result["failed"]}
    rows = Finding.objects.in_bulk([*result["done"], *why])
    return {
        "findings": [finding_json(rows[key]) for key in result["done"] if key in rows],
        "count": len(result["done"]),
        "failed": [{**finding_json(rows[key]), "error": why[key]} for key in why if key in rows],
    }


_RESULT_JSON: dict[str, Callable[[Json], Json]] = {
    outside_calls.COMPARE: _compared,
    outside_calls.ACT: _acted,
    outside_calls.ACT_ON_MANY: _acted_on_many,
}


def _readable(rows: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """Filter rows to those that the caller may read: for a node, rows about its own line."""
    line = permissions.readable(request.user, Action.READ_MACHINES)
    return rows if line is None else rows.filter(vm_id__in=line.values("vm_id"))


def _page(request: Request, rows: QuerySet[Row]) -> tuple[list[Row], int | None]:
    """Return the newest rows after `?cursor=`, at most `?limit=`, and the next cursor."""
    limit = query_limit(request, most=MAX_ROWS, default=MAX_ROWS)
    if cursor := query_cursor(request):
        rows = rows.filter(pk__lt=cursor)
    found, more = take_page(rows.order_by("-id"), limit)
    return found, found[-1].pk if more else None


def _subject_ids(rows: Sequence[Provisioning]) -> dict[str, str]:
    """Map each provisioning to the VM that it is about, or to its parent while the VM has no
    node.
    """
    vm_ids = [row.vm_id for row in rows if row.vm_id]
    there = set(Node.objects.filter(vm_id__in=vm_ids).values_list("vm_id", flat=True))
    return {row.pk: row.vm_id if row.vm_id in there else row.parent_vm_id for row in rows}


def _visible_json(request: Request, rows: Sequence[Provisioning]) -> list[Json]:
    """Return provisionings as JSON.

    Outside a node's own line reasons are removed, since they may quote output.
    """
    places, shown = _subject_ids(rows), provisionings_json(rows)
    legible = permissions.readable(request.user, Action.READ_MACHINES)
    if legible is None:
        return shown
    own = set(legible.filter(vm_id__in=places.values()).values_list("vm_id", flat=True))
    for each in shown:
        if places[each["id"]] not in own:
            steps = [{**step, "reason": None} for step in each["steps"]]
            each |= {"reason": None, "spec": {}, "steps": steps}
    return shown


# -- JSON ----------------------------------------------------------------------------------------


def provisionings_json(rows: Iterable[Provisioning]) -> list[Json]:
    """Return several provisionings as JSON, looking up the cause of waiting only once."""
    found = list(rows)
    waits = quota.why_waiting() if any(row.state == State.QUEUED for row in found) else ""
    return [_provisioning_json(row, waits) for row in found]


def provisioning_json(row: Provisioning) -> Json:
    """Return a provisioning with its steps as JSON; durations in milliseconds."""
    return provisionings_json([row])[0]


def _provisioning_json(row: Provisioning, waits: str) -> Json:
    return {
        "id": row.pk,
        "name": row.name,
        "type": row.profile,
        "provider": row.provider,
        "parentVmId": row.parent_vm_id or None,
        "batch": row.batch,
        "state": row.state,
        "stateSince": row.state_since,
        "reason": row.reason or None,
        "waitsFor": waits if row.state == State.QUEUED else None,
        "vmId": row.vm_id or None,
        "machineId": row.machine.machine_id if row.machine else None,
        "onFailure": row.on_failure,
        "spec": requests.spec_json(row.spec),
        "actor": row.actor,
        "createdAt": row.created_at,
        "endedAt": row.ended_at,
        "steps": [
            {
                "name": step.name,
                "state": step.state,
                "reason": step.reason or None,
                "attempts": step.attempts,
                "startedAt": step.started_at,
                "endedAt": step.ended_at,
                "durationMs": None if step.seconds is None else int(step.seconds * 1000),
            }
            for step in sorted(row.steps.all(), key=lambda each: each.position)
        ],
    }


def line_json(line: LogLine) -> Json:
    """Return a log entry as JSON; `output` may have many lines."""
    return {
        "id": line.pk,
        "at": line.at,
        "step": line.step or None,
        "kind": line.kind,
        "text": line.text,
    }


def machine_json(row: Machine) -> Json:
    """Return a machine as JSON."""
    return {
        "provider": row.provider,
        "machineId": row.machine_id,
        "name": row.name or None,
        "vmId": row.vm_id or None,
        "state": row.state or None,
        "mine": row.mine,
        "createdAt": row.created_at,
        "seenAt": row.seen_at,
        "goneAt": row.gone_at,
        "note": row.note or None,
    }


def finding_json(row: Finding) -> Json:
    """Return a finding with its proposal as JSON."""
    return {
        "id": row.pk,
        "kind": row.kind,
        "provider": row.provider,
        "machineId": row.machine_id,
        "vmId": row.vm_id or None,
        "name": row.name or None,
        "text": row.text,
        "proposal": row.proposal,
        "actions": sorted(reconcile.allowed_actions(row)),
        "state": row.state,
        "foundAt": row.found_at,
        "decidedAt": row.decided_at,
        "decidedBy": row.decided_by or None,
        "outcome": row.outcome or None,
    }


def _proposal(body: Json) -> Proposal | None:
    """Return the requested `action`, if there is one. Raise BadInput."""
    selected = body.get("action")
    return None if selected is None else Proposal(choice_of(selected, "action", Proposal.values))


def _provider(slug: object) -> str:
    return choice_of(slug, "provider", providers.all_slugs())


def _query(request: Request, name: str) -> str:
    """Return a query parameter that a database can search for. Raise BadInput."""
    value: str = request.query_params.get(name, "")
    if not is_storable(value):
        raise BadInput(f"{name}: has characters that are no text", name)
    return value


def _key(value: str) -> str:
    key = value.strip()
    if len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise BadInput(f"Idempotency-Key: must be at most {MAX_KEY_LENGTH} printable characters")
    return key


_ONE = r"^provisionings/(?P<provisioning_id>[^/]+)"

urlpatterns = [
    re_path(r"^provision/?$", Provision.as_view(), name="bootloader-provision"),
    re_path(r"^provisionings/?$", Provisionings.as_view(), name="bootloader-provisionings"),
    re_path(rf"{_ONE}/?$", OneProvisioning.as_view(), name="bootloader-provisioning"),
    re_path(rf"{_ONE}/log/?$", Log.as_view()),
    re_path(rf"{_ONE}/retry/?$", Retry.as_view()),
    re_path(rf"{_ONE}/cancel/?$", Cancel.as_view()),
    re_path(r"^machines/?$", Machines.as_view(), name="bootloader-machines"),
    re_path(r"^findings/?$", Findings.as_view(), name="bootloader-findings"),
    re_path(r"^findings/act/?$", DecideMany.as_view()),
    re_path(r"^findings/(?P<finding_id>[0-9]{1,18})/(?P<word>act|dismiss)/?$", Decide.as_view()),
    re_path(r"^reconcile/?$", Reconcile.as_view()),
    re_path(r"^calls/(?P<call_id>[0-9a-f]{1,32})/?$", Call.as_view()),
]
