"""Manifest, service worker and offline page. They hold nothing of the fleet, so nobody signs in."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.http import require_GET

from reef_site.common.json_format import json_response

_ICON_SIZES = (192, 512)


@require_GET
def manifest(_request: HttpRequest) -> HttpResponse:
    """Return the web app manifest."""
    home = reverse("overview")
    icons = [
        {
            "src": static(f"reef/icons/icon-{size}.png"),
            "sizes": f"{size}x{size}",
            "type": "image/png",
            "purpose": purpose,
        }
        for size in _ICON_SIZES
        for purpose in ("any", "maskable")
    ]
    body = {
        "name": "reef",
        "short_name": "reef",
        "description": "Control plane for AI coding agents.",
        "id": home,
        "start_url": home,
        "scope": home,
        "display": "standalone",
        "background_color": "#f5f7f6",
        "theme_color": "#0b5f63",
        "icons": icons,
    }
    response = json_response(body)
    response["Content-Type"] = "application/manifest+json"
    return response


@require_GET
def service_worker(request: HttpRequest) -> HttpResponse:
    """Return the service worker, which must be at the root of the pages that it serves."""
    files = [reverse("offline"), static("reef/base.css"), static("reef/favicon.svg")]
    response = render(request, "service_worker.js", {"files": files}, "text/javascript")
    response["Cache-Control"] = "no-cache"
    return response


@require_GET
def offline(request: HttpRequest) -> HttpResponse:
    """Return the page that browsers show while they cannot reach reef."""
    return render(request, "offline.html")
