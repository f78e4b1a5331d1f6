"""Admin of lifecycle rules: edit rules, show a dry run, list executions."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from reef_site.common import clock
from reef_site.common.admin import BodyForm, ModelAdmin, ReadOnlyAdmin, apply_to_each
from reef_site.common.text import clip
from registry.rules import engine, services
from registry.rules.models import Action, Firing, Rule
from registry.rules.serializers import RuleChangeBody


class RuleForm(BodyForm[Rule]):
    """Form of a rule with a write-only field for the webhook secret."""

    body = RuleChangeBody

    webhook_secret = forms.CharField(
        required=False,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Signs webhook calls. Leave empty to keep the current secret.",
    )

    def clean(self) -> dict[str, Any]:
        """Require a secret if the action is a webhook."""
        data = super().clean() or self.cleaned_data
        needs = data.get("action") == Action.WEBHOOK
        if needs and not data.get("webhook_secret") and not self.instance.sealed_secret:
            self.add_error("webhook_secret", "is required for a webhook")
        return data


@admin.register(Rule)
class RuleAdmin(ModelAdmin[Rule]):
    """Edit rules; the dry run has a page of its own."""

    form = RuleForm
    list_display = ("name", "enabled", "sentence", "dry_run_link")
    list_filter = ("enabled", "event", "action")
    search_fields = ("name", "about", "name_pattern")
    actions = ("switch_on", "switch_off")
    fieldsets = (
        (None, {"fields": ("name", "about", "enabled")}),
        ("When", {"fields": ("event", "minutes", "role", "category", "name_pattern")}),
        ("Then", {"fields": ("action", "grace_minutes", "most_an_hour", "text")}),
        ("Webhook", {"fields": ("webhook_url", "webhook_secret")}),
    )

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin, including the dry run page."""
        view = self.admin_site.admin_view(self.dry_run_view)
        mine = path("<int:rule_id>/dry-run/", view, name="rules_rule_dry_run")
        return [mine, *super().get_urls()]

    @admin.display(description="dry run")
    def dry_run_link(self, row: Rule) -> str:
        """Return a link to the dry run."""
        url = reverse("admin:rules_rule_dry_run", args=[row.pk])
        return format_html('<a href="{}">Dry run</a>', url)

    def save_model(self, _request: HttpRequest, obj: Rule, form: Any, change: bool) -> None:
        """Save the rule and its encrypted secret; events before the change do not count."""
        if key := form.cleaned_data.get("webhook_secret"):
            obj.set_secret(key)
        old = Rule.objects.filter(pk=obj.pk).first() if change else None
        services.ignore_earlier_events(obj, bool(old and old.enabled), old.event if old else "")
        obj.updated_at = clock.now()
        obj.save()

    @admin.action(description="Enable selected rules", permissions=["change"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Rule]) -> None:
        """Enable the selected rules; earlier events do not count."""
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable selected rules", permissions=["change"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Rule]) -> None:
        """Disable the selected rules; their waiting executions are dropped."""
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Rule], *, enabled: bool) -> None:
        def switch(rule: Rule) -> str:
            services.change(rule.pk, {"enabled": enabled}, by=request.user)
            return "enabled" if enabled else "disabled"

        apply_to_each(self, request, queryset, switch)

    def dry_run_view(self, request: HttpRequest, rule_id: int) -> HttpResponse:
        """Show what the rule would do now; changes nothing."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rule = self.get_queryset(request).filter(pk=rule_id).first()
        if rule is None:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "title": f"Dry run of “{rule}”",
            "rule": rule,
            "run": engine.dry_run(rule),
        }
        return TemplateResponse(request, "admin/rules/rule/dry_run.html", context)


@admin.register(Firing)
class FiringAdmin(ReadOnlyAdmin):
    """Firings: past and pending executions of rules, with the evidence."""

    list_display = (
        "at",
        "rule_name",
        "vm",
        "action",
        "state",
        "outcome_start",
        "attempts",
        "ended_at",
    )
    list_filter = ("state", "action", "event", "at")
    search_fields = ("=rule_name", "=subject", "subject_name")
    ordering = ("-id",)

    @admin.display(description="VM", ordering="subject")
    def vm(self, row: Firing) -> str:
        """Return the name of the VM, or its id."""
        return row.subject_name or row.subject

    @admin.display(description="outcome")
    def outcome_start(self, row: Firing) -> str:
        """Return the beginning of the outcome."""
        return clip(row.outcome, 120)
