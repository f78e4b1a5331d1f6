"""The agents' door to operations on subtrees: `/vm-tree/vms/<id>/pause`, `/vm-tree/jobs`."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.operations import services
from lieutenants.operations.models import Job, Verb
from lieutenants.operations.serializers import JOB_STATES, job_json, plan_json, steps_json
from reef_site.common.errors import BadInput
from reef_site.common.paging import take_page
from reef_site.common.request_names import takes
from reef_site.common.request_values import is_dry_run, query_choice, query_cursor, query_limit
from reef_site.common.text import to_storable
from vmtree import aliases, permissions

MOST_ROWS = 1000
USUAL_ROWS = 100
# What a body may say of a job that is to begin.
OPTIONS = ("dryRun", "confirm")


class Operate(APIView):
    """`POST /vm-tree/vms/<id>/{pause,resume,destroy}`"""

    asks_authority = True

    @takes(query=("dryRun",), body=OPTIONS)
    def post(self, request: Request, vm_id: str, verb: str) -> Response:
        """Begin, or go on with, a job; `{"dryRun": true}` tells its plan and changes nothing.

        `{"confirm": <count>}` refuses when another number of VMs would be touched by now. A word
        that is not known is refused: a misspelt `dryRun` destroys nothing.
        """
        body = _options(request)
        if is_dry_run(request):
            found = services.plan(Verb(verb), vm_id, by=request.user)
            return Response({"dryRun": True, "plan": plan_json(found)})
        confirm = _count(body.get("confirm"), "confirm")
        job, continued = services.start(Verb(verb), vm_id, by=request.user, confirm=confirm)
        return Response({"job": job_json(job), "continued": continued}, status=202)


class Jobs(APIView):
    """`GET /vm-tree/jobs`"""

    @takes(query=("state", "verb", "vmId", "limit", "cursor"))
    def get(self, request: Request) -> Response:
        """Newest first; `?state= verb= vmId= limit= cursor=` narrow."""
        asked, rows = request.query_params, Job.objects.with_counts()
        if state := query_choice(request, "state", JOB_STATES):
            rows = rows.filter(state=state)
        if verb := query_choice(request, "verb", Verb.values):
            rows = rows.filter(verb=verb)
        if vm_id := asked.get("vmId", ""):
            rows = rows.filter(vm_id=aliases.resolve(to_storable(vm_id)))
        if cursor := asked.get("cursor", ""):
            if not Job.objects.filter(pk=to_storable(cursor)).exists():
                raise BadInput("cursor: must be the `next` of an earlier page", "cursor")
            rows = rows.filter(pk__lt=cursor)
        limit = query_limit(request, most=MOST_ROWS, default=USUAL_ROWS)
        found, more = take_page(rows, limit)
        jobs = [job_json(job) for job in found]
        return Response({"jobs": jobs, "count": len(jobs), "next": found[-1].pk if more else None})


class OneJob(APIView):
    """`GET /vm-tree/jobs/<id>`"""

    @takes(query=("from", "cursor", "limit"))
    def get(self, request: Request, job_id: str) -> Response:
        """With its steps in their order, `?limit=` (1000) of them from position `?from=`."""
        job = services.find(job_id)
        first = query_cursor(request, "from") or 0
        limit = query_limit(request, most=MOST_ROWS, default=MOST_ROWS)
        rows = list(job.steps.filter(position__gte=first).order_by("position", "id")[: limit + 1])
        more = rows[limit].position if len(rows) > limit else None
        plan = steps_json(rows[:limit])
        # A reason may repeat what a lieutenant or VM printed.
        legible = permissions.readable_among(
            request.user, permissions.Action.READ_TRANSCRIPT, (step["vmId"] for step in plan)
        )
        plan = [step if step["vmId"] in legible else {**step, "reason": None} for step in plan]
        return Response({"job": job_json(job), "plan": plan, "count": len(plan), "next": more})


class Cancel(APIView):
    """`POST /vm-tree/jobs/<id>/cancel`"""

    asks_authority = True

    def post(self, request: Request, job_id: str) -> Response:
        """Begin no further step; what is under way comes to its end."""
        return Response({"job": job_json(services.cancel(job_id, by=request.user))})


def _options(request: Request) -> dict[str, Any]:
    """The body's object. Raises BadInput."""
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
        Operate.as_view(),
        name="vm-tree-operate",
    ),
    re_path(r"^vm-tree/jobs/?$", Jobs.as_view(), name="vm-tree-jobs"),
    re_path(r"^vm-tree/jobs/(?P<job_id>[^/]+)/?$", OneJob.as_view(), name="vm-tree-job"),
    re_path(r"^vm-tree/jobs/(?P<job_id>[^/]+)/cancel/?$", Cancel.as_view()),
]
