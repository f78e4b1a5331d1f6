"""Admin of lieutenants: read everything, change only the settings that an operator may set.

Transcripts are read-only; actions go through `services`. Lists stay fast with 100,000 rows: related
rows are joined, rows are not counted, lieutenants are found by their exact name.
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

from lieutenants.actions import ACTIONS, LieutenantAction
from lieutenants.hosts.models import DataFolder
from lieutenants.models import (
    Answer,
    Entry,
    Lieutenant,
    LifeSign,
    MadeVM,
    Message,
    MessageImage,
    Move,
    Process,
    Usage,
)
from lieutenants.questions.admin import QuestionAdmin as QuestionAdmin
from lieutenants.states import Status
from lieutenants.transcript import usage_summary
from lieutenants.unknown_agents.admin import UnknownAgentAdmin as UnknownAgentAdmin
from reef_site.common.admin import ModelAdmin, ReadOnlyAdmin, RecentValuesFilter
from reef_site.common.errors import ReefError
from reef_site.common.text import first_line, first_words

_PREVIEW_LENGTH = 100
_MAX_REPORTED = 50
EDITABLE_FIELDS = (
    *("model", "restart_policy", "idle_limit_minutes"),
    *("stall_limit_seconds", "tool_limit_seconds", "dialog_limit_seconds"),
    *("limit_action", "sign_period_seconds", "sign_grace_seconds"),
)


class LieutenantRowAdmin(ReadOnlyAdmin):
    """Rows that belong to a lieutenant; `head` is a column for those with a text."""

    list_select_related = ("lieutenant",)

    @admin.display(description="text")
    def head(self, row: Any) -> str:
        return first_words(row.text, _PREVIEW_LENGTH)


Action = Callable[["LieutenantAdmin", HttpRequest, QuerySet[Lieutenant]], HttpResponse | None]


def _action(action: LieutenantAction) -> Action:
    @admin.action(description=f"{action.label} selected lieutenants", permissions=["command"])
    def act(
        model_admin: LieutenantAdmin, request: HttpRequest, queryset: QuerySet[Lieutenant]
    ) -> HttpResponse | None:
        return model_admin.run_action(request, queryset, action)

    act.__name__ = f"{action.name}_selected"
    return act


@admin.register(Lieutenant)
class LieutenantAdmin(ModelAdmin[Lieutenant]):
    """Lieutenants: limits can be edited, everything else is done by actions."""

    list_display = ("name", "status", "status_since", "model", "host", "task_count", "last_active")
    list_filter = ("status", "transport", "restart_policy", "host", "created_at")
    search_fields = ("name", "role", "model", "folder")
    list_per_page = 100
    show_full_result_count = False
    actions = tuple(_action(action) for action in ACTIONS.values())
    fieldsets = (
        (None, {"fields": ("name", "role", "status", "status_since", "error", "trouble")}),
        ("Settings", {"fields": EDITABLE_FIELDS}),
        ("Related rows", {"fields": ("related_rows",)}),
        (
            "Runtime",
            {
                "fields": (
                    "agent",
                    "command",
                    "agent_options",
                    "model_in_use",
                    "folder",
                    "host",
                    "transport",
                    "ssh_host",
                    "on_vm",
                    "parent_agent",
                )
            },
        ),
        ("Instructions", {"fields": ("directive", "system_prompt")}),
        ("Dates and counts", {"fields": ("created_at", "last_active", "task_count", "restarts")}),
    )

    def get_readonly_fields(self, _request: HttpRequest, _obj: Any = None) -> tuple[str, ...]:
        """Return all fields except EDITABLE_FIELDS."""
        shown = flatten_fieldsets(self.fieldsets)
        return tuple(name for name in shown if name not in EDITABLE_FIELDS)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        """Return False: their own page creates lieutenants and starts their agents."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Return False: deleting a row would not stop a process. Use the action instead."""
        return False

    def has_command_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run actions on lieutenants."""
        return request.user.has_perm("lieutenants.change_lieutenant")

    def save_model(self, _request: HttpRequest, obj: Lieutenant, form: Any, _change: bool) -> None:
        """Save only changed fields, because the follower writes the same row."""
        if form.changed_data:
            obj.save(update_fields=form.changed_data)

    def view_on_site(self, obj: Lieutenant) -> str:
        """Return the URL of its page."""
        return reverse("lieutenants:by-id", args=[obj.pk])

    @admin.display(description="last activity", ordering="last_activity_at")
    def last_active(self, row: Lieutenant) -> Any:
        """Return the time of its last activity."""
        return row.last_activity_at

    @admin.display(description="rows")
    def related_rows(self, row: Lieutenant) -> str:
        """Return links to its messages, transcript, usage and other rows."""
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

    def run_action(
        self, request: HttpRequest, queryset: QuerySet[Lieutenant], action: LieutenantAction
    ) -> HttpResponse | None:
        """Run an action on the selected lieutenants, after a confirmation if it needs one."""
        chosen = list(queryset.order_by("created_at", "id"))
        confirmed = request.POST.get("sure") == "yes"
        if not confirmed and any(action.needs_confirmation(each) for each in chosen):
            return self._confirmation(request, chosen, action)
        self._run(request, chosen, action, confirmed=confirmed)
        return None

    def _confirmation(
        self, request: HttpRequest, chosen: list[Lieutenant], action: LieutenantAction
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "title": f"{action.label}?",
            "action": action,
            "chosen": chosen,
            "action_name": request.POST.get("action", ""),
        }
        return TemplateResponse(request, "admin/lieutenants/lieutenant/sure.html", context)

    def _run(
        self,
        request: HttpRequest,
        chosen: list[Lieutenant],
        action: LieutenantAction,
        *,
        confirmed: bool,
    ) -> None:
        """Run the action on each lieutenant and report the outcomes, errors included."""
        for number, lieutenant in enumerate(chosen):
            level, text = self._run_one(request, lieutenant, action, confirmed=confirmed)
            if number < _MAX_REPORTED:
                self.message_user(request, text, level)
        if (more := len(chosen) - _MAX_REPORTED) > 0:
            self.message_user(request, f"{more} more: see their status for the outcome.")

    def _run_one(
        self,
        request: HttpRequest,
        lieutenant: Lieutenant,
        action: LieutenantAction,
        *,
        confirmed: bool,
    ) -> tuple[int, str]:
        # A name would select the active lieutenant of the same name instead.
        if lieutenant.status == Status.DESTROYED:
            return messages.WARNING, f"{lieutenant.name}: was destroyed before"
        try:
            return messages.SUCCESS, action.act(lieutenant.name, request.user, confirmed)
        except ReefError as error:
            return messages.ERROR, f"{lieutenant.name}: {error}"


@admin.register(Message)
class MessageAdmin(LieutenantRowAdmin):
    """Messages to lieutenants."""

    list_display = ("head", "lieutenant", "mode", "state", "actor", "created_at", "decided_at")
    list_filter = ("state", "mode", "created_at")
    search_fields = ("text", "=id", "=lieutenant__name", "=actor")
    ordering = ("-created_at", "-id")


@admin.register(MessageImage)
class MessageImageAdmin(ReadOnlyAdmin):
    """Images that were sent with messages."""

    list_display = ("message", "number", "media_type", "size", "shown")
    list_select_related = ("message",)
    list_filter = ("media_type",)
    search_fields = ("=message__id", "=message__lieutenant__name")
    exclude = ("data",)
    ordering = ("-message", "number")

    def get_queryset(self, request: HttpRequest) -> QuerySet[MessageImage]:
        return super().get_queryset(request).defer("data")

    @admin.display(description="image")
    def shown(self, row: MessageImage) -> str:
        """Return a link to the image."""
        parts = [row.message.lieutenant_id, row.message_id, row.number]
        return format_html('<a href="{}">Show</a>', reverse("lieutenants:image", args=parts))


@admin.register(Entry)
class EntryAdmin(LieutenantRowAdmin):
    """Transcript entries."""

    list_display = ("id", "lieutenant", "kind", "head", "tool", "is_error", "at")
    list_filter = ("kind", "is_error", "final", "at")
    search_fields = ("text", "=tool", "=lieutenant__name")
    ordering = ("-id",)


@admin.register(Answer)
class AnswerAdmin(LieutenantRowAdmin):
    """Answers of agents."""

    list_display = ("id", "lieutenant", "outcome", "head", "started_at", "ended_at")
    list_filter = ("outcome", "started_at")
    search_fields = ("text", "=lieutenant__name")
    ordering = ("-id",)


@admin.register(Usage)
class UsageAdmin(LieutenantRowAdmin):
    """Tokens and cost of each model call, with sums below the list."""

    list_display = (
        *("at", "lieutenant", "provider", "model", "stop_reason"),
        *("input", "output", "cache_read", "cache_write", "dollars"),
    )
    list_filter = (("provider", RecentValuesFilter), ("stop_reason", RecentValuesFilter), "day")
    search_fields = ("=model", "=lieutenant__name")
    ordering = ("-id",)

    @admin.display(description="cost ($)", ordering="cost")
    def dollars(self, row: Usage) -> str:
        """Return the cost with six decimal places: single calls are cheap."""
        return f"{row.cost:.6f}"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Add the sums over all filtered rows."""
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None)
        if context and "cl" in context:
            context["sums"] = usage_summary.UsageSummary.of(
                context["cl"].queryset.order_by().sums()
            )
        return response


@admin.register(Move)
class MoveAdmin(LieutenantRowAdmin):
    """Status transitions with their reasons."""

    list_display = ("at", "lieutenant", "old", "new", "why", "actor")
    list_filter = ("new", "at")
    search_fields = ("reason", "=lieutenant__name", "=actor")
    ordering = ("-id",)

    @admin.display(description="reason")
    def why(self, row: Move) -> str:
        """Return the first line of the reason."""
        return first_line(row.reason, _PREVIEW_LENGTH)


@admin.register(Process)
class ProcessAdmin(LieutenantRowAdmin):
    """Processes of agents."""

    list_display = ("pids", "lieutenant", "host", "agent", "started_at", "ended_at", "end_reason")
    list_filter = (
        ("host", RecentValuesFilter),
        ("transport", RecentValuesFilter),
        "started_at",
        "ended_at",
    )
    search_fields = ("=id", "=lieutenant__name")
    ordering = ("-started_at", "-id")

    @admin.display(description="pid")
    def pids(self, row: Process) -> str:
        """Return the pids of the agent and of its supervisor."""
        agent, keeper = row.handle.get("agent_pid", "—"), row.handle.get("keeper_pid", "—")
        return format_html("{} (supervisor {})", agent, keeper)


@admin.register(MadeVM)
class MadeVMAdmin(ReadOnlyAdmin):
    """The VMs that were made for lieutenants."""

    list_display = ("lieutenant", "provisioning", "on_failure", "prepared_at", "removed_at")
    list_select_related = ("lieutenant", "provisioning")
    search_fields = ("lieutenant__name", "provisioning__vm_id")


@admin.register(LifeSign)
class LifeSignAdmin(ReadOnlyAdmin):
    """Last heartbeat of each part of reef."""

    list_display = ("who", "at")


@admin.register(DataFolder)
class DataFolderAdmin(ReadOnlyAdmin):
    """Data folders that lieutenants belong to; see the page Hosts."""

    list_display = ("host", "path", "id", "seen_at", "is_draining")
