"""URLs of the page Notifications."""

from __future__ import annotations

from django.urls import path, re_path

from reef_site.activity.personal import views

app_name = "notifications"
urlpatterns = [
    path("", views.index, name="index"),
    path("_news", views.news, name="news"),
    path("<int:channel_id>/", views.channel, name="channel"),
    path("<int:channel_id>/_outbox", views.outbox, name="outbox"),
    path("<int:channel_id>/delete/", views.delete, name="delete"),
    re_path(r"^(?P<channel_id>[0-9]{1,18})/(?P<action>test|off|on)/$", views.act, name="act"),
]
