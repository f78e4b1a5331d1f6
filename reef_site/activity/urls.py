"""URLs of the page "Events" and of subscribers."""

from __future__ import annotations

from django.urls import path, re_path

from reef_site.activity import views

app_name = "event-log"
urlpatterns = [
    path("", views.index, name="index"),
    path("rows/", views.rows, name="rows"),
    path("subscribers/", views.subscribers, name="subscribers"),
    path("subscribers/<int:subscriber_id>/", views.subscriber, name="subscriber"),
    path("subscribers/<int:subscriber_id>/deliveries/", views.deliveries, name="deliveries"),
    path(
        "subscribers/<int:subscriber_id>/deliveries/<int:delivery_id>/replay/",
        views.replay,
        name="replay",
    ),
    re_path(r"^subscribers/(?P<subscriber_id>[0-9]{1,18})/delete/$", views.delete, name="delete"),
    re_path(
        r"^subscribers/(?P<subscriber_id>[0-9]{1,18})/(?P<action>test|pause|resume)/$",
        views.act,
        name="act",
    ),
]
