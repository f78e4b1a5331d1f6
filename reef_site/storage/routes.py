"""Routes of the API of storage."""

from __future__ import annotations

from django.urls import re_path

from reef_site.storage.api import Measure, MeasurementCall, Storage

urlpatterns = [
    re_path(r"^storage/?$", Storage.as_view(), name="storage"),
    re_path(r"^storage/measure/?$", Measure.as_view(), name="storage-measure"),
    re_path(
        r"^storage/calls/(?P<call_id>[^/]+)/?$", MeasurementCall.as_view(), name="storage-call"
    ),
]
