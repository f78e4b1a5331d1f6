"""Pages' part of next signs: the form by which people declare one for once."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from lieutenants import services
from lieutenants.models import Lieutenant
from lieutenants.next_sign import MAX_REASON
from lieutenants.requests import SIGN_GRACE_SECONDS
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import ReefError
from reef_site.common.forms import ServiceForm

_MINUTES = "%Y-%m-%dT%H:%M"
render_errors = ErrorPage("lieutenants:index", "All lieutenants")


class NextSignForm(ServiceForm):
    """When the next sign of a lieutenant is due, and why."""

    at = forms.DateTimeField(
        label="Next sign due at",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format=_MINUTES),
    )
    reason = forms.CharField(
        max_length=MAX_REASON,
        label="Reason",
        widget=forms.TextInput(attrs={"placeholder": "The tests run.", "autocomplete": "off"}),
    )
    grace = forms.IntegerField(
        required=False,
        min_value=SIGN_GRACE_SECONDS["least"],
        max_value=SIGN_GRACE_SECONDS["most"],
        label="Grace (seconds)",
        help_text="How much later it may come. Leave empty for the lieutenant's setting.",
    )

    def __init__(self, lieutenant: Lieutenant, data: Any = None) -> None:
        declared: dict[str, Any] = {
            "at": lieutenant.next_sign_at,
            "reason": lieutenant.next_sign_reason,
        }
        if lieutenant.next_sign_at and lieutenant.next_sign_late_at:
            grace = lieutenant.next_sign_late_at - lieutenant.next_sign_at
            declared["grace"] = int(grace.total_seconds())
        super().__init__(data, initial=declared)
        zone = timezone.get_current_timezone_name()
        self.fields["at"].help_text = f"At most seven days ahead; in the time zone {zone}."
        self.fields["grace"].widget.attrs["placeholder"] = lieutenant.sign_grace_seconds


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def next_sign(request: HttpRequest, name: str) -> HttpResponse:
    """Declare when the next sign is due; errors appear at their fields."""
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    status, form = 200, NextSignForm(lieutenant, request.POST or None)
    if request.method == "POST":
        status = 400
        if form.is_valid():
            given = form.cleaned_data
            try:
                services.declare_sign(
                    name, given["at"], given["reason"], grace=given["grace"], actor=request.user
                )
            except ReefError as error:
                form.add_service_error(error)
                status = error.status
            else:
                messages.success(request, f"{name}: next sign declared.")
                return redirect("lieutenants:detail", name)
    form.describe_errors()
    context = {"form": form, "lieutenant": lieutenant}
    return render(request, "lieutenants/next_sign.html", context, status=status)


@login_required
@require_POST
@render_errors
def withdraw_next_sign(request: HttpRequest, name: str) -> HttpResponse:
    """Withdraw what was declared about the next sign."""
    services.withdraw_sign(name, actor=request.user)
    messages.success(request, f"{name}: no sign is declared any more.")
    return redirect("lieutenants:detail", name)
