"""The page Notifications: a person's channels, and the outbox of each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reef_site.activity.models import Channel, Delivery, Subscriber
from reef_site.activity.personal import browser, kinds, services, texts
from reef_site.activity.personal.forms import ChannelForm, PacingForm, defaults
from reef_site.activity.visibility import sight_of
from reef_site.common import clock
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import ReefError
from reef_site.common.eventlog.models import Event
from reef_site.common.json_format import json_response

MAX_SHOWN = 50
# An open page follows deliveries that are due within this time.
WAITS_SOON = timedelta(minutes=2)

render_errors = ErrorPage("notifications:index", "All notifications")


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """List a person's channels, and add one. A secret is shown once, on the next page."""
    user, status = _person(request), 200
    first = {"kinds": defaults(), "address": user.email}
    form = ChannelForm(user, request.POST or None, initial=first)
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                made = services.create(user, form.columns(), url=form.url)
            except ReefError as error:
                form.add_service_error(error)
            else:
                context = {**_detail(made.subscriber), "secret": made.secret}
                return render(request, "notifications/channel.html", context, status=201)
    found = services.channels_of(user)
    newest = Delivery.objects.newest_of(found)
    context = {"form": form, "channels": [_shown(each, newest.get(each.pk)) for each in found]}
    return render(request, "notifications/index.html", context, status=status)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def channel(request: HttpRequest, channel_id: int) -> HttpResponse:
    """Show a channel, and change what it tells and when."""
    user = _person(request)
    found = services.find(channel_id, user)
    if request.method == "GET":
        return render(request, "notifications/channel.html", _detail(found))
    form = PacingForm(user, request.POST)
    if not form.is_valid():
        context = {**_detail(found), "form": form}
        return render(request, "notifications/channel.html", context, status=400)
    services.change(channel_id, user, form.columns())
    messages.success(request, "Notifications saved.")
    return redirect("notifications:channel", channel_id)


@login_required
@require_GET
@render_errors
def outbox(request: HttpRequest, channel_id: int) -> HttpResponse:
    """Render what was sent and what came of it; the page fetches it again."""
    context = _detail(services.find(channel_id, _person(request)))
    return render(request, "notifications/_outbox.html", context)


@login_required
@require_POST
@render_errors
def act(request: HttpRequest, channel_id: str, action: str) -> HttpResponse:
    """Test a channel, or switch it on or off."""
    user, key = _person(request), int(channel_id)
    if action == "test":
        services.test(key, user)
        messages.success(request, "A test is on its way; its result appears in the outbox.")
    else:
        services.switch(key, user, on=action == "on")
    return redirect("notifications:channel", key)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def delete(request: HttpRequest, channel_id: int) -> HttpResponse:
    """Ask before a channel is deleted; a POST deletes it."""
    user = _person(request)
    found = services.find(channel_id, user)
    if request.method == "GET":
        return render(request, "notifications/delete.html", {"channel": found})
    services.delete(channel_id, user)
    messages.success(request, "Channel deleted.")
    return redirect("notifications:index")


@never_cache
@login_required
@require_POST
def news(request: HttpRequest) -> HttpResponse:
    """Return what this page shall show as notifications; `visible=1` notes that it is seen.

    Without `show=1` the browser may not show any, so there are none.
    """
    user = _person(request)
    if request.POST.get("visible") == "1":
        browser.note_presence(user.pk)
    shown = browser.take(user.pk) if request.POST.get("show") == "1" else []
    return json_response({"notices": shown})


def _shown(found: Subscriber, newest: Delivery | None) -> dict[str, Any]:
    """Return a channel with what it tells, until when it is quiet, and its newest delivery."""
    wanted = found.filter
    return {
        "row": found,
        "labels": [kinds.KINDS[key].label for key in kinds.keys_of(wanted)],
        "quiet_end": found.quiet_end(clock.now()),
        "last": newest,
    }


def _detail(found: Subscriber) -> dict[str, Any]:
    assert found.owner
    return {
        **_shown(found, found.deliveries.order_by("-pk").first()),
        "channel": found,
        "is_browser": found.channel == Channel.BROWSER,
        "is_waiting": found.deliveries.due(clock.now() + WAITS_SOON).exists(),
        "form": PacingForm(found.owner, initial=PacingForm.initial_of(found)),
        "deliveries": _with_notices(found),
    }


def _with_notices(found: Subscriber) -> list[tuple[Delivery, texts.Notice | None]]:
    """Return the newest deliveries, each with what it tells if its owner may read it now."""
    rows = list(found.deliveries.order_by("-pk")[:MAX_SHOWN])
    numbers = [row.event_number for row in rows if row.event_number is not None]
    sight = sight_of(found.owner)
    events = list(sight.rows(Event.objects.filter(pk__in=numbers)).exclude(topic__in=sight.bare))
    told = dict(zip((event.pk for event in events), texts.notices(events), strict=True))
    return [
        (row, texts.test_notice() if row.event_number is None else told.get(row.event_number))
        for row in rows
    ]
