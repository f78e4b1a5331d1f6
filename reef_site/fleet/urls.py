"""Addresses of the fleet's pages and their fragments."""

from __future__ import annotations

from django.urls import path

from reef_site.fleet import views

app_name = "fleet"

urlpatterns = [
    path("", views.tree, name="tree"),
    path("_tree", views.fragment, name="fragment"),
    path("_news", views.news, name="news"),
    path("_children/<int:key>", views.children, name="children"),
    path("vm", views.by_id, name="by-id"),
    path("picture/", views.look, name="picture"),
    path("picture/_drawing", views.drawing, name="drawing"),
    path("<int:key>/", views.one, name="one"),
    path("<int:key>/_facts", views.facts, name="facts"),
]
