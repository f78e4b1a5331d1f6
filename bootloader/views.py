"""Pages of provisioning. Each view parses, calls one service and renders."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from bootloader import outside_calls
from bootloader.forms import ProvisionForm
from bootloader.inventory import reconcile
from bootloader.models import BootReport, Finding, JoinRefusal, Machine, Provisioning, SshHost
from bootloader.provisioning import preview, quota, requests, services
from bootloader.provisioning.machine_spec import LABELS
from bootloader.states import FindingKind, FindingState, Proposal, State, StepState
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import ReefError
from reef_site.common.ids import new_ulid
from reef_site.common.outside_answers import page_answer, script_answer
from reef_site.common.page_values import number_value, text_value
from vmtree.models import Node

PAGE_SIZE = 50
MACHINES_PAGE_SIZE = 100
MAX_HOSTS = 500
MAX_LINES = 300
MAX_FINDINGS = 1000

render_errors = ErrorPage("bootloader:index", "Provisioning")


# -- the list ------------------------------------------------------------------------------------


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """List all provisionings; the page updates itself."""
    return render(request, "bootloader/index.html", _listing(request))


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """Render the part of `index` that is updated."""
    return render(request, "bootloader/_rows.html", _listing(request))


def _listing(request: HttpRequest) -> dict[str, Any]:
    """Return the filtered page of rows, with a constant number of queries."""
    state = text_value(request.GET, "state")
    counts = Provisioning.objects.count_by_state()
    found = services.list_provisionings(state=state if state in State.values else "")
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    return {
        "page": page,
        "rows": [_row_context(row) for row in page.object_list],
        "tabs": [(each, counts.get(each, 0)) for each in State.values],
        "total": sum(counts.values()),
        "state": state,
        "waits": quota.why_waiting() if counts.get(State.QUEUED) else "",
        "findings": Finding.objects.open().count(),
        "machines": Machine.objects.active().count(),
    }


def _row_context(row: Provisioning) -> dict[str, Any]:
    steps = sorted(row.steps.all(), key=lambda each: each.position)
    now = next((step for step in steps if step.state != StepState.DONE), None)
    ended = (State.DONE, State.CANCELLED)
    return {"row": row, "steps": steps, "now": None if row.state in ended else now}


# -- create --------------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    """Show the form, then the preview, then start. Errors are shown beside their fields."""
    if request.method == "GET":
        return _form(request, ProvisionForm(initial=_initial(request.GET)))
    form = ProvisionForm(request.POST)
    if not form.is_valid():
        return _form(request, form, 400)
    try:
        vm_request = form.to_request()
        if "start" not in request.POST:
            return _preview(request, form, preview.make_preview(vm_request, by=request.user))
        started = services.start(vm_request, by=request.user, key=text_value(request.POST, "key"))
    except ReefError as error:
        form.add_service_error(error)
        return _form(request, form, error.status)
    if len(started.rows) == 1:
        return redirect("bootloader:detail", started.rows[0].pk)
    messages.success(request, f"{len(started.rows)} VMs are starting.")
    return redirect("bootloader:index")


@login_required
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    """Return from the preview to the form, with its values."""
    return _form(request, ProvisionForm(initial=_initial(request.POST)))


def _initial(query: QueryDict) -> dict[str, str]:
    """Return initial values of the form from a link, such as that of a VM's page."""
    return {name: text_value(query, name) for name in ProvisionForm.base_fields if name in query}


def _form(request: HttpRequest, form: ProvisionForm, status: int = 200) -> HttpResponse:
    form.describe_errors()
    return render(request, "bootloader/create.html", {"form": form}, status=status)


def _preview(request: HttpRequest, form: ProvisionForm, made: preview.Preview) -> HttpResponse:
    context = {"form": form, "preview": made, "key": f"page-{new_ulid()}"}
    return render(request, "bootloader/preview.html", context)


# -- detail --------------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def detail(request: HttpRequest, pk: str) -> HttpResponse:
    """Show one provisioning; the page updates itself."""
    return render(request, "bootloader/detail.html", _facts(pk, None))


@login_required
@require_GET
@render_errors
def part(request: HttpRequest, pk: str) -> HttpResponse:
    """Render the part of `detail` that is updated: the steps, and log lines after `?after=`."""
    after = number_value(request.GET, "after")
    return render(request, "bootloader/_part.html", _facts(pk, after))


def _facts(pk: str, after: int | None) -> dict[str, Any]:
    row = services.find(pk)
    is_first = after is None
    found = services.log_tail(row, MAX_LINES) if after is None else services.log_of(row, after)
    node = Node.objects.filter(vm_id=row.vm_id).first() if row.vm_id else None
    return {
        **_row_context(row),
        "lines": found,
        "is_first": is_first,
        "after": found[-1].pk if found else after or 0,
        "node": node,
        "spec": [(LABELS.get(key, key), _value(value)) for key, value in row.spec.items()],
        "waits": quota.why_waiting() if row.state == State.QUEUED else "",
        "reports": BootReport.objects.newest_run(row.vm_id) if row.vm_id else [],
        "refusals": JoinRefusal.objects.filter(token__vm_id=row.vm_id)[:5] if row.vm_id else [],
        "siblings": Provisioning.objects.filter(batch=row.batch).exclude(pk=row.pk)[:PAGE_SIZE],
        "can_retry": row.state == State.FAILED,
        "can_cancel": row.state in (State.QUEUED, State.RUNNING, State.FAILED),
    }


def _value(value: object) -> str:
    """Return a field of the specification as readable text."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items())
    return str(value)


@login_required
@require_GET
@render_errors
def used(request: HttpRequest, pk: str) -> HttpResponse:
    """Show the script and the cloud-init that were used, with secrets masked."""
    return render(request, "bootloader/used.html", {"row": services.find(pk)})


@login_required
@require_POST
@render_errors
def retry(request: HttpRequest, pk: str) -> HttpResponse:
    """Continue from the failed step."""
    row = services.retry(pk, by=request.user)
    if is_script(request):
        return HttpResponse(status=204)
    messages.success(request, f"{row.name}: retrying.")
    return redirect("bootloader:detail", row.pk)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def cancel(request: HttpRequest, pk: str) -> HttpResponse:
    """GET asks for the cleanup policy; POST cancels."""
    if request.method == "GET":
        row = services.find(pk)
        has_vm = row.machine is not None and not row.machine.is_gone
        return render(request, "bootloader/cancel.html", {"row": row, "has_vm": has_vm})
    cleanup = requests.parse_cleanup(request.POST.get("machine"))
    row = services.cancel(pk, cleanup, by=request.user)
    messages.success(request, f"{row.name} is being cancelled.")
    return redirect("bootloader:detail", row.pk)


# -- machines and findings -----------------------------------------------------------------------


@login_required
@require_GET
def machines(request: HttpRequest) -> HttpResponse:
    """List known machines of providers."""
    found = Machine.objects.all() if "gone" in request.GET else Machine.objects.active()
    page = Paginator(found.order_by("-id"), MACHINES_PAGE_SIZE).get_page(request.GET.get("page"))
    shown = list(page.object_list)
    places = [row.vm_id for row in shown if row.vm_id]
    nodes = {node.vm_id: node for node in Node.objects.filter(vm_id__in=places)}
    context = {
        "page": page,
        "rows": [(row, nodes.get(row.vm_id)) for row in shown],
        "all": "gone" in request.GET,
        "findings": _findings(),
        "hosts": SshHost.objects.values_list("name", flat=True)[:MAX_HOSTS],
    }
    return render(request, "bootloader/machines.html", context)


@login_required
@require_POST
@render_errors
def check_connection(request: HttpRequest) -> HttpResponse:
    """Go the way to a machine, or to an SSH host, step by step."""
    subject: Machine | SshHost
    if name := text_value(request.POST, "ssh_host"):
        subject = get_object_or_404(SshHost, name=name)
    else:
        pk = number_value(request.POST, "machine")
        subject = get_object_or_404(Machine.objects.active(), pk=pk)
    call = outside_calls.check_connection(subject, by=request.user)
    return page_answer(request, call, reverse("bootloader:machines"))


@login_required
@require_GET
def findings(request: HttpRequest) -> HttpResponse:
    """List differences between provider, tree and registry."""
    found = _findings()
    context = {
        "findings": found,
        "groups": _groups(),
        "decided": Finding.objects.exclude(state=FindingState.OPEN).order_by("-decided_at")[
            :PAGE_SIZE
        ],
    }
    return render(request, "bootloader/findings.html", context)


def _findings() -> list[Finding]:
    return list(Finding.objects.open().order_by("-id")[:PAGE_SIZE])


def _groups() -> list[dict[str, Any]]:
    """Group findings by kind, provider and proposal; return groups of several."""
    by = ("kind", "provider", "proposal")
    found = Finding.objects.open().order_by().values(*by).annotate(count=Count("pk"))
    return [
        {
            **each,
            "kind_word": FindingKind(each["kind"]).label,
            "proposal_word": Proposal(each["proposal"]).label,
        }
        for each in found.filter(count__gt=1).order_by(*by)
    ]


@login_required
@require_POST
@render_errors
def decide_many(request: HttpRequest) -> HttpResponse:
    """Carry out the proposals of all findings of one group."""
    filters = {name: text_value(request.POST, name) for name in ("kind", "provider", "proposal")}
    rows = list(Finding.objects.open().filter(**filters).order_by("id")[:MAX_FINDINGS])
    call = outside_calls.act_on_many(rows, None, by=request.user)
    return page_answer(request, call, reverse("bootloader:findings"))


@login_required
@require_POST
@render_errors
def compare_now(request: HttpRequest) -> HttpResponse:
    """Compare providers, tree and registry now."""
    call = outside_calls.compare(by=request.user)
    return page_answer(request, call, reverse("bootloader:findings"))


@login_required
@require_POST
@render_errors
def decide(request: HttpRequest, pk: int) -> HttpResponse:
    """Act on a finding, or dismiss it."""
    word = request.POST.get("do", "")
    if word == "dismiss":
        row = reconcile.dismiss(pk, by=request.user)
        if is_script(request):
            return HttpResponse(status=204)
        messages.success(request, f"{row}: {row.outcome}.")
        return redirect("bootloader:findings")
    chosen = Proposal(word) if word in Proposal.values else None
    reconcile.find(pk)
    call = outside_calls.act(pk, chosen, by=request.user)
    if is_script(request):
        return script_answer(call)
    return page_answer(request, call, reverse("bootloader:findings"))
