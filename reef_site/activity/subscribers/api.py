"""API of subscribers for operators: `/events/subscribers`."""

from __future__ import annotations

from typing import Any

from django.urls import re_path
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.activity.filters import EventFilter
from reef_site.activity.models import Subscriber
from reef_site.activity.subscribers import services
from reef_site.activity.subscribers.serializers import (
    DeliveriesQuery,
    DeliveryResponse,
    NewSubscriberResponse,
    ReplayBody,
    ReplayResponse,
    SubscriberBody,
    SubscriberChangeBody,
    SubscriberResponse,
    delivery_json,
    split_fields,
    subscriber_json,
)
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Cursor
from reef_site.common.api.serializers import list_of
from reef_site.common.errors import NotFound
from reef_site.common.paging import take_page_by_key
from reef_site.common.request_names import takes_anything
from registry.serializers import DeletedResponse
from vmtree import permissions

FORBIDDEN = {403: f"rule: {permissions.RULE}. vm-7 may not manage the rules of the whole fleet"}
NOT_FOUND = {404: "subscriber not found"}
TAKEN = {409: "name: there is a subscriber 'pager' already"}


class OnlyOperators(BasePermission):
    """Allows root and operators; a subscriber gets events of the whole fleet."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True, or raise Forbidden."""
        services.check_permission(request.user)
        return True


class SubscriberView(APIView):
    """Base of the views below."""

    checks_permission = True

    def get_permissions(self) -> list[Any]:
        """Return the default permissions and `OnlyOperators`."""
        return [*super().get_permissions(), OnlyOperators()]


class SubscriberList(SubscriberView):
    """`/events/subscribers`"""

    @endpoint(response=list_of("subscribers", SubscriberResponse), errors=FORBIDDEN)
    def get(self, request: Request) -> Response:
        """Return all subscribers, by name."""
        found = [subscriber_json(row) for row in Subscriber.objects.shared()]
        return Response({"subscribers": found, "count": len(found)})

    @endpoint(body=SubscriberBody, response=NewSubscriberResponse, status=201, errors=TAKEN)
    def post(self, request: Request) -> Response:
        """Subscribe to events from now on.

        Each is delivered at least once: a webhook may get one again after a lost answer, with the
        same `Reef-Delivery`. Calls are signed like those of rules.
        """
        fields, secret = split_fields(SubscriberBody.parse(request), EventFilter())
        made = services.create(fields, by=request.user, secret=secret)
        more = {"secret": made.secret} if made.secret else {}
        return Response({**subscriber_json(made.subscriber), **more}, status=201)


class SubscriberDetail(SubscriberView):
    """`/events/subscribers/<id>`"""

    @endpoint(response=SubscriberResponse, errors=FORBIDDEN | NOT_FOUND)
    def get(self, request: Request, subscriber_id: str) -> Response:
        """Return a subscriber."""
        return Response(subscriber_json(services.find(int(subscriber_id), by=request.user)))

    @endpoint(body=SubscriberChangeBody, response=SubscriberResponse, errors=NOT_FOUND | TAKEN)
    def patch(self, request: Request, subscriber_id: str) -> Response:
        """Change the given fields; `active: false` pauses it."""
        known = services.find(int(subscriber_id), by=request.user)
        fields, secret = split_fields(SubscriberChangeBody.parse(request), known.filter)
        row = services.change(known.pk, fields, by=request.user, secret=secret)
        return Response(subscriber_json(row))

    @endpoint(response=DeletedResponse, errors=NOT_FOUND)
    def delete(self, request: Request, subscriber_id: str) -> Response:
        """Delete a subscriber, and what was to be delivered to it."""
        services.delete(int(subscriber_id), by=request.user)
        return Response({"deleted": True})


class SubscriberTest(SubscriberView):
    """`/events/subscribers/<id>/test`"""

    @endpoint(response=DeliveryResponse, status=202, errors=NOT_FOUND)
    def post(self, request: Request, subscriber_id: str) -> Response:
        """Send a message that belongs to no event; the deliveries show what came of it."""
        made = services.test(int(subscriber_id), by=request.user)
        return Response(delivery_json(made), status=202)


class SubscriberReplay(SubscriberView):
    """`/events/subscribers/<id>/replay`"""

    @endpoint(body=ReplayBody, response=ReplayResponse, status=202, errors=NOT_FOUND)
    def post(self, request: Request, subscriber_id: str) -> Response:
        """Deliver all events behind a number again, by the filter as it is now."""
        found = services.find(int(subscriber_id), by=request.user)
        after = ReplayBody.parse(request)["after"]
        count = services.replay_after(found.pk, after, by=request.user)
        return Response({"replayed": count}, status=202)


class DeliveryList(SubscriberView):
    """`/events/subscribers/<id>/deliveries`"""

    @endpoint(
        query=DeliveriesQuery,
        response=list_of("deliveries", DeliveryResponse, next_page=Cursor),
        errors=FORBIDDEN | NOT_FOUND,
    )
    def get(self, request: Request, subscriber_id: str) -> Response:
        """List deliveries with their attempts, newest first."""
        query = DeliveriesQuery.parse(request)
        rows = services.find(int(subscriber_id), by=request.user).deliveries.all()
        if query["state"]:
            rows = rows.filter(state=query["state"])
        page, following = take_page_by_key(rows, query["limit"], query["cursor"], newest_first=True)
        found = [delivery_json(each) for each in page]
        return Response({"deliveries": found, "count": len(found), "next": following})


class DeliveryReplay(SubscriberView):
    """`/events/subscribers/<id>/deliveries/<id>/replay`"""

    @endpoint(
        response=DeliveryResponse,
        status=202,
        errors=NOT_FOUND | {409: "it waits to be delivered already"},
    )
    def post(self, request: Request, subscriber_id: str, delivery_id: str) -> Response:
        """Deliver one event again."""
        row = services.replay(int(delivery_id), int(subscriber_id), by=request.user)
        return Response(delivery_json(row), status=202)


class UnknownPath(SubscriberView):
    """Answers 404 to unknown paths below subscribers."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse


_ONE = r"^events/subscribers/(?P<subscriber_id>[0-9]{1,18})"

urlpatterns = [
    re_path(r"^events/subscribers/?$", SubscriberList.as_view(), name="subscribers"),
    re_path(rf"{_ONE}/?$", SubscriberDetail.as_view()),
    re_path(rf"{_ONE}/test/?$", SubscriberTest.as_view()),
    re_path(rf"{_ONE}/replay/?$", SubscriberReplay.as_view()),
    re_path(rf"{_ONE}/deliveries/?$", DeliveryList.as_view()),
    re_path(
        rf"{_ONE}/deliveries/(?P<delivery_id>[0-9]{{1,18}})/replay/?$", DeliveryReplay.as_view()
    ),
    re_path(r"^events/subscribers/.*$", UnknownPath.as_view()),
]
