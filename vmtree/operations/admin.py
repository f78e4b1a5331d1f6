"""Admin of jobs and steps: list them, retry or cancel jobs, and confirm a plan on its own page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from reef_site.common.admin import (
    ModelAdmin,
    ReadOnlyAdmin,
    RecentValuesFilter,
    add_actions,
    apply_to_each,
)
from reef_site.common.errors import ReefError
from reef_site.common.text import first_line, parse_number
from vmtree.lineage import ancestor_keys
from vmtree.models import LINKS, Node
from vmtree.operations import services
from vmtree.operations.models import Job, Operation, Step, StepState
from vmtree.operations.plan import Plan

# A longer plan is cut on the page; its counts still cover all VMs.
MAX_STEPS = 500
MAX_PLANS = 20


def can_command(request: HttpRequest) -> bool:
    """Return whether the user may start and cancel jobs; always False without lieutenants."""
    return "lieutenant" in settings.ORGANS and request.user.has_perm("operations.change_job")


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs on subtrees."""

    list_display = (
        *(
            "id",
            "verb",
            "top",
            "state",
            "progress",
            "reason_line",
            "actor",
            "created_at",
            "ended_at",
        ),
    )
    list_filter = ("state", "verb", "created_at")
    search_fields = ("=id", "=vm_id", "name", "=actor")
    search_help_text = "The id of a job or of the VM at its top, its actor, or part of a VM's name."
    ordering = ("-id",)
    actions = ("retry", "cancel")

    def has_command_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may start and cancel jobs."""
        return can_command(request)

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin, including the plan page."""
        view = self.admin_site.admin_view(self.plan_view)
        return [path("plan/<str:verb>/", view, name="operations_job_plan"), *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """Return all jobs, annotated with their step counts."""
        return Job.objects.with_counts().order_by("-id")

    @admin.display(description="VM", ordering="vm_id")
    def top(self, row: Job) -> str:
        """Return the name of the VM at the top of the subtree, or its id."""
        return row.name or row.vm_id

    @admin.display(description="steps")
    def progress(self, row: Job) -> str:
        """Return the number of steps in each state, linked to the list of steps."""
        counts = row.counts()
        counts_text = ", ".join(
            f"{counts[state]} {StepState(state).label}"
            for state in StepState.values
            if state in counts
        )
        url = f"{reverse('admin:operations_step_changelist')}?job__id__exact={row.pk}"
        return format_html('<a href="{}">{}</a>', url, counts_text or "none")

    @admin.display(description="reason")
    def reason_line(self, row: Job) -> str:
        """Return the first line of the reason why the job failed or did nothing."""
        return first_line(row.reason, 100)

    @admin.action(description="Retry selected jobs", permissions=["command"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Retry the missed steps of the selected jobs."""
        rows = queryset.order_by("id")
        apply_to_each(self, request, rows, lambda job: _retry_job(job, request))

    @admin.action(description="Cancel selected jobs", permissions=["command"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Cancel the selected jobs; steps that are running finish."""
        rows, by = queryset.order_by("id"), request.user
        apply_to_each(self, request, rows, lambda job: services.cancel(job.pk, by=by).state)

    # -- the plan page -------------------------------------------------------------------------

    def plan_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """Show the plans of the VMs in `?vm=…`; a POST starts one job for each confirmed plan."""
        if not self.has_command_permission(request):
            raise PermissionDenied
        if verb not in Operation.values:
            raise Http404(verb)
        if request.method == "POST":
            return self._start_jobs(request, Operation(verb))
        return self._confirmation(request, Operation(verb), request.GET.getlist("vm"))

    def _confirmation(
        self, request: HttpRequest, verb: Operation, vm_ids: Sequence[str]
    ) -> HttpResponse:
        plans = []
        for vm_id in topmost_vms(vm_ids)[:MAX_PLANS]:
            try:
                plans.append(_plan_context(services.plan(verb, vm_id, by=request.user)))
            except ReefError as error:
                self.message_user(request, f"{vm_id}: {error}", messages.ERROR)
        label = f"{verb.label.capitalize()} with everything below"
        context = {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "title": f"{label}?",
            "label": label,
            "verb": verb,
            "plans": plans,
            "count": sum(len(plan["changed"]) for plan in plans),
            "destructive": verb == Operation.DESTROY,
        }
        return TemplateResponse(request, "admin/operations/job/plan.html", context)

    def _start_jobs(self, request: HttpRequest, verb: Operation) -> HttpResponse:
        """Start a job for each VM, unless its plan has changed since it was shown."""
        vm_ids, counts = request.POST.getlist("vm"), request.POST.getlist("count")
        for vm_id, count in list(zip(vm_ids, counts, strict=False))[:MAX_PLANS]:
            try:
                job, continued = services.start(
                    verb, vm_id, by=request.user, confirm=parse_number(count)
                )
            except ReefError as error:
                self.message_user(request, f"{vm_id}: {error}", messages.ERROR)
            else:
                outcome = "continued" if continued else "started"
                self.message_user(request, f"{job}: job {job.pk} {outcome}", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:operations_job_changelist"))


@admin.register(Step)
class StepAdmin(ReadOnlyAdmin):
    """Steps of jobs: one for each VM."""

    list_display = (
        "job_id",
        "position",
        "name",
        "does",
        "state",
        "reason_line",
        "attempts",
        "ended_at",
    )
    list_filter = ("state", ("handler", RecentValuesFilter))
    search_fields = ("=job__id", "=vm_id", "name")
    search_help_text = "The id of a job or of a VM, or part of a VM's name."
    ordering = ("-job_id", "position")

    @admin.display(description="reason")
    def reason_line(self, row: Step) -> str:
        """Return the first line of the reason."""
        return first_line(row.reason, 100)


def topmost_vms(vm_ids: Sequence[str]) -> list[str]:
    """Return the VMs that are not descendants of another VM in the list, in the given order."""
    nodes = dict(Node.objects.active().filter(vm_id__in=vm_ids).values_list("vm_id", "pk"))
    keys = set(nodes.values())
    return [
        vm_id
        for vm_id in dict.fromkeys(vm_ids)
        if vm_id not in nodes or not keys & set(ancestor_keys(LINKS, nodes[vm_id])[:-1])
    ]


def _plan_context(plan: Plan) -> dict[str, Any]:
    return {
        "vm_id": plan.vm_id,
        "name": plan.name or plan.vm_id,
        "changed": plan.changed_steps,
        "left_out": plan.left_out,
        "reasons": plan.reasons,
        "steps": plan.steps[:MAX_STEPS],
        "more": max(0, len(plan.steps) - MAX_STEPS),
    }


def _retry_job(job: Job, request: HttpRequest) -> str:
    retried, continued = services.start(Operation(job.verb), job.vm_id, by=request.user)
    return "continued" if continued else f"was done; job {retried.pk} started"


# -- actions on nodes ----------------------------------------------------------------------------


def _node_action(verb: Operation) -> Callable[..., HttpResponse]:
    @admin.action(
        description=f"{verb.label.capitalize()} with everything below …", permissions=["command"]
    )
    def act(
        _admin: ModelAdmin[Node], _request: HttpRequest, queryset: QuerySet[Node]
    ) -> HttpResponse:
        vm_ids = list(queryset.order_by("pk").values_list("vm_id", flat=True)[:MAX_PLANS])
        query = urlencode([("vm", vm_id) for vm_id in vm_ids])
        url = reverse("admin:operations_job_plan", args=[verb.value])
        return HttpResponseRedirect(f"{url}?{query}")

    act.__name__ = f"{verb.value}_subtree"
    return act


def add_node_actions(site: admin.AdminSite = admin.site) -> None:
    """Add the operations as actions to the admin of nodes, if nodes are registered there."""
    add_actions(Node, *map(_node_action, Operation), site=site)
    with contextlib.suppress(NotRegistered):
        # Django calls it for every action that needs the permission "command".
        setattr(site.get_model_admin(Node), "has_command_permission", can_command)  # noqa: B010


add_node_actions()
