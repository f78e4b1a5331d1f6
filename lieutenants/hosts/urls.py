"""URLs of the pages of hosts."""

from __future__ import annotations

from django.urls import path

from lieutenants.hosts import views

urlpatterns = [
    path("", views.index, name="lieutenant-hosts"),
    path("<str:name>/adopt", views.adopt, name="lieutenant-hosts-adopt"),
]
