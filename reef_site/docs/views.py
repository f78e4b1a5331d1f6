"""Pages below `/docs/`."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from reef_site.docs import rendering


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """List the pages of the documentation."""
    here = reverse("docs:index")
    pages = [(rendering.render(slug, here), about) for slug, about in rendering.PAGES.items()]
    return render(request, "docs/index.html", {"pages": pages})


@login_required
@require_GET
def page(request: HttpRequest, slug: str) -> HttpResponse:
    """Show one page of the documentation."""
    here = reverse("docs:index")
    try:
        found = rendering.render(slug, here)
    except KeyError:
        raise Http404(f"no page {slug}") from None
    others = [rendering.render(each, here) for each in rendering.PAGES]
    return render(request, "docs/page.html", {"page": found, "pages": others})
