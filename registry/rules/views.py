"""The pages of rules: what each does, how often it was executed, dry run, and executions."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reef_site.common import outside
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import Conflict, ReefError
from reef_site.common.outside_answers import page_answer
from reef_site.common.paging import take_page
from reef_site.common.text import parse_number
from registry.rules import counts, engine, outside_calls, sentences, services
from registry.rules.forms import ExecutionsForm, RulePageForm
from registry.rules.models import Action, Firing, Rule
from vmtree import permissions

PAGE_SIZE = 100
NEWEST = 20

render_errors = ErrorPage("rules:index", "All rules")


def _check(request: HttpRequest) -> None:
    permissions.check(request.user, permissions.Action.MANAGE_RULES, None)


@login_required
@require_GET
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """List the rules, by name."""
    return render(request, "rules/index.html", _rules(request))


@login_required
@require_GET
@render_errors
def rows(request: HttpRequest) -> HttpResponse:
    """Render the rows of the list, which the page fetches again."""
    return render(request, "rules/_rows.html", _rules(request))


def _rules(request: HttpRequest) -> dict[str, Any]:
    _check(request)
    return {"rows": counts.with_counts(list(Rule.objects.all()))}


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def create(request: HttpRequest) -> HttpResponse:
    """Add a rule, which is off at first. A generated secret is shown once, on the next page."""
    _check(request)
    form = RulePageForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            rule, secret = services.create(form.columns, by=request.user, key=form.key)
        except ReefError as error:
            form.add_service_error(error)
        else:
            messages.success(request, "Rule added. It is off: look at its dry run first.")
            return render(request, "rules/detail.html", _detail(rule, secret), status=201)
    status = 400 if form.errors else 200
    return render(request, "rules/create.html", {"form": form}, status=status)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def detail(request: HttpRequest, rule_id: int) -> HttpResponse:
    """Show a rule with its newest executions, and change it."""
    rule = services.find(rule_id, by=request.user)
    if request.method == "GET":
        return render(request, "rules/detail.html", _detail(rule))
    form = RulePageForm(request.POST, instance=Rule.objects.get(pk=rule.pk))
    if form.is_valid():
        try:
            changed, secret = services.change(rule.pk, form.columns, by=request.user, key=form.key)
        except ReefError as error:
            form.add_service_error(error)
        else:
            messages.success(request, "Rule saved.")
            if secret:
                return render(request, "rules/detail.html", _detail(changed, secret))
            return redirect("rules:detail", rule.pk)
    return render(request, "rules/detail.html", {**_detail(rule), "form": form}, status=400)


def _detail(rule: Rule, secret: str = "") -> dict[str, Any]:
    [row] = counts.with_counts([rule])
    return {
        "rule": rule,
        "row": row,
        "form": RulePageForm(instance=rule),
        "secret": secret,
        "is_webhook": rule.action == Action.WEBHOOK,
        "executions": rule.firings.order_by("-at")[:NEWEST],
    }


@login_required
@require_GET
@render_errors
def dry_run(request: HttpRequest, rule_id: int) -> HttpResponse:
    """Show what the rule would do now; changes nothing."""
    rule = services.find(rule_id, by=request.user)
    context = {"rule": rule, "run": engine.dry_run(rule), "then": sentences.then(rule)}
    return render(request, "rules/dry_run.html", {**context, "words": sentences.describe(rule)})


@login_required
@require_POST
@render_errors
def act(request: HttpRequest, rule_id: str, action: str) -> HttpResponse:
    """Switch a rule on or off, or test its webhook."""
    rule = services.find(int(rule_id), by=request.user)
    back = reverse("rules:detail", args=[rule.pk])
    if action == "test":
        if rule.action != Action.WEBHOOK:
            raise Conflict("the rule calls no webhook")
        call = outside.make(outside_calls.TEST, {"rule_id": rule.pk}, by=request.user)
        return page_answer(request, call, back)
    services.change(rule.pk, {"enabled": action == "on"}, by=request.user)
    messages.success(request, f"{rule}: switched {action}.")
    return redirect("rules:index" if "list" in request.POST else back)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def delete(request: HttpRequest, rule_id: int) -> HttpResponse:
    """Ask before a rule is deleted; a POST deletes it."""
    rule = services.find(rule_id, by=request.user)
    if request.method == "GET":
        context = {"rule": rule, "words": sentences.describe(rule)}
        return render(request, "rules/delete.html", context)
    services.delete(rule.pk, by=request.user)
    messages.success(request, "Rule deleted.")
    return redirect("rules:index")


@login_required
@require_GET
@render_errors
def executions(request: HttpRequest) -> HttpResponse:
    """List executions, newest first; `?before=<id>` continues with older ones."""
    _check(request)
    form = ExecutionsForm(request.GET)
    found = Firing.objects.select_related("rule").order_by("-pk")
    found = found.filter(**form.given()) if form.is_valid() else found.none()
    before = parse_number(request.GET.get("before", ""))
    if before is not None:
        found = found.filter(pk__lt=before)
    shown, has_older = take_page(found, PAGE_SIZE)
    filters = {name: request.GET[name] for name in form.fields if request.GET.get(name)}
    context = {
        "form": form,
        "executions": shown,
        "older": urlencode({**filters, "before": shown[-1].pk}) if has_older else "",
        "newest": urlencode(filters),
        "is_first": before is None,
    }
    return render(request, "rules/executions.html", context)
