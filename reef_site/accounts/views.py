"""Sign-in, sign-out, and the page that asks for a proof of identity."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.csrf import csrf_failure as django_csrf_failure
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import requires_csrf_token
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reef_site.accounts import proof, signin_links, throttle
from reef_site.accounts.forms import ProofForm, SignInForm
from reef_site.audit import log
from reef_site.audit.models import Action

BACKEND = "django.contrib.auth.backends.ModelBackend"
# Fields of the proof page itself; all others are carried along.
OWN_FIELDS = frozenset({"csrfmiddlewaretoken", "proof_password", "proof_continue"})


class SignIn(LoginView):
    """Sign in by password; the page also explains sign-in links."""

    template_name = "signin.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the lifetime of a sign-in link, in minutes."""
        return {**super().get_context_data(**kwargs), "minutes": settings.SIGNIN_MINUTES}

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Sign in and remember this browser."""
        response = super().form_valid(form)
        throttle.remember_browser(response, form.get_user().pk)
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Show the errors; a throttled attempt gets a 429."""
        return _with_wait(super().form_invalid(form), form)


signin = SignIn.as_view()


@never_cache
@require_GET
def signin_link(request: HttpRequest, secret: str) -> HttpResponse:
    """Sign the operator in by a single-use link, or accept it as a proof of identity."""
    operator = signin_links.use_signin_link(secret)
    if operator is None:
        log.failed_sign_in(request, "", "this link does not work, or no longer", status=410)
        if request.user.is_authenticated:
            return redirect("overview")
        context = {"minutes": settings.SIGNIN_MINUTES}
        return render(request, "signin_used.html", context, status=410)
    if request.user.is_authenticated and request.user.pk == operator.pk:
        # A new session would invalidate the forms that are open in other tabs.
        proof.note(request)
        log.record(request, Action.PROOF, reason="by link")
        messages.success(request, "Confirmed. Go back to the other tab and continue there.")
        return redirect("overview")
    request.sign_in_means = "link"  # type: ignore[attr-defined]
    login(request, operator, backend=BACKEND)
    return redirect("overview")


@require_POST
def signout(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("signin")


@never_cache
def admin_login(request: HttpRequest) -> HttpResponse:
    """Redirect to the one sign-in page; tell accounts without access to the admin."""
    target = _safe_target(request, request.GET.get("next", ""), reverse("admin:index"))
    if not request.user.is_authenticated:
        return redirect(f"{reverse('signin')}?{urlencode({'next': target})}")
    if request.user.is_staff:
        return redirect(target)
    return render(request, "accounts/no_admin.html", status=403)


# -- proofs ------------------------------------------------------------------------------------


@never_cache
@login_required
@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def again(request: HttpRequest) -> HttpResponse:
    """Ask for a proof on a page of its own, for people whom the API refused."""
    target = _safe_target(request, request.GET.get("next", ""), resolve_url("overview"))
    form = ProofForm(request, request.POST if "proof_password" in request.POST else None)
    if form.is_bound and form.is_valid():
        _record_proof(request)
    if request.method == "POST" and proof.is_recent(request):
        return redirect(target)
    context = {**_proof_context(request, form), "fields": [], "target": request.get_full_path()}
    return _with_wait(render(request, "accounts/again.html", context), form)


def ask_again(request: HttpRequest) -> HttpResponse | None:
    """Ask for a proof and carry the form's fields; return None once there is one."""
    form = ProofForm(request, request.POST if "proof_password" in request.POST else None)
    if form.is_bound and form.is_valid():
        _record_proof(request)
        return None
    request.refusal = proof.REFUSAL  # type: ignore[attr-defined]
    if request.headers.get("Reef-Script") or request.headers.get("HX-Request"):
        return HttpResponse(proof.REFUSAL, status=403, content_type="text/plain; charset=utf-8")
    fields = [
        (name, value)
        for name, values in request.POST.lists()
        if name not in OWN_FIELDS
        for value in values
    ]
    context = {
        **_proof_context(request, form),
        "fields": fields,
        "target": request.get_full_path(),
        "not_yet": "proof_continue" in request.POST,
    }
    response = render(request, "accounts/again.html", context, status=403)
    response.headers["Cache-Control"] = "no-store"
    return _with_wait(response, form)


def _record_proof(request: HttpRequest) -> None:
    proof.note(request)
    log.record(request, Action.PROOF, reason="by password")


def _proof_context(request: HttpRequest, form: ProofForm) -> dict[str, Any]:
    return {
        "form": form,
        "has_password": request.user.is_authenticated and request.user.has_usable_password(),
        "proof_minutes": settings.PROOF_MINUTES,
        "minutes": settings.SIGNIN_MINUTES,
    }


def _with_wait(response: HttpResponse, form: Any) -> HttpResponse:
    """Add status 429 and `Retry-After` if the attempt has to wait."""
    if form.is_bound and form.wait_seconds:
        response.status_code = 429
        response.headers["Retry-After"] = str(form.wait_seconds)
    return response


def _safe_target(request: HttpRequest, target: str, otherwise: str) -> str:
    """Return the redirect target if it is one of our pages, else `otherwise`."""
    is_safe = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if is_safe else otherwise


@requires_csrf_token
def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """Show Django's own page; the reason goes to the audit log."""
    request.refusal = f"CSRF: {reason}"  # type: ignore[attr-defined]
    return django_csrf_failure(request, reason=reason)
