"""The snapshots page: list, create, pin, verify, compare, restore, download."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from reef_site.common.errors import BadInput
from reef_site.common.page_values import number_value
from reef_site.dashboard.errors import render_errors
from vmtree import snapshot_downloads, snapshots
from vmtree.snapshot_models import Snapshot, State
from vmtree.snapshots import descriptions
from vmtree.snapshots.tree_diff import Comparison

# To remove more VMs than this from the tree, the person types how many they are.
MAX_WITHOUT_COUNT = 10


@login_required
@require_GET
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """List the snapshots, newest first."""
    return render(request, "fleet/snapshots.html", {"snapshots": snapshots.listing()})


@login_required
@require_POST
@render_errors
def take(request: HttpRequest) -> HttpResponse:
    """Create a snapshot now."""
    taken = snapshots.take(by=request.user)
    messages.success(request, f"Snapshot {taken.snapshot.file} saved.")
    return redirect("fleet:snapshots")


@login_required
@require_POST
@render_errors
def pin(request: HttpRequest, key: int) -> HttpResponse:
    """Keep the snapshot for ever, or with `pinned=no` as long as others."""
    keep = request.POST.get("pinned") != "no"
    snapshot = snapshots.pin(snapshots.find(key), pinned=keep, by=request.user)
    word = "pinned: it is kept forever" if keep else "unpinned: it is kept as long as others"
    messages.success(request, f"{snapshot.file} is {word}.")
    return redirect("fleet:snapshots")


@login_required
@require_POST
@render_errors
def verify(request: HttpRequest, key: int) -> HttpResponse:
    """Read the whole snapshot and report whether it is intact."""
    snapshot = snapshots.verify(snapshots.find(key), by=request.user)
    if snapshot.state == State.READY:
        messages.success(request, f"{snapshot.file} is intact.")
    else:
        messages.error(request, f"{snapshot.file}: {snapshot.trouble}")
    return redirect("fleet:snapshots")


@login_required
@require_GET
@render_errors
def download(request: HttpRequest, key: int) -> HttpResponseBase:
    """Send the file if it is complete."""
    return snapshot_downloads.download(request, snapshots.find(key))


@login_required
@require_GET
@render_errors
def compare(request: HttpRequest) -> HttpResponse:
    """Compare the snapshots `?from=` and `?to=` (keys); without `to`, with the current tree."""
    old, to = snapshots.find(number_value(request.GET, "from")), number_value(request.GET, "to")
    new = snapshots.find(to) if to else None
    context = {"old": old, "new": new, **_shown(snapshots.compare(old, new))}
    return render(request, "fleet/compare.html", context)


@login_required
@render_errors
def restore(request: HttpRequest, key: int) -> HttpResponse:
    """Show what a restore would change (GET), or do exactly that (POST with `confirm`)."""
    snapshot = snapshots.find(key)
    if request.method == "POST":
        return _restore(request, snapshot)
    found = snapshots.plan(snapshot, by=request.user)
    removed = len(found.comparison.removed)
    context = {
        "snapshot": snapshot,
        "confirm": found.confirm,
        "count": removed if removed > MAX_WITHOUT_COUNT else 0,
        **_shown(found.comparison),
    }
    return render(request, "fleet/restore.html", context)


def _restore(request: HttpRequest, snapshot: Snapshot) -> HttpResponse:
    confirm = request.POST.get("confirm", "")
    if not confirm:
        raise BadInput("confirm: review the comparison first", "confirm")
    removed = len(snapshots.plan(snapshot, by=request.user).comparison.removed)
    if removed > MAX_WITHOUT_COUNT and number_value(request.POST, "count") != removed:
        raise BadInput(f"Type {removed}, how many VMs are removed, to confirm.", "count")
    done = snapshots.restore(snapshot, confirm=confirm, by=request.user)
    messages.success(
        request,
        f"Tree restored from {snapshot.file}. The state before is in {done.before.file}.",
    )
    return redirect("fleet:snapshots")


def _shown(found: Comparison) -> dict[str, Any]:
    return {
        "kinds": descriptions.kinds(found),
        "beside": descriptions.kinds_beside(found),
        "is_empty": found.is_empty,
    }
