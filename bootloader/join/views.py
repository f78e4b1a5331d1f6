"""The page "Joining": rejected join attempts, and join tokens."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from bootloader.join import tokens as join_tokens
from bootloader.models import Finding, JoinRefusal, JoinToken
from reef_site.common import clock
from reef_site.common.page_values import text_value
from vmtree.models import Node

PAGE_SIZE = 50
MAX_REFUSALS = 50


@login_required
@require_GET
def door(request: HttpRequest) -> HttpResponse:
    """List rejections, newest first, and join tokens by page. `?vm=` filters by VM."""
    now, vm_id = clock.now(), text_value(request.GET, "vm", 255)
    refusals = JoinRefusal.objects.select_related("token")
    tokens = JoinToken.objects.order_by("-id")
    if vm_id:
        refusals, tokens = refusals.filter(token__vm_id=vm_id), tokens.filter(vm_id=vm_id)
    page = Paginator(tokens, PAGE_SIZE).get_page(request.GET.get("page"))
    shown = list(page.object_list)
    nodes = {node.vm_id: node for node in Node.objects.filter(vm_id__in={t.vm_id for t in shown})}
    context = {
        "refusals": refusals[:MAX_REFUSALS],
        "page": page,
        "rows": [(token, token.state(now), nodes.get(token.vm_id)) for token in shown],
        "vm_id": vm_id,
        "findings": Finding.objects.open().count(),
    }
    return render(request, "bootloader/door.html", context)


@permission_required("bootloader.change_jointoken", raise_exception=True)
@require_POST
def void(request: HttpRequest, pk: int) -> HttpResponse:
    """Revoke an unused join token."""
    token = get_object_or_404(JoinToken, pk=pk)
    if join_tokens.revoke_unused(token.vm_id):
        messages.success(request, f"The {token} was revoked.")
    else:
        messages.warning(request, f"The {token} is no longer valid.")
    return redirect("bootloader:door")
