"""API of operations on subtrees: `/vm-tree/vms/<id>/{pause,resume,destroy}` and `/vm-tree/jobs`."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common.errors import BadInput
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes
from reef_site.common.request_values import is_dry_run, query_choice, query_cursor, query_limit
from reef_site.common.text import to_storable
from vmtree import aliases, permissions
from vmtree.operations import services
from vmtree.operations.models import Job, Operation
from vmtree.operations.serializers import JOB_STATES, job_json, plan_json, steps_json

MAX_ROWS = 1000
DEFAULT_ROWS = 100
# Fields of the request body that starts a job.
OPTIONS = ("dryRun", "confirm")


class StartOperation(APIView):
    """`POST /vm-tree/vms/<id>/{pause,resume,destroy}`"""

    checks_permission = True

    @takes(query=("dryRun",), body=OPTIONS)
    def post(self, request: Request, vm_id: str, verb: str) -> Response:
        """Start or continue a job; `{"dryRun": true}` returns its plan and changes nothing.

        `{"confirm": <count>}` is rejected if the plan touches another number of VMs by now. Unknown
        fields are rejected, so that a misspelt `dryRun` destroys nothing.
        """
        body = _options(request)
        if is_dry_run(request):
            found = services.plan(Operation(verb), vm_id, by=request.user)
            return Response({"dryRun": True, "plan": plan_json(found)})
        confirm = _count(body.get("confirm"), "confirm")
        job, continued = services.start(Operation(verb), vm_id, by=request.user, confirm=confirm)
        return Response({"job": job_json(job), "continued": continued}, status=202)


class JobList(APIView):
    """`GET /vm-tree/jobs`"""

    @takes(query=("state", "verb", "vmId", "limit", "cursor"))
    def get(self, request: Request) -> Response:
        """Return jobs, newest first; filters: `?state= verb= vmId=`, paging: `?limit= cursor=`."""
        params, rows = request.query_params, Job.objects.with_counts()
        if state := query_choice(request, "state", JOB_STATES):
            rows = rows.filter(state=state)
        if verb := query_choice(request, "verb", Operation.values):
            rows = rows.filter(verb=verb)
        if vm_id := params.get("vmId", ""):
            rows = rows.filter(vm_id=aliases.resolve(to_storable(vm_id)))
        if cursor := params.get("cursor", ""):
            if not Job.objects.filter(pk=to_storable(cursor)).exists():
                raise BadInput("cursor: must be the `next` of an earlier page", "cursor")
            rows = rows.filter(pk__lt=cursor)
        limit = query_limit(request, most=MAX_ROWS, default=DEFAULT_ROWS)
        found, more = take_page(rows, limit)
        jobs = [job_json(job) for job in found]
        return Response({"jobs": jobs, "count": len(jobs), "next": found[-1].pk if more else None})


class JobDetail(APIView):
    """`GET /vm-tree/jobs/<id>`"""

    @takes(query=("from", "cursor", "limit"))
    def get(self, request: Request, job_id: str) -> Response:
        """Return a job with at most `?limit=` (1000) steps from position `?from=` on."""
        job = services.find(job_id)
        first = query_cursor(request, "from") or 0
        limit = query_limit(request, most=MAX_ROWS, default=MAX_ROWS)
        rows = list(job.steps.filter(position__gte=first).order_by("position", "id")[: limit + 1])
        more = rows[limit].position if len(rows) > limit else None
        plan = steps_json(rows[:limit])
        # A reason may quote the output of a lieutenant or VM, so it needs the same permission.
        legible = permissions.readable_among(
            request.user, permissions.Action.READ_TRANSCRIPT, (step["vmId"] for step in plan)
        )
        plan = [step if step["vmId"] in legible else {**step, "reason": None} for step in plan]
        return Response({"job": job_json(job), "plan": plan, "count": len(plan), "next": more})


class CancelJob(APIView):
    """`POST /vm-tree/jobs/<id>/cancel`"""

    checks_permission = True

    def post(self, request: Request, job_id: str) -> Response:
        """Cancel a job; steps that are running finish."""
        return Response({"job": job_json(services.cancel(job_id, by=request.user))})


def _options(request: Request) -> dict[str, Any]:
    """Return the request body. Raises BadInput if it is not an object."""
    body = request.data
    if not isinstance(body, dict):
        raise BadInput(f"body: must be an object with {' or '.join(OPTIONS)}, or absent", "body")
    return body


def _count(value: object, field: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadInput(f"{field}: must be a whole number, 0 or more", field)
    return value


urlpatterns = [
    re_path(
        r"^vm-tree/vms/(?P<vm_id>.+?)/(?P<verb>pause|resume|destroy)/?$",
        StartOperation.as_view(),
        name="vm-tree-operate",
    ),
    re_path(r"^vm-tree/jobs/?$", JobList.as_view(), name="vm-tree-jobs"),
    re_path(r"^vm-tree/jobs/(?P<job_id>[^/]+)/?$", JobDetail.as_view(), name="vm-tree-job"),
    re_path(r"^vm-tree/jobs/(?P<job_id>[^/]+)/cancel/?$", CancelJob.as_view()),
]
