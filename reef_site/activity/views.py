"""The page "Events", and the pages of subscribers for operators."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reef_site.activity import visibility
from reef_site.activity.forms import EventFilterForm, SubscriberForm
from reef_site.activity.models import Delivery, Subscriber
from reef_site.activity.naming import with_names
from reef_site.activity.subscribers import services
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import ReefError
from reef_site.common.eventlog.models import Event
from reef_site.common.paging import take_page
from reef_site.common.text import parse_number

PAGE_SIZE = 100

render_errors = ErrorPage("event-log:subscribers", "All subscribers")


# -- events ------------------------------------------------------------------------------------


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """Show the events, newest first; `?before=<id>` continues with older ones."""
    return render(request, "activity/index.html", _listing(request))


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """Render the rows of the list, which the page fetches again after changes."""
    return render(request, "activity/_rows.html", _listing(request))


def _listing(request: HttpRequest) -> dict[str, Any]:
    form = EventFilterForm(request.GET)
    found = form.rows(visibility.sight_of(request.user).rows(Event.objects.order_by("-pk")))
    before = parse_number(request.GET.get("before", ""))
    if before is not None:
        found = found.filter(pk__lt=before)
    shown, has_older = take_page(found, PAGE_SIZE)
    filters = {name: request.GET[name] for name in form.fields if request.GET.get(name)}
    return {
        "form": form,
        "events": with_names(shown),
        "older": urlencode({**filters, "before": shown[-1].pk}) if has_older else "",
        "newest": urlencode(filters),
        "is_first": before is None,
    }


# -- subscribers -------------------------------------------------------------------------------


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def subscribers(request: HttpRequest) -> HttpResponse:
    """List subscribers, and add one. A generated secret is shown once, on the next page."""
    services.check_permission(request.user)
    form, status = SubscriberForm(request.POST or None), 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                made = services.create(form.columns(), by=request.user)
            except ReefError as error:
                status = error.status
                form.add_service_error(error)
            else:
                context = {**_detail(request, made.subscriber), "secret": made.secret}
                return render(request, "activity/subscriber.html", context, status=201)
    context = {"form": form, "subscribers": Subscriber.objects.shared()}
    return render(request, "activity/subscribers.html", context, status=status)


@login_required
@require_GET
@render_errors
def subscriber(request: HttpRequest, subscriber_id: int) -> HttpResponse:
    """Show a subscriber and its deliveries."""
    found = services.find(subscriber_id, by=request.user)
    return render(request, "activity/subscriber.html", _detail(request, found))


@login_required
@require_GET
@render_errors
def deliveries(request: HttpRequest, subscriber_id: int) -> HttpResponse:
    """Render the deliveries, which the page fetches again."""
    found = services.find(subscriber_id, by=request.user)
    return render(request, "activity/_deliveries.html", _detail(request, found))


def _detail(request: HttpRequest, found: Subscriber) -> dict[str, Any]:
    rows = Delivery.objects.filter(subscriber=found).order_by("-pk")
    before = parse_number(request.GET.get("before", ""))
    if before is not None:
        rows = rows.filter(pk__lt=before)
    shown, has_older = take_page(rows, PAGE_SIZE)
    return {
        "subscriber": found,
        "deliveries": shown,
        "older": urlencode({"before": shown[-1].pk}) if has_older else "",
        "is_first": before is None,
    }


@login_required
@require_POST
@render_errors
def act(request: HttpRequest, subscriber_id: int, action: str) -> HttpResponse:
    """Test, pause or resume a subscriber."""
    by = request.user
    if action == "test":
        services.test(subscriber_id, by=by)
        messages.success(request, "A test is on its way.")
    else:
        services.change(subscriber_id, {"is_active": action == "resume"}, by=by)
    return redirect("event-log:subscriber", subscriber_id)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def delete(request: HttpRequest, subscriber_id: str) -> HttpResponse:
    """Ask before a subscriber is deleted; a POST deletes it."""
    found = services.find(int(subscriber_id), by=request.user)
    if request.method == "GET":
        return render(request, "activity/delete.html", {"subscriber": found})
    services.delete(found.pk, by=request.user)
    messages.success(request, "Subscriber deleted.")
    return redirect("event-log:subscribers")


@login_required
@require_POST
@render_errors
def replay(request: HttpRequest, subscriber_id: int, delivery_id: int) -> HttpResponse:
    """Deliver one event again."""
    services.replay(delivery_id, subscriber_id, by=request.user)
    messages.success(request, "It is delivered again.")
    return redirect("event-log:subscriber", subscriber_id)
