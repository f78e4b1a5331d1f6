"""The page "What may this agent do"."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from bootloader.grants import budgets
from bootloader.grants import services as grants
from bootloader.models import ProvisionGrant
from reef_site.access import decisions
from reef_site.access.forms import GrantForm
from reef_site.api.authentication import Caller
from reef_site.common.errors import ReefError
from reef_site.common.page_values import text_value
from reef_site.dashboard.errors import render_errors
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Relation


@login_required
@require_GET
def by_id(request: HttpRequest) -> HttpResponse:
    """Redirect to the page of the node with the id `?vm=`."""
    node = get_object_or_404(Node, vm_id=text_value(request.GET, "vm", 255))
    return redirect("access:node", node.pk)


@login_required
@require_GET
@render_errors
def node(request: HttpRequest, key: int) -> HttpResponse:
    """Show what the token of this node permits, with the rule of each row, and its grant."""
    found = get_object_or_404(Node, pk=key)
    return render(request, "access/node.html", _context(found))


@login_required
@require_POST
@render_errors
def grant(request: HttpRequest, key: int) -> HttpResponse:
    """Set the node's grant, or remove it."""
    found = get_object_or_404(Node, pk=key)
    request.audit_target = found.vm_id  # type: ignore[attr-defined]
    if "remove" in request.POST:
        grants.remove(found.vm_id, by=request.user)
        messages.success(request, "Grant removed.")
        return redirect("access:node", key)
    form = GrantForm(request.POST)
    if form.is_valid():
        try:
            grants.set_grant(found.vm_id, form.limits(), by=request.user)
        except ReefError as error:
            form.add_service_error(error)
        else:
            messages.success(request, "Grant saved.")
            return redirect("access:node", key)
    return render(request, "access/node.html", _context(found, form), status=400)


def _context(found: Node, form: GrantForm | None = None) -> dict[str, Any]:
    row = ProvisionGrant.objects.filter(pk=found.pk).first()
    form = form or GrantForm(initial=_initial(row))
    form.describe_errors()
    caller = Caller(f"node {found.vm_id}", found)
    return {
        "node": found,
        "who": decisions.WHO[permissions.kind_of(caller)],
        "relations": [decisions.WORDS[each] for each in Relation],
        "rights": decisions.rights_of(caller),
        "grant": row,
        "limits": grants.limits_on_lieutenants(found),
        "budgets": budgets.budgets_of(found),
        "form": form,
    }


def _initial(row: ProvisionGrant | None) -> dict[str, Any]:
    if row is None:
        return {"vms": 0, "levels": 1}
    names = GrantForm.base_fields.keys() - {"renew_dollars"}
    facts = {name: getattr(row, name) for name in names}
    # Without the zeros of the column's six digits.
    return facts if row.dollars is None else {**facts, "dollars": f"{row.dollars.normalize():f}"}
