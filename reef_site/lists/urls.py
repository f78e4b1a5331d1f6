"""URLs of saved filters and of actions on many rows."""

from __future__ import annotations

from django.urls import path

from reef_site.lists import filter_views, run_views

app_name = "lists"

urlpatterns = [
    path("filters/<str:name>/", filter_views.save, name="save-filter"),
    path("filters/<int:filter_id>/rename", filter_views.rename, name="rename-filter"),
    path("filters/<int:filter_id>/delete", filter_views.delete, name="delete-filter"),
    path("presets/<str:name>/hide", filter_views.hide_preset, name="hide-preset"),
    path("presets/<str:name>/show", filter_views.show_preset, name="show-preset"),
    path("plan/<str:name>/", run_views.plan, name="plan"),
    # The action is part of the URL, so that destructive ones need a recent proof of identity.
    path("runs/<str:action>/<str:run_id>/start", run_views.start, name="start"),
    path("runs/<str:run_id>/", run_views.run_page, name="run"),
    path("runs/<str:run_id>/_items", run_views.items, name="items"),
    path("runs/<str:run_id>/cancel", run_views.cancel, name="cancel"),
]
