"""The page Preferences: what a person sets for their own pages."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from reef_site.accounts import zones
from reef_site.accounts.models import Preferences


def zone_choices(browser: str) -> list[tuple[str, str]]:
    """Return the choices of a time zone; `browser` is the name of the browser's, if known."""
    return [("", f"That of the browser ({browser or 'unknown'})"), *((n, n) for n in zones.names())]


class PreferencesForm(forms.Form):
    """The settings of one person."""

    time_zone = forms.ChoiceField(
        required=False,
        label="Time zone",
        help_text="Times and days on all pages are in this zone. The API and logs use UTC.",
    )


@login_required
@require_http_methods(["GET", "POST"])
def preferences(request: HttpRequest) -> HttpResponse:
    """Show and change the settings of the person who is signed in."""
    assert isinstance(request.user, User)
    browser = zones.browser_zone(request)
    chosen = zones.zone_of(request.user)
    form = PreferencesForm(
        request.POST or None, initial={"time_zone": chosen.key if chosen else ""}
    )
    form.fields["time_zone"].choices = zone_choices(browser.key if browser else "")  # type: ignore[attr-defined]
    if request.method == "POST" and form.is_valid():
        Preferences.objects.update_or_create(user=request.user, defaults=form.cleaned_data)
        messages.success(request, "Preferences saved.")
        return redirect("preferences")
    status = 400 if form.errors else 200
    return render(request, "accounts/preferences.html", {"form": form}, status=status)
