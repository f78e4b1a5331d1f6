"""URLs of the page of questions, its fragments and its forms, under `/questions/`."""

from __future__ import annotations

from django.urls import path

from lieutenants.questions import views

app_name = "questions"

urlpatterns = [
    path("", views.index, name="index"),
    path("_open", views.open_questions, name="open"),
    path("_decided", views.decided, name="decided"),
    path("_count", views.count, name="count"),
    path("<str:pk>/answer", views.answer, name="answer"),
]
