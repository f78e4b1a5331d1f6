"""Routes of the documentation."""

from __future__ import annotations

from django.urls import path

from reef_site.docs import views

app_name = "docs"
urlpatterns = [
    path("", views.index, name="index"),
    path("<slug:slug>/", views.page, name="page"),
]
