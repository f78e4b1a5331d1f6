"""URLs of the audit log."""

from __future__ import annotations

from django.urls import path

from reef_site.audit import views

urlpatterns = [path("", views.index, name="audit")]
