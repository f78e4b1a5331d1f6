"""The agents' door to provisioning: have VMs made, look at how they come up, retry, cancel."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader import reconcile
from bootloader.models import Finding, LogLine, Machine, Provisioning
from bootloader.provisioning import preview, services, wishes
from bootloader.states import FindingState, Proposal, State
from vmtree import authority
from vmtree.exceptions import BadInput
from vmtree.serializers import body_of, query_number

Json = dict[str, Any]
MOST_ROWS = 1000
USUAL_ROWS = 100
LONGEST_KEY = 200


class Provision(APIView):
    """`POST /bootloader/provision`"""

    asks_authority = True

    def post(self, request: Request) -> Response:
        """Have a VM made, or `count` of them; 202, or 200 for those that are there already.

        `{"dryRun": true}` answers what would be asked and run, with secrets masked.
        """
        body = body_of(request)
        wish = wishes.wish_of(body)
        if _flag(body.get("dryRun"), "dryRun"):
            return Response({"dryRun": True, **preview.as_json(wish, by=request.user)})
        key = _key(request.headers.get("Idempotency-Key", ""))
        started = services.start(wish, by=request.user, key=key)
        answer: Json = {
            "provisionings": [provisioning_json(row) for row in started.rows],
            "count": len(started.rows),
            "continued": started.again,
        }
        if wish.count is None:
            answer["provisioning"] = answer["provisionings"][0]
        return Response(answer, status=200 if started.again else 202)


class Provisionings(APIView):
    """`GET /bootloader/provisionings`"""

    def get(self, request: Request) -> Response:
        """Newest first; `?state= name= batch= vmId= limit= cursor=` narrow."""
        asked = request.query_params
        state = asked.get("state", "")
        if state and state not in State.values:
            raise BadInput(f"state: must be one of {', '.join(State.values)}", "state")
        rows = services.listed(state=state)
        for name, column in (("name", "name"), ("batch", "batch"), ("vmId", "vm_id")):
            if value := asked.get(name, "").replace("\0", ""):
                rows = rows.filter(**{column: value})
        if cursor := asked.get("cursor", "").replace("\0", ""):
            rows = rows.filter(pk__lt=cursor)
        limit = query_number(request, "limit", most=MOST_ROWS) or USUAL_ROWS
        found = list(rows[: limit + 1])
        more, found = len(found) > limit, found[:limit]
        shown = [provisioning_json(row) for row in found]
        return Response(
            {"provisionings": shown, "count": len(shown), "next": found[-1].pk if more else None}
        )


class OneProvisioning(APIView):
    """`GET /bootloader/provisionings/<id>`"""

    def get(self, request: Request, provisioning_id: str) -> Response:
        """With its steps."""
        return Response({"provisioning": provisioning_json(services.find(provisioning_id))})


class Log(APIView):
    """`GET /bootloader/provisionings/<id>/log`"""

    def get(self, request: Request, provisioning_id: str) -> Response:
        """Lines after `?after=`, oldest first; `next` is where the following ones begin."""
        row = services.find(provisioning_id)
        after = query_number(request, "after") or 0
        limit = query_number(request, "limit", most=MOST_ROWS) or MOST_ROWS
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

    asks_authority = True

    def post(self, request: Request, provisioning_id: str) -> Response:
        """Go on from the step that failed."""
        row = services.retry(provisioning_id, by=request.user)
        return Response({"provisioning": provisioning_json(row)}, status=202)


class Cancel(APIView):
    """`POST /bootloader/provisionings/<id>/cancel`"""

    asks_authority = True

    def post(self, request: Request, provisioning_id: str) -> Response:
        """End it; `{"machine": "keep"}` or `"delete"` says what becomes of its VM."""
        leftover = wishes.leftover_of(body_of(request).get("machine"))
        row = services.cancel(provisioning_id, leftover, by=request.user)
        return Response({"provisioning": provisioning_json(row)}, status=202)


class Machines(APIView):
    """`GET /bootloader/machines`"""

    def get(self, request: Request) -> Response:
        """VMs of providers that are known here; `?provider=` narrows, `?gone=true` shows all."""
        rows = Machine.objects.all()
        if request.query_params.get("gone") != "true":
            rows = rows.living()
        if provider := request.query_params.get("provider", "").replace("\0", ""):
            rows = rows.of(provider)
        limit = query_number(request, "limit", most=MOST_ROWS) or MOST_ROWS
        shown = [machine_json(row) for row in rows.order_by("-id")[:limit]]
        return Response({"machines": shown, "count": len(shown)})


class Findings(APIView):
    """`GET /bootloader/findings`"""

    def get(self, request: Request) -> Response:
        """What does not fit together; `?state=` (open), newest first."""
        state = request.query_params.get("state", FindingState.OPEN.value)
        if state not in FindingState.values:
            raise BadInput(f"state: must be one of {', '.join(FindingState.values)}", "state")
        rows = Finding.objects.filter(state=state).order_by("-id")[:MOST_ROWS]
        shown = [finding_json(row) for row in rows]
        return Response({"findings": shown, "count": len(shown)})


class Reconcile(APIView):
    """`POST /bootloader/reconcile`"""

    asks_authority = True

    def post(self, request: Request) -> Response:
        """Compare providers, tree and registry now."""
        authority.check(request.user, "command", None)
        reconcile.look()
        shown = [finding_json(row) for row in Finding.objects.open().order_by("-id")[:MOST_ROWS]]
        return Response({"findings": shown, "count": len(shown)})


class Decide(APIView):
    """`POST /bootloader/findings/<id>/{act,dismiss}`"""

    asks_authority = True

    def post(self, request: Request, finding_id: str, word: str) -> Response:
        """Do what is proposed (`{"action": …}` another thing that fits), or leave it as it is."""
        if word == "dismiss":
            return Response(
                {"finding": finding_json(reconcile.dismiss(int(finding_id), by=request.user))}
            )
        chosen = body_of(request).get("action")
        if chosen is not None and chosen not in Proposal.values:
            raise BadInput(f"action: must be one of {', '.join(Proposal.values)}", "action")
        proposal = Proposal(chosen) if chosen else None
        row = reconcile.act(int(finding_id), by=request.user, proposal=proposal)
        return Response({"finding": finding_json(row)})


# -- what is said --------------------------------------------------------------------------------


def provisioning_json(row: Provisioning) -> Json:
    """A provisioning with its steps; times in the wire's form, durations in milliseconds."""
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
        "vmId": row.vm_id or None,
        "machineId": row.machine.machine_id if row.machine else None,
        "onFailure": row.on_failure,
        "spec": row.spec,
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
    """One entry of a log; `output` may have many lines."""
    return {
        "id": line.pk,
        "at": line.at,
        "step": line.step or None,
        "kind": line.kind,
        "text": line.text,
    }


def machine_json(row: Machine) -> Json:
    """A VM of a provider."""
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
    """A finding with what is proposed."""
    return {
        "id": row.pk,
        "kind": row.kind,
        "provider": row.provider,
        "machineId": row.machine_id,
        "vmId": row.vm_id or None,
        "name": row.name or None,
        "text": row.text,
        "proposal": row.proposal,
        "state": row.state,
        "foundAt": row.found_at,
        "decidedAt": row.decided_at,
        "decidedBy": row.decided_by or None,
        "outcome": row.outcome or None,
    }


def _flag(value: object, field: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadInput(f"{field}: must be true or false", field)


def _key(value: str) -> str:
    key = value.strip()
    if len(key) > LONGEST_KEY or not key.isprintable():
        raise BadInput(f"Idempotency-Key: must be at most {LONGEST_KEY} printable characters")
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
    re_path(r"^findings/(?P<finding_id>[0-9]{1,18})/(?P<word>act|dismiss)/?$", Decide.as_view()),
    re_path(r"^reconcile/?$", Reconcile.as_view()),
]
