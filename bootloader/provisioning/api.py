"""The API of provisioning: create, list, retry and cancel provisionings; machines and findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader import outside_calls
from bootloader.inventory import reconcile
from bootloader.models import Finding, Machine, Provisioning, SshHost
from bootloader.provisioning import preview, services
from bootloader.provisioning.serializers.calls import (
    CallResponse,
    ConnectionTestBody,
    ConnectionTestResponse,
)
from bootloader.provisioning.serializers.fields import MAX_ROWS
from bootloader.provisioning.serializers.inventory import (
    ComparedResponse,
    DecidedResponse,
    DecisionBody,
    DecisionsBody,
    FindingResponse,
    FindingsQuery,
    MachineResponse,
    MachinesQuery,
    OneFindingResponse,
    finding_json,
    machine_json,
)
from bootloader.provisioning.serializers.provision_requests import (
    CancelBody,
    ProvisionBody,
    ProvisioningLogQuery,
    ProvisioningsQuery,
    to_request,
)
from bootloader.provisioning.serializers.provisionings import (
    ExistingOrPreviewResponse,
    OneProvisioningResponse,
    ProvisionedResponse,
    ProvisioningLogResponse,
    ProvisioningResponse,
    line_json,
    preview_json,
    provisioning_json,
    provisionings_json,
)
from bootloader.states import Proposal
from reef_site.common import outside
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Cursor, Text
from reef_site.common.api.serializers import DryRunQuery, list_of
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.models import OutsideCall
from reef_site.common.outside_answers import RunningCallResponse, api_answer, api_state
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_values import is_dry_run
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

Json = dict[str, Any]
MAX_KEY_LENGTH = 200
NOT_FOUND = {404: "provisioning not found"}
NO_FINDING = {404: "finding not found"}
RUNNING = {202: RunningCallResponse}
CALL_FAILED = {502: "vers: the platform does not answer"}

Row = TypeVar("Row", bound=Model)


class Provision(APIView):
    """`POST /bootloader/provision`"""

    checks_permission = True

    @endpoint(
        query=DryRunQuery,
        body=ProvisionBody,
        response=ProvisionedResponse,
        status=202,
        more_responses={200: ExistingOrPreviewResponse},
        errors={409: "name: 'builder' is queued as provisioning 01JD9Z3K8Q5V7W2X4Y6A8B0C1D"},
    )
    def post(self, request: Request) -> Response:
        """Provision a VM, or `count` VMs. 202, or 200 if they exist already.

        `{"dryRun": true}` returns what would be requested and run, with secrets masked.
        """
        vm_request = to_request(ProvisionBody.parse(request))
        if is_dry_run(request):
            made = preview.make_preview(vm_request, by=request.user)
            return Response({"dryRun": True, **preview_json(made)})
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

    @endpoint(
        query=ProvisioningsQuery,
        response=list_of("provisionings", ProvisioningResponse, next_page=Text),
    )
    def get(self, request: Request) -> Response:
        """List provisionings, newest first.

        For a node, those of VMs outside of its own line have no reasons and no specification.
        """
        query = ProvisioningsQuery.parse(request)
        rows = services.list_provisionings(state=query["state"] or "")
        columns = ("name", "batch", "vm_id")
        rows = rows.filter(**{column: query[column] for column in columns if query[column]})
        found, following = take_page_by_key(
            rows, query["limit"], query["cursor"], newest_first=True
        )
        return _list("provisionings", visible_json(request.user, found), next=following)


class OneProvisioning(APIView):
    """`GET /bootloader/provisionings/<id>`"""

    @endpoint(response=OneProvisioningResponse, errors=NOT_FOUND)
    def get(self, request: Request, provisioning_id: str) -> Response:
        """Return a provisioning with its steps."""
        row = services.find(provisioning_id)
        return Response({"provisioning": visible_json(request.user, [row])[0]})


class Log(APIView):
    """`GET /bootloader/provisionings/<id>/log`"""

    @endpoint(
        query=ProvisioningLogQuery,
        response=ProvisioningLogResponse,
        errors={403: "rule: a node reads the machines of its own line", **NOT_FOUND},
    )
    def get(self, request: Request, provisioning_id: str) -> Response:
        """Return lines of the log, oldest first; `next` is the cursor of the following ones."""
        row = services.find(provisioning_id)
        permissions.check(request.user, Action.READ_MACHINES, _subject_ids([row])[row.pk] or None)
        query = ProvisioningLogQuery.parse(request)
        after = query["cursor"] or 0
        found = services.log_of(row, after, query["limit"])
        following = found[-1].pk if found else after
        return _list("lines", [line_json(line) for line in found], next=following, state=row.state)


class Retry(APIView):
    """`POST /bootloader/provisionings/<id>/retry`"""

    checks_permission = True

    @endpoint(
        response=OneProvisioningResponse, status=202, errors={**NOT_FOUND, 409: "'builder' is done"}
    )
    def post(self, request: Request, provisioning_id: str) -> Response:
        """Continue from the failed step."""
        row = services.retry(provisioning_id, by=request.user)
        return Response({"provisioning": provisioning_json(row)}, status=202)


class Cancel(APIView):
    """`POST /bootloader/provisionings/<id>/cancel`"""

    checks_permission = True

    @endpoint(
        body=CancelBody,
        response=OneProvisioningResponse,
        status=202,
        errors={
            **NOT_FOUND,
            409: "'builder' is a member of the fleet: destroy VM 'vm-7' instead",
        },
    )
    def post(self, request: Request, provisioning_id: str) -> Response:
        """Cancel; `machine` is the cleanup policy for its VM."""
        services.may_command(services.find(provisioning_id), request.user)
        cleanup = CancelBody.parse(request).get("machine")
        row = services.cancel(provisioning_id, cleanup, by=request.user)
        return Response({"provisioning": provisioning_json(row)}, status=202)


class Machines(APIView):
    """`GET /bootloader/machines`"""

    @endpoint(query=MachinesQuery, response=list_of("machines", MachineResponse, next_page=Cursor))
    def get(self, request: Request) -> Response:
        """List known machines of providers, newest first; for a node, those of its own line."""
        query = MachinesQuery.parse(request)
        rows = Machine.objects.all()
        if query["gone"] != "true":
            rows = rows.active()
        if query["provider"]:
            rows = rows.of(query["provider"])
        found, following = take_page_by_key(
            _readable(rows, request), query["limit"], query["cursor"], newest_first=True
        )
        return _list("machines", [machine_json(row) for row in found], next=following)


class ConnectionTests(APIView):
    """`POST /bootloader/machines/test`"""

    checks_permission = True

    @endpoint(
        body=ConnectionTestBody,
        response=ConnectionTestResponse,
        more_responses=RUNNING,
        errors={404: "there is no such machine", **CALL_FAILED},
    )
    def post(self, request: Request) -> Response:
        """Go the way to a machine step by step, up to one that fails."""
        permissions.check(request.user, Action.COMMAND, None)
        body = ConnectionTestBody.parse(request)
        subject: Machine | SshHost | None
        if vm_id := body.get("vm_id"):
            subject = services.machine_of(vm_id)
        else:
            subject = SshHost.objects.filter(name=body["ssh_host"]).first()
        if subject is None:
            raise NotFound("there is no such machine")
        return _call_response(outside_calls.check_connection(subject, by=request.user))


class Findings(APIView):
    """`GET /bootloader/findings`"""

    @endpoint(query=FindingsQuery, response=list_of("findings", FindingResponse, next_page=Cursor))
    def get(self, request: Request) -> Response:
        """List findings, newest first; without `state` the open ones."""
        query = FindingsQuery.parse(request)
        rows = _readable(Finding.objects.filter(state=query["state"]), request)
        found, following = take_page_by_key(
            rows, query["limit"], query["cursor"], newest_first=True
        )
        return _list("findings", [finding_json(row) for row in found], next=following)


class Reconcile(APIView):
    """`POST /bootloader/reconcile`"""

    checks_permission = True

    @endpoint(response=ComparedResponse, more_responses=RUNNING, errors=CALL_FAILED)
    def post(self, request: Request) -> Response:
        """Compare providers, tree and registry now."""
        permissions.check(request.user, "command", None)
        return _call_response(outside_calls.compare(by=request.user))


class DecideMany(APIView):
    """`POST /bootloader/findings/act`"""

    checks_permission = True

    @endpoint(
        body=DecisionsBody,
        response=DecidedResponse,
        more_responses=RUNNING,
        errors={**NO_FINDING, **CALL_FAILED},
    )
    def post(self, request: Request) -> Response:
        """Act on several findings: on `ids`, or on those of a `kind` and `provider`.

        200 with the result for each; failed ones stay open and give the reason.
        """
        permissions.check(request.user, "command", None)
        body = DecisionsBody.parse(request)
        if ids := body.get("ids"):
            selected = [reconcile.find(key) for key in ids]
        else:
            rows = Finding.objects.open().filter(kind=body["kind"])
            if provider := body.get("provider"):
                rows = rows.filter(provider=provider)
            selected = list(rows.order_by("id")[:MAX_ROWS])
        return _call_response(outside_calls.act_on_many(selected, _proposal(body), by=request.user))


class Decide(APIView):
    """`POST /bootloader/findings/<id>/{act,dismiss}`"""

    checks_permission = True

    @endpoint(
        body=DecisionBody,
        response=OneFindingResponse,
        more_responses=RUNNING,
        errors={**NO_FINDING, 409: "finding 7 is dismissed", **CALL_FAILED},
    )
    def post(self, request: Request, finding_id: str, word: str) -> Response:
        """Carry out the proposal (`action`: another allowed action), or dismiss the finding."""
        permissions.check(request.user, Action.COMMAND, None)
        if word == "dismiss":
            row = reconcile.dismiss(int(finding_id), by=request.user)
            return Response({"finding": finding_json(row)})
        proposal = _proposal(DecisionBody.parse(request))
        reconcile.find(int(finding_id))
        return _call_response(outside_calls.act(int(finding_id), proposal, by=request.user))


class Call(APIView):
    """`GET /bootloader/calls/<id>`"""

    checks_permission = True

    @endpoint(
        response=CallResponse,
        errors={403: "rule: a node commands only its descendants", 404: "there is no such call"},
    )
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
    outside_calls.TEST: dict,
}


def _readable(rows: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """Filter rows to those that the caller may read: for a node, rows about its own line."""
    line = permissions.readable(request.user, Action.READ_MACHINES)
    return rows if line is None else rows.filter(vm_id__in=line.values("vm_id"))


def _list(name: str, rows: list[Json], **more: Any) -> Response:
    return Response({name: rows, "count": len(rows), **more})


def _subject_ids(rows: Sequence[Provisioning]) -> dict[str, str]:
    """Map each provisioning to the VM that it is about, or to its parent while the VM has no
    node.
    """
    vm_ids = [row.vm_id for row in rows if row.vm_id]
    there = set(Node.objects.filter(vm_id__in=vm_ids).values_list("vm_id", flat=True))
    return {row.pk: row.vm_id if row.vm_id in there else row.parent_vm_id for row in rows}


def visible_json(caller: object, rows: Sequence[Provisioning]) -> list[Json]:
    """Return provisionings as JSON.

    Outside a node's own line reasons are removed, since they may quote output.
    """
    places, shown = _subject_ids(rows), provisionings_json(rows)
    legible = permissions.readable(caller, Action.READ_MACHINES)
    if legible is None:
        return shown
    own = set(legible.filter(vm_id__in=places.values()).values_list("vm_id", flat=True))
    for each in shown:
        if places[each["id"]] not in own:
            steps = [{**step, "reason": None} for step in each["steps"]]
            each |= {"reason": None, "spec": {}, "steps": steps}
    return shown


# -- requests ------------------------------------------------------------------------------------


def _proposal(body: Json) -> Proposal | None:
    action = body.get("action")
    return Proposal(action) if action else None


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
    re_path(r"^machines/test/?$", ConnectionTests.as_view()),
    re_path(r"^findings/?$", Findings.as_view(), name="bootloader-findings"),
    re_path(r"^findings/act/?$", DecideMany.as_view()),
    re_path(r"^findings/(?P<finding_id>[0-9]{1,18})/(?P<word>act|dismiss)/?$", Decide.as_view()),
    re_path(r"^reconcile/?$", Reconcile.as_view()),
    re_path(r"^calls/(?P<call_id>[0-9a-f]{1,32})/?$", Call.as_view()),
]
