"""URLs of the pages of rules."""

from __future__ import annotations

from django.urls import path, re_path

from registry.rules import views

app_name = "rules"
urlpatterns = [
    path("", views.index, name="index"),
    path("_rows", views.rows, name="rows"),
    path("new/", views.create, name="create"),
    path("firings/", views.executions, name="executions"),
    path("<int:rule_id>/", views.detail, name="detail"),
    path("<int:rule_id>/dry-run/", views.dry_run, name="dry-run"),
    path("<int:rule_id>/delete/", views.delete, name="delete"),
    re_path(r"^(?P<rule_id>[0-9]{1,18})/(?P<action>on|off|test)/$", views.act, name="act"),
]
