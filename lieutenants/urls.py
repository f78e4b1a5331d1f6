"""URLs of the lieutenants pages and their fragments, under `/lieutenants/`.

Pages end with a slash, fragments and actions do not. Fragments use ids, because a name may belong
to another lieutenant tomorrow.
"""

from __future__ import annotations

from django.urls import path

from lieutenants import views
from lieutenants.messages import views as image_views
from lieutenants.unknown_agents import views as unknown_views

app_name = "lieutenants"

urlpatterns = [
    path("", views.index, name="index"),
    path("_rows", views.rows, name="rows"),
    path("_new", views.create, name="create"),
    path("_unknown/<str:run>/<str:verb>", unknown_views.act, name="unknown-agent"),
    path("by-id/<str:pk>/", views.by_id, name="by-id"),
    path("by-id/<str:pk>/_now", views.now, name="now"),
    path("by-id/<str:pk>/_transcript", views.transcript, name="transcript"),
    path("by-id/<str:pk>/_entries", views.entries, name="entries"),
    path("by-id/<str:pk>/export", views.export, name="export"),
    path("by-id/<str:pk>/_text/<int:entry_id>", views.text, name="text"),
    path("by-id/<str:pk>/images/<str:message_id>/<int:number>", image_views.image, name="image"),
    path("<str:name>/", views.detail, name="detail"),
    path("<str:name>/send", views.send, name="send"),
    path("<str:name>/settings", views.adjust, name="adjust"),
    path("<str:name>/messages/<str:message_id>/withdraw", views.withdraw, name="withdraw"),
    path("<str:name>/<str:verb>", views.act, name="act"),
]
