"""Pages of the commands on machines. Each view parses, calls one service and renders."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from bootloader.commands import services
from bootloader.commands.forms import CommandForm
from bootloader.commands.services import Place
from bootloader.models import Machine, MachineCommand, SshHost
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import ReefError
from reef_site.common.page_values import number_value, text_value
from vmtree import actors

PAGE_SIZE = 25
STOP_POLLING = 286

render_errors = ErrorPage("bootloader:machines", "Machines")


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """List the commands on a machine, or on all; a POST runs one."""
    services.check_any(request.user)
    place = _place(request)
    # The list shows no output, and some is long.
    rows = services.commands(place, by=request.user).defer("output", "errors", "sealed")
    form = CommandForm(request.POST or None)
    if place is not None and request.method == "POST" and form.is_valid():
        values = form.cleaned_data
        try:
            row = services.run(place, values["command"], values["limit_seconds"], by=request.user)
        except ReefError as error:
            form.add_service_error(error)
        else:
            for name, value in services.audit_facts(row).items():
                setattr(request, name, value)
            return redirect("bootloader:command", row.pk)
    form.describe_errors()
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    actors.remember(request, [row.actor for row in page])
    context = {"form": form, "page": page, "place": place, "list_url": _list_url(place)}
    status = 400 if form.errors else 200
    return render(request, "bootloader/commands.html", context, status=status)


@never_cache
@login_required
@require_GET
@render_errors
def one(request: HttpRequest, command_id: str) -> HttpResponse:
    """Show a command with its output; the page polls each second until it has ended."""
    return render(request, "bootloader/command.html", _facts(request, command_id))


@never_cache
@login_required
@require_GET
@render_errors
def part(request: HttpRequest, command_id: str) -> HttpResponse:
    """Render the part of `one` that is updated; the status 286 ends the polling of htmx."""
    facts = _facts(request, command_id)
    status = 200 if facts["row"].is_open else STOP_POLLING
    return render(request, "bootloader/_command.html", facts, status=status)


@login_required
@require_POST
@render_errors
def cancel(request: HttpRequest, command_id: str) -> HttpResponse:
    """End a command."""
    row = services.cancel(command_id, by=request.user)
    return redirect("bootloader:command", row.pk)


def _facts(request: HttpRequest, command_id: str) -> dict[str, Any]:
    row = services.find(command_id, by=request.user)
    return {"row": row, "list_url": _list_url(_place_of(row))}


def _place(request: HttpRequest) -> Place | None:
    """Return the machine that the query names; None if it names none."""
    if name := text_value(request.GET, "ssh_host"):
        return services.find_place(ssh_host=name, by=request.user)
    if vm_id := text_value(request.GET, "vm"):
        return services.find_place(vm_id=vm_id, by=request.user)
    if "machine" in request.GET:
        pk = number_value(request.GET, "machine")
        return get_object_or_404(Machine.objects.active(), pk=pk)
    return None


def _place_of(row: MachineCommand) -> Place | None:
    if row.ssh_host:
        return row.ssh_host
    return row.machine if row.machine and not row.machine.is_gone else None


def _list_url(place: Place | None) -> str:
    """Return the URL of the list of commands on a machine; empty without one."""
    if place is None:
        return ""
    query = {"ssh_host": place.name} if isinstance(place, SshHost) else {"machine": place.pk}
    return f"{reverse('bootloader:commands')}?{urlencode(query)}"
