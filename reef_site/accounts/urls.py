"""URLs of signing in and out."""

from __future__ import annotations

from django.urls import path

from reef_site.accounts import preferences, views

urlpatterns = [
    path("signin/", views.signin, name="signin"),
    path("signin/again/", views.again, name="signin-again"),
    path("signin/<str:secret>", views.signin_link, name="signin-link"),
    path("signout/", views.signout, name="signout"),
    path("preferences/", preferences.preferences, name="preferences"),
    path("admin/login/", views.admin_login),
]
