"""The page of operator tokens: list, make, revoke."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from reef_site.access.forms import TokenForm
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import ReefError
from vmtree import operator_tokens, permissions
from vmtree.models import OperatorToken
from vmtree.permissions import Action

render_errors = ErrorPage("overview", "Overview")
MAX_SHOWN = 200


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """List the tokens; a POST makes one and shows it this once."""
    permissions.check(request.user, Action.MAKE_TOKENS, None)
    request.audit_target = request.POST.get("name", "")  # type: ignore[attr-defined]
    form = TokenForm(request.POST or None)
    context: dict[str, Any] = {}
    if form.is_bound and form.is_valid():
        try:
            context["made"], context["secret"] = operator_tokens.make(
                **form.values(), by=request.user
            )
        except ReefError as error:
            form.add_service_error(error)
        else:
            # The page is not redirected: the token is stored nowhere.
            form = TokenForm()
    form.describe_errors()
    rows = OperatorToken.objects.select_related("subtree")[:MAX_SHOWN]
    status = 400 if form.is_bound and form.errors else 200
    context |= {"form": form, "tokens": rows}
    return render(request, "access/tokens.html", context, status=status)


@login_required
@require_POST
@render_errors
def revoke(request: HttpRequest, key: int) -> HttpResponse:
    """Revoke a token. Its open streams end within a second."""
    row = operator_tokens.revoke(key, by=request.user)
    request.audit_target = row.name  # type: ignore[attr-defined]
    messages.success(request, f"Token {row.name} revoked.")
    return redirect("access:tokens")
