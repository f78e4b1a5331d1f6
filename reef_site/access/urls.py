"""URLs of the pages about permissions and tokens."""

from __future__ import annotations

from django.urls import path

from reef_site.access import token_views, views

app_name = "access"

urlpatterns = [
    path("nodes/", views.by_id, name="by-id"),
    path("nodes/<int:key>/", views.node, name="node"),
    path("nodes/<int:key>/grant", views.grant, name="grant"),
    path("tokens/", token_views.index, name="tokens"),
    path("tokens/<int:key>/revoke", token_views.revoke, name="revoke"),
]
