"""The admin of lieutenants: look at everything, change only what an operator may set.

What agents said and did is never edited here; what is asked of a lieutenant goes through
`services`, as everywhere. Lists stay quick with 100,000 rows: related rows come in the same
statement, no list counts all rows for its own sake, lieutenants are found by their exact name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from lieutenants import figures
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Answer, Entry, Lieutenant, LifeSign, Message, Move, Process, Usage

# Django finds the admin classes of an app in its module `admin`.
from lieutenants.operations.admin import JobAdmin as JobAdmin
from lieutenants.operations.admin import StepAdmin as StepAdmin
from lieutenants.rules.admin import FiringAdmin as FiringAdmin
from lieutenants.rules.admin import RuleAdmin as RuleAdmin
from lieutenants.states import Status
from lieutenants.unknown_agents.admin import UnknownAgentAdmin as UnknownAgentAdmin
from lieutenants.verbs import VERBS, Verb
from reef_site.common.admin import ModelAdmin, ReadOnlyAdmin
from reef_site.common.errors import ReefError
from reef_site.common.text import first_line, first_words

_MAX_TEXT = 100
_MOST_OUTCOMES = 50
OPEN_FIELDS = (
    *("model", "restart_policy", "idle_limit_minutes"),
    *("stall_limit_seconds", "tool_limit_seconds"),
)


class LieutenantRowAdmin(ReadOnlyAdmin):
    """Rows that belong to a lieutenant; `head` is a column for those with a text."""

    list_select_related = ("lieutenant",)

    @admin.display(description="text")
    def head(self, row: Any) -> str:
        return first_words(row.text, _MAX_TEXT)


Action = Callable[["LieutenantAdmin", HttpRequest, QuerySet[Lieutenant]], HttpResponse | None]


def _action(verb: Verb) -> Action:
    @admin.action(description=f"{verb.label} selected lieutenants", permissions=["command"])
    def act(
        model_admin: LieutenantAdmin, request: HttpRequest, queryset: QuerySet[Lieutenant]
    ) -> HttpResponse | None:
        return model_admin.ask(request, queryset, verb)

    act.__name__ = f"{verb.name}_selected"
    return act


@admin.register(Lieutenant)
class LieutenantAdmin(ModelAdmin[Lieutenant]):
    """Lieutenants: limits may be changed, all else is asked of them by actions."""

    list_display = ("name", "status", "status_since", "model", "host", "task_count", "last_active")
    list_filter = ("status", "restart_policy", "host", "created_at")
    search_fields = ("name", "role", "model", "folder")
    date_hierarchy = "created_at"
    list_per_page = 100
    show_full_result_count = False
    actions = tuple(_action(verb) for verb in VERBS.values())
    fieldsets = (
        (None, {"fields": ("name", "role", "status", "status_since", "error", "trouble")}),
        ("May be changed", {"fields": OPEN_FIELDS}),
        ("What belongs to it", {"fields": ("belongings",)}),
        (
            "How it runs",
            {"fields": ("model_in_use", "folder", "host", "transport", "parent_agent")},
        ),
        ("What it was told", {"fields": ("directive", "system_prompt")}),
        ("Dates and counts", {"fields": ("created_at", "last_active", "task_count", "restarts")}),
    )

    def get_readonly_fields(self, _request: HttpRequest, _obj: Any = None) -> tuple[str, ...]:
        """All but the few that an operator sets."""
        shown = flatten_fieldsets(self.fieldsets)
        return tuple(name for name in shown if name not in OPEN_FIELDS)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        """They are made on their own page, which starts their agent."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """A deleted row is not a stopped process: they are destroyed by an action."""
        return False

    def has_command_permission(self, request: HttpRequest) -> bool:
        """Who may ask something of lieutenants."""
        return request.user.has_perm("lieutenants.change_lieutenant")

    def save_model(self, _request: HttpRequest, obj: Lieutenant, form: Any, _change: bool) -> None:
        """Write what was changed and nothing else: the follower writes the same row."""
        if form.changed_data:
            obj.save(update_fields=form.changed_data)

    def view_on_site(self, obj: Lieutenant) -> str:
        """Its own page."""
        return reverse("lieutenants:by-id", args=[obj.pk])

    @admin.display(description="last activity", ordering="last_activity_at")
    def last_active(self, row: Lieutenant) -> Any:
        """When it last said something."""
        return row.last_activity_at

    @admin.display(description="rows")
    def belongings(self, row: Lieutenant) -> str:
        """Lists of what it sent, said and used."""
        lists = ("message", "entry", "answer", "usage", "move", "process")
        return format_html_join(
            " · ",
            '<a href="{}?lieutenant__id__exact={}">{}</a>',
            (
                (reverse(f"admin:lieutenants_{each}_changelist"), row.pk, each.capitalize())
                for each in lists
            ),
        )

    # -- actions -------------------------------------------------------------------------------

    def ask(
        self, request: HttpRequest, queryset: QuerySet[Lieutenant], verb: Verb
    ) -> HttpResponse | None:
        """Ask whether it is meant where the verb says so, then do it to each."""
        chosen = list(queryset.order_by("created_at", "id"))
        sure = request.POST.get("sure") == "yes"
        if not sure and any(verb.asks(each) for each in chosen):
            return self._question(request, chosen, verb)
        self._do(request, chosen, verb, sure=sure)
        return None

    def _question(self, request: HttpRequest, chosen: list[Lieutenant], verb: Verb) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "title": f"{verb.label}?",
            "verb": verb,
            "chosen": chosen,
            "action": request.POST.get("action", ""),
        }
        return TemplateResponse(request, "admin/lieutenants/lieutenant/sure.html", context)

    def _do(
        self, request: HttpRequest, chosen: list[Lieutenant], verb: Verb, *, sure: bool
    ) -> None:
        """Ask each lieutenant, and tell what came of it; one that refuses stops no other."""
        for number, lieutenant in enumerate(chosen):
            level, said = self._one(request, lieutenant, verb, sure=sure)
            if number < _MOST_OUTCOMES:
                self.message_user(request, said, level)
        if (more := len(chosen) - _MOST_OUTCOMES) > 0:
            self.message_user(request, f"{more} more were asked; their status tells the outcome.")

    def _one(
        self, request: HttpRequest, lieutenant: Lieutenant, verb: Verb, *, sure: bool
    ) -> tuple[int, str]:
        # By name, a living lieutenant would answer for its destroyed namesake.
        if lieutenant.status == Status.DESTROYED:
            return messages.WARNING, f"{lieutenant.name}: was destroyed before"
        try:
            return messages.SUCCESS, verb.act(lieutenant.name, str(request.user), sure)
        except ReefError as error:
            return messages.ERROR, f"{lieutenant.name}: {error}"


@admin.register(Message)
class MessageAdmin(LieutenantRowAdmin):
    """What was said to lieutenants."""

    list_display = ("head", "lieutenant", "mode", "state", "actor", "created_at", "decided_at")
    list_filter = ("state", "mode", "created_at")
    search_fields = ("text", "=id", "=lieutenant__name", "=actor")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-id")


@admin.register(Entry)
class EntryAdmin(LieutenantRowAdmin):
    """The transcripts."""

    list_display = ("id", "lieutenant", "kind", "head", "tool", "is_error", "at")
    list_filter = ("kind", "is_error", "final", "at")
    search_fields = ("text", "=tool", "=lieutenant__name")
    ordering = ("-id",)


@admin.register(Answer)
class AnswerAdmin(LieutenantRowAdmin):
    """What agents answered."""

    list_display = ("id", "lieutenant", "outcome", "head", "started_at", "ended_at")
    list_filter = ("outcome", "started_at")
    search_fields = ("text", "=lieutenant__name")
    ordering = ("-id",)


@admin.register(Usage)
class UsageAdmin(LieutenantRowAdmin):
    """Tokens and cost of each call of a model; the list sums up what it shows."""

    list_display = (
        *("at", "lieutenant", "provider", "model", "stop_reason"),
        *("input", "output", "cache_read", "cache_write", "dollars"),
    )
    list_filter = ("provider", "stop_reason", "day")
    search_fields = ("=model", "=lieutenant__name")
    date_hierarchy = "day"
    ordering = ("-id",)

    @admin.display(description="cost ($)", ordering="cost")
    def dollars(self, row: Usage) -> str:
        """With as many digits as such small amounts need."""
        return f"{row.cost:.6f}"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With the sums over all rows that the filters leave."""
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None)
        if context and "cl" in context:
            context["sums"] = figures.Figures.of(context["cl"].queryset.order_by().sums())
        return response


@admin.register(Move)
class MoveAdmin(LieutenantRowAdmin):
    """Changes of status, with their reasons."""

    list_display = ("at", "lieutenant", "old", "new", "why", "actor")
    list_filter = ("new", "at")
    search_fields = ("reason", "=lieutenant__name", "=actor")
    date_hierarchy = "at"
    ordering = ("-id",)

    @admin.display(description="reason")
    def why(self, row: Move) -> str:
        """The reason's first line."""
        return first_line(row.reason, _MAX_TEXT)


@admin.register(Process)
class ProcessAdmin(LieutenantRowAdmin):
    """Lives of agents' processes."""

    list_display = ("pids", "lieutenant", "host", "agent", "started_at", "ended_at", "end_reason")
    list_filter = ("host", "transport", "started_at", "ended_at")
    search_fields = ("=id", "=lieutenant__name")
    ordering = ("-started_at", "-id")

    @admin.display(description="pid")
    def pids(self, row: Process) -> str:
        """The agent's, and its keeper's."""
        agent, keeper = row.handle.get("agent_pid", "—"), row.handle.get("keeper_pid", "—")
        return format_html("{} (supervisor {})", agent, keeper)


@admin.register(LifeSign)
class LifeSignAdmin(ReadOnlyAdmin):
    """When each part of reef was last seen alive."""

    list_display = ("who", "at")


@admin.register(DataFolder)
class DataFolderAdmin(ReadOnlyAdmin):
    """The data folders that lieutenants belong to; see the page Hosts."""

    list_display = ("host", "path", "id", "seen_at")
