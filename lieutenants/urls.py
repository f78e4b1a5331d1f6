"""URLs of the lieutenants pages and their fragments, under `/lieutenants/`.

Pages end with a slash, fragments and actions do not. Fragments use ids, because a name may belong
to another lieutenant tomorrow.
"""

from __future__ import annotations

from django.urls import path

from lieutenants import next_sign_views, views
from lieutenants.changes import views as changes_views
from lieutenants.messages import views as image_views
from lieutenants.transcript import views as transcript_views
from lieutenants.unknown_agents import views as unknown_views
from lieutenants.unread import views as unread_views

app_name = "lieutenants"

urlpatterns = [
    path("", views.index, name="index"),
    path("_rows", views.rows, name="rows"),
    path("_new", views.create, name="create"),
    path("_discover", unknown_views.discover, name="discover"),
    path("_unknown/<str:run>/<str:verb>", unknown_views.act, name="unknown-agent"),
    path("_read", unread_views.read_all, name="read-all"),
    path("by-id/<str:pk>/_read", unread_views.read, name="read"),
    path("by-id/<str:pk>/", views.by_id, name="by-id"),
    path("by-id/<str:pk>/_now", views.now, name="now"),
    path("by-id/<str:pk>/_transcript", transcript_views.transcript, name="transcript"),
    path("by-id/<str:pk>/_entries", transcript_views.entries, name="entries"),
    path("by-id/<str:pk>/export", transcript_views.export, name="export"),
    path("by-id/<str:pk>/_text/<int:entry_id>", transcript_views.text, name="text"),
    path("by-id/<str:pk>/_text/<int:entry_id>/_part", transcript_views.text_part, name="text-part"),
    path("by-id/<str:pk>/_piece/<int:entry_id>", transcript_views.piece, name="piece"),
    path("by-id/<str:pk>/_find", transcript_views.find, name="find"),
    path("by-id/<str:pk>/_messages", transcript_views.messages, name="messages"),
    path("by-id/<str:pk>/images/<str:message_id>/<int:number>", image_views.image, name="image"),
    path("by-id/<str:pk>/_changes", changes_views.listing, name="changes-list"),
    path("by-id/<str:pk>/_changed-file", changes_views.one_file, name="changed-file"),
    path("by-id/<str:pk>/_comments", changes_views.comment, name="changes-comments"),
    path("<str:name>/changes/", changes_views.index, name="changes"),
    path("<str:name>/", views.detail, name="detail"),
    path("<str:name>/send", views.send, name="send"),
    path("<str:name>/settings", views.adjust, name="adjust"),
    path("<str:name>/next-sign", next_sign_views.next_sign, name="next-sign"),
    path(
        "<str:name>/next-sign/withdraw",
        next_sign_views.withdraw_next_sign,
        name="withdraw-next-sign",
    ),
    path("<str:name>/messages/<str:message_id>/withdraw", views.withdraw, name="withdraw"),
    path("<str:name>/messages/<str:message_id>/again", views.send_again, name="send-again"),
    path("<str:name>/messages/<str:message_id>/change", views.change_message, name="change"),
    path("<str:name>/rewind/<int:entry_id>", views.rewind_to, name="rewind-to"),
    path("<str:name>/<str:verb>", views.act, name="act"),
]
