"""API of operations on subtrees: `/vm-tree/vms/<id>/{pause,resume,destroy}` and `/vm-tree/jobs`."""

from __future__ import annotations

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import DryRunQuery, list_of
from reef_site.common.errors import BadInput
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_values import is_dry_run
from vmtree import permissions
from vmtree.operations import services
from vmtree.operations.models import Job, Operation
from vmtree.operations.serializers import (
    JobResponse,
    JobsQuery,
    JobStepsQuery,
    JobStepsResponse,
    OneJobResponse,
    OperationBody,
    PlannedResponse,
    StartedJobResponse,
    job_json,
    plan_json,
    steps_json,
)

NOT_FOUND = {404: "job not found"}


class StartOperation(APIView):
    """`POST /vm-tree/vms/<id>/{pause,resume,destroy}`"""

    checks_permission = True

    @endpoint(
        query=DryRunQuery,
        body=OperationBody,
        response=StartedJobResponse,
        status=202,
        more_responses={200: PlannedResponse},
        errors={
            404: "VM not found",
            # Another last part of the path belongs to the id.
            405: "method not allowed",
            409: "confirm: 3 VMs would be touched, not 2",
        },
    )
    def post(self, request: Request, vm_id: str, verb: str) -> Response:
        """Start or continue a job; `{"dryRun": true}` returns its plan and changes nothing.

        `{"confirm": <count>}` is rejected if the plan touches another number of VMs by now. Unknown
        fields are rejected, so that a misspelt `dryRun` destroys nothing.
        """
        confirm = OperationBody.parse(request).get("confirm")
        if is_dry_run(request):
            found = services.plan(Operation(verb), vm_id, by=request.user)
            return Response({"dryRun": True, "plan": plan_json(found)})
        job, continued = services.start(Operation(verb), vm_id, by=request.user, confirm=confirm)
        return Response({"job": job_json(job), "continued": continued}, status=202)


class JobList(APIView):
    """`GET /vm-tree/jobs`"""

    @endpoint(query=JobsQuery, response=list_of("jobs", JobResponse, next_page=Text))
    def get(self, request: Request) -> Response:
        """List jobs, newest first."""
        query = JobsQuery.parse(request)
        limit, cursor = query.pop("limit"), query.pop("cursor")
        if cursor and not Job.objects.filter(pk=cursor).exists():
            raise BadInput("cursor: must be the `next` of an earlier page", "cursor")
        rows = Job.objects.with_counts().filter(**{k: v for k, v in query.items() if v})
        found, following = take_page_by_key(rows, limit, cursor, newest_first=True)
        jobs = [job_json(job) for job in found]
        return Response({"jobs": jobs, "count": len(jobs), "next": following})


class JobDetail(APIView):
    """`GET /vm-tree/jobs/<id>`"""

    @endpoint(query=JobStepsQuery, response=JobStepsResponse, errors=NOT_FOUND)
    def get(self, request: Request, job_id: str) -> Response:
        """Return a job with its steps from the position `?cursor=` on."""
        job = services.find(job_id)
        query = JobStepsQuery.parse(request)
        first, limit = query["cursor"] or 0, query["limit"]
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

    @endpoint(
        response=OneJobResponse,
        errors={**NOT_FOUND, 409: "job 01JD (pause builder) is done; there is nothing to cancel"},
    )
    def post(self, request: Request, job_id: str) -> Response:
        """Cancel a job; steps that are running finish."""
        return Response({"job": job_json(services.cancel(job_id, by=request.user))})


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
