"""The admin of lifecycle rules: to write them, to see what one would do, and what they did."""

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

from lieutenants.rules import firing, services
from lieutenants.rules.models import Action, Firing, Rule
from reef_site.common import clock
from reef_site.common.admin import ModelAdmin, ModelForm, ReadOnlyAdmin, apply_to_each
from reef_site.common.text import clip


class RuleForm(ModelForm[Rule]):
    """A rule, and a field for its secret that never shows it."""

    webhook_secret = forms.CharField(
        required=False,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Webhooks are signed with it. Empty keeps the one that is set.",
    )

    def clean(self) -> dict[str, Any]:
        """A webhook has a secret."""
        data = super().clean() or self.cleaned_data
        needs = data.get("action") == Action.WEBHOOK
        if needs and not data.get("webhook_secret") and not self.instance.sealed_secret:
            self.add_error("webhook_secret", "is required for a webhook")
        return data


@admin.register(Rule)
class RuleAdmin(ModelAdmin[Rule]):
    """Rules are written here; what one would do stands on a page of its own."""

    form = RuleForm
    list_display = ("name", "enabled", "sentence", "would")
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
        """With the dry run's page."""
        view = self.admin_site.admin_view(self.dry_run_view)
        mine = path("<int:rule_id>/dry-run/", view, name="lieutenants_rule_dry_run")
        return [mine, *super().get_urls()]

    @admin.display(description="now")
    def would(self, row: Rule) -> str:
        """The way to its dry run."""
        url = reverse("admin:lieutenants_rule_dry_run", args=[row.pk])
        return format_html('<a href="{}">what it would do</a>', url)

    def save_model(self, _request: HttpRequest, obj: Rule, form: Any, change: bool) -> None:
        """With its secret sealed, and what happened before it was so left alone."""
        if key := form.cleaned_data.get("webhook_secret"):
            obj.set_secret(key)
        old = Rule.objects.filter(pk=obj.pk).first() if change else None
        services.watch_anew(obj, bool(old and old.enabled), old.event if old else "")
        obj.updated_at = clock.now()
        obj.save()

    @admin.action(description="Switch selected rules on", permissions=["change"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Rule]) -> None:
        """They watch from now on."""
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Switch selected rules off", permissions=["change"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Rule]) -> None:
        """What waits of them is dropped."""
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Rule], *, enabled: bool) -> None:
        def switch(rule: Rule) -> str:
            services.change(rule.pk, {"enabled": enabled}, by=request.user)
            return f"is {'on' if enabled else 'off'}"

        apply_to_each(self, request, queryset, switch)

    def dry_run_view(self, request: HttpRequest, rule_id: int) -> HttpResponse:
        """What this rule would do now; changes nothing."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rule = self.get_queryset(request).filter(pk=rule_id).first()
        if rule is None:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "title": f"What “{rule}” would do now",
            "rule": rule,
            "run": firing.dry_run(rule),
        }
        return TemplateResponse(request, "admin/lieutenants/rule/dry_run.html", context)


@admin.register(Firing)
class FiringAdmin(ReadOnlyAdmin):
    """What rules did, with the evidence."""

    list_display = ("at", "rule_name", "who", "action", "state", "head", "attempts", "ended_at")
    list_filter = ("state", "action", "event", "at")
    search_fields = ("=rule_name", "=subject", "subject_name")
    ordering = ("-id",)

    @admin.display(description="VM", ordering="subject")
    def who(self, row: Firing) -> str:
        """Its name, else its id."""
        return row.subject_name or row.subject

    @admin.display(description="outcome")
    def head(self, row: Firing) -> str:
        """The outcome's first words."""
        return clip(row.outcome, 120)
