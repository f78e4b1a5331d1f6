"""The admin of jobs: what they did, going on, cancelling, and the plan as a page that asks."""

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

from lieutenants.operations import services
from lieutenants.operations.models import Job, Step, StepState, Verb
from lieutenants.operations.plan import Plan
from reef_site.common.admin import ModelAdmin, ReadOnlyAdmin, add_actions, apply_to_each
from reef_site.common.errors import ReefError
from reef_site.common.text import first_line, parse_number
from vmtree.lineage import keys_above
from vmtree.models import LINKS, Node

# Of a longer plan the page shows the head; the counts are of all.
MOST_LINES = 500
MOST_PLANS = 20


def may_command(request: HttpRequest) -> bool:
    """Who may begin and end jobs; nobody where reef has no lieutenants."""
    return "lieutenant" in settings.ORGANS and request.user.has_perm("lieutenants.change_job")


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs over subtrees."""

    list_display = (
        *("id", "verb", "top", "state", "progress", "why", "actor", "created_at", "ended_at"),
    )
    list_filter = ("state", "verb", "created_at")
    search_fields = ("=id", "=vm_id", "name", "=actor")
    search_help_text = "The id of a job or of the VM at its top, its actor, or part of a VM's name."
    ordering = ("-id",)
    actions = ("go_on", "cancel")

    def has_command_permission(self, request: HttpRequest) -> bool:
        """Who may begin and end jobs."""
        return may_command(request)

    def get_urls(self) -> list[URLPattern]:
        """With the plan's own page."""
        view = self.admin_site.admin_view(self.plan_view)
        return [path("plan/<str:verb>/", view, name="lieutenants_job_plan"), *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """With the counts of steps."""
        return Job.objects.with_counts().order_by("-id")

    @admin.display(description="VM", ordering="vm_id")
    def top(self, row: Job) -> str:
        """The VM at the top."""
        return row.name or row.vm_id

    @admin.display(description="steps")
    def progress(self, row: Job) -> str:
        """How many steps are in which state, with a way to them."""
        counts = row.counts()
        said = ", ".join(
            f"{counts[state]} {StepState(state).label}"
            for state in StepState.values
            if state in counts
        )
        url = f"{reverse('admin:lieutenants_step_changelist')}?job__id__exact={row.pk}"
        return format_html('<a href="{}">{}</a>', url, said or "none")

    @admin.display(description="reason")
    def why(self, row: Job) -> str:
        """Why it could not go on, or did nothing."""
        return first_line(row.reason, 100)

    @admin.action(description="Go on with selected jobs", permissions=["command"])
    def go_on(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Try again what they missed."""
        rows = queryset.order_by("id")
        apply_to_each(self, request, rows, lambda job: _again(job, request))

    @admin.action(description="Cancel selected jobs", permissions=["command"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        """Begin none of their further steps."""
        rows, by = queryset.order_by("id"), request.user
        apply_to_each(self, request, rows, lambda job: services.cancel(job.pk, by=by).state)

    # -- the plan ------------------------------------------------------------------------------

    def plan_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """The plans of `?vm=…`, several of them perhaps; a POST begins what it confirms."""
        if not self.has_command_permission(request):
            raise PermissionDenied
        if verb not in Verb.values:
            raise Http404(verb)
        if request.method == "POST":
            return self._begin(request, Verb(verb))
        return self._question(request, Verb(verb), request.GET.getlist("vm"))

    def _question(self, request: HttpRequest, verb: Verb, vm_ids: Sequence[str]) -> HttpResponse:
        plans = []
        for vm_id in uppermost(vm_ids)[:MOST_PLANS]:
            try:
                plans.append(_shown(services.plan(verb, vm_id, by=request.user)))
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
            "count": sum(len(plan["acting"]) for plan in plans),
            "grave": verb == Verb.DESTROY,
        }
        return TemplateResponse(request, "admin/lieutenants/job/plan.html", context)

    def _begin(self, request: HttpRequest, verb: Verb) -> HttpResponse:
        """Start a job for each VM, if the plan that was shown is the plan still."""
        vm_ids, counts = request.POST.getlist("vm"), request.POST.getlist("count")
        for vm_id, count in list(zip(vm_ids, counts, strict=False))[:MOST_PLANS]:
            try:
                job, continued = services.start(
                    verb, vm_id, by=request.user, confirm=parse_number(count)
                )
            except ReefError as error:
                self.message_user(request, f"{vm_id}: {error}", messages.ERROR)
            else:
                said = "goes on" if continued else "has begun"
                self.message_user(request, f"{job}: job {job.pk} {said}", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:lieutenants_job_changelist"))


@admin.register(Step)
class StepAdmin(ReadOnlyAdmin):
    """What jobs did to each VM."""

    list_display = ("job_id", "position", "name", "does", "state", "why", "attempts", "ended_at")
    list_filter = ("state", "handler")
    search_fields = ("=job__id", "=vm_id", "name")
    search_help_text = "The id of a job or of a VM, or part of a VM's name."
    ordering = ("-job_id", "position")

    @admin.display(description="reason")
    def why(self, row: Step) -> str:
        """The reason's first line."""
        return first_line(row.reason, 100)


def uppermost(vm_ids: Sequence[str]) -> list[str]:
    """Those that stand below none of the others."""
    nodes = dict(Node.objects.living().filter(vm_id__in=vm_ids).values_list("vm_id", "pk"))
    keys = set(nodes.values())
    return [
        vm_id
        for vm_id in dict.fromkeys(vm_ids)
        if vm_id not in nodes or not keys & set(keys_above(LINKS, nodes[vm_id])[:-1])
    ]


def _shown(plan: Plan) -> dict[str, Any]:
    return {
        "vm_id": plan.vm_id,
        "name": plan.name or plan.vm_id,
        "acting": plan.acting,
        "left_out": plan.left_out,
        "reasons": plan.reasons,
        "lines": plan.lines[:MOST_LINES],
        "more": max(0, len(plan.lines) - MOST_LINES),
    }


def _again(job: Job, request: HttpRequest) -> str:
    again, continued = services.start(Verb(job.verb), job.vm_id, by=request.user)
    return "goes on" if continued else f"was done; job {again.pk} has begun"


# -- actions on nodes ----------------------------------------------------------------------------


def _node_action(verb: Verb) -> Callable[..., HttpResponse]:
    @admin.action(
        description=f"{verb.label.capitalize()} with everything below …", permissions=["command"]
    )
    def act(
        _admin: ModelAdmin[Node], _request: HttpRequest, queryset: QuerySet[Node]
    ) -> HttpResponse:
        vm_ids = list(queryset.order_by("pk").values_list("vm_id", flat=True)[:MOST_PLANS])
        asked = urlencode([("vm", vm_id) for vm_id in vm_ids])
        url = reverse("admin:lieutenants_job_plan", args=[verb.value])
        return HttpResponseRedirect(f"{url}?{asked}")

    act.__name__ = f"{verb.value}_subtree"
    return act


def join_nodes(site: admin.AdminSite = admin.site) -> None:
    """Add the verbs to the actions of nodes, where nodes are shown."""
    add_actions(Node, *map(_node_action, Verb), site=site)
    with contextlib.suppress(NotRegistered):
        # Django asks this of whoever has an action with the permission "command".
        setattr(site.get_model_admin(Node), "has_command_permission", may_command)  # noqa: B010


join_nodes()
