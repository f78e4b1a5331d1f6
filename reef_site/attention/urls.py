"""URLs of the attention list."""

from __future__ import annotations

from django.urls import path

from reef_site.attention import views

urlpatterns = [
    path("count", views.count, name="attention-count"),
    path("seen", views.mark, name="attention-seen"),
    path("snooze", views.snooze, name="attention-snooze"),
]
