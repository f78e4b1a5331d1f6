"""URLs of the bootloader's pages."""

from __future__ import annotations

from django.urls import path

from bootloader import views
from bootloader.commands import views as command_views
from bootloader.join import views as joining_views

app_name = "bootloader"
urlpatterns = [
    path("", views.index, name="index"),
    path("rows/", views.rows, name="rows"),
    path("new/", views.create, name="create"),
    path("new/change/", views.change, name="change"),
    path("machines/", views.machines, name="machines"),
    path("machines/test/", views.check_connection, name="test_connection"),
    path("commands/", command_views.index, name="commands"),
    path("commands/<str:command_id>/", command_views.one, name="command"),
    path("commands/<str:command_id>/part/", command_views.part, name="command_part"),
    path("commands/<str:command_id>/cancel/", command_views.cancel, name="cancel_command"),
    path("door/", joining_views.door, name="door"),
    path("door/<int:pk>/void", joining_views.void, name="void"),
    path("findings/", views.findings, name="findings"),
    path("findings/look/", views.compare_now, name="look"),
    path("findings/all/", views.decide_many, name="decide_many"),
    path("findings/<int:pk>/", views.decide, name="decide"),
    path("<str:pk>/", views.detail, name="detail"),
    path("<str:pk>/part/", views.part, name="part"),
    path("<str:pk>/used/", views.used, name="used"),
    path("<str:pk>/retry/", views.retry, name="retry"),
    path("<str:pk>/cancel/", views.cancel, name="cancel"),
]
