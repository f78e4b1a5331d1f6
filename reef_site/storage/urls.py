"""URLs of the page Storage."""

from __future__ import annotations

from django.urls import path

from reef_site.storage import views

app_name = "space"
urlpatterns = [
    path("", views.index, name="index"),
    path("measure/", views.measure_now, name="measure"),
]
