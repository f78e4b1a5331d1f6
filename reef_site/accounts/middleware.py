"""Middleware of accounts: secure cookies, reef's own host name, session lifetime, proofs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase

from reef_site.accounts import proof, views
from reef_site.accounts.sessions import USED_AT
from reef_site.common.json_format import json_response

GetResponse = Callable[[HttpRequest], HttpResponseBase]

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
# Browsers that resolve every name below .localhost to the loopback by themselves.
RESOLVING_BROWSERS = ("Chrome/", "Firefox/")
# A session in use is saved once in this fraction of its lifetime.
REFRESH_EVERY = 1 / 60


class SecureCookiesMiddleware:
    """Mark the cookies of responses to TLS requests as `Secure`.

    Django's settings decide this for all requests, but a reef may be reached with and without TLS.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.is_secure():
            for morsel in response.cookies.values():
                morsel["secure"] = True
        return response


class OwnHostMiddleware:
    """Send browsers that open a page at a loopback address to reef's own host name.

    Cookies ignore ports: at 127.0.0.1 every web server of this machine gets them, including those
    that agents run. Only pages are redirected, only in browsers that resolve the name, and only for
    people who are not signed in here, so that nobody is locked out.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Any, _args: object, _named: object
    ) -> HttpResponse | None:
        """Called by Django before each view."""
        host, colon, port = request.get_host().rpartition(":")
        if not host or not port.isdigit():
            host, colon, port = request.get_host(), "", ""
        if not settings.OWN_HOST or host not in LOOPBACK_HOSTS or not _opens_a_page(request, view):
            return None
        if request.user.is_authenticated:
            return None
        return HttpResponseRedirect(
            f"{request.scheme}://{settings.OWN_HOST}{colon}{port}{request.get_full_path()}"
        )


def _opens_a_page(request: HttpRequest, view: Any) -> bool:
    agent = request.headers.get("User-Agent", "")
    return (
        request.method == "GET"
        and not hasattr(view, "cls")
        and "Authorization" not in request.headers
        and "text/html" in request.headers.get("Accept", "")
        and any(name in agent for name in RESOLVING_BROWSERS)
        and not request.path.startswith("/health")
    )


class SessionLifeMiddleware:
    """Extend sessions that are in use; `sessions.SessionStore` sets the absolute limit."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # The response to a stream carries no cookies, and an open stream does not count as use.
        is_stream = "text/event-stream" in request.headers.get("Accept", "")
        # Hidden windows ask for the count in their titles.
        is_use = not is_stream and "Reef-Hidden" not in request.headers
        if settings.SESSION_COOKIE_NAME in request.COOKIES and is_use:
            self._refresh(request)
        return self.get_response(request)

    def _refresh(self, request: HttpRequest) -> None:
        if not request.user.is_authenticated:
            return
        age = time.time() - request.session.get(USED_AT, 0)
        if not 0 <= age < settings.SESSION_COOKIE_AGE * REFRESH_EVERY:
            request.session[USED_AT] = time.time()


class RecentProofMiddleware:
    """Require a recent proof of identity for the requests in `proof.SENSITIVE`.

    A page asks for the proof and carries the fields of the form, so nothing has to be entered
    again. The API and scripts get a 403 that says where to go.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Any, _args: object, _named: object
    ) -> HttpResponse | None:
        """Called by Django before each view."""
        is_api = hasattr(view, "cls")
        if is_api and "Authorization" in request.headers:
            return None
        if not request.user.is_authenticated or not proof.is_sensitive(request):
            return None
        if proof.is_recent(request):
            return None
        if is_api:
            request.refusal = proof.REFUSAL  # type: ignore[attr-defined]
            return json_response({"error": proof.REFUSAL}, status=403)
        return views.ask_again(request)
