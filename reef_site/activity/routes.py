"""Routes of the API of the event log."""

from __future__ import annotations

from django.urls import re_path

from reef_site.activity.api import Events
from reef_site.activity.subscribers import api as subscriber_api

urlpatterns = [
    re_path(r"^events/?$", Events.as_view(), name="events"),
    *subscriber_api.urlpatterns,
]
