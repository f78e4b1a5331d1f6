"""Admin of snapshots: take, verify, pin, compare, preview and restore, download."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.views.decorators.http import require_GET, require_POST

from reef_site.common.admin import ReadOnlyAdmin, apply_to_each
from reef_site.common.errors import BadInput, ReefError
from reef_site.common.text import parse_number
from vmtree import snapshot_downloads, snapshots
from vmtree.snapshot_models import Snapshot, State
from vmtree.snapshots import descriptions
from vmtree.snapshots.tree_diff import Comparison

_LIST = "admin:vmtree_snapshot_changelist"
View = Callable[..., HttpResponseBase]


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    """Snapshots. The permission to change them includes taking and restoring."""

    list_display = (
        "moment",
        "state",
        "why",
        "made_by",
        "vms",
        "bytes",
        "pinned",
        "checked_at",
        "ways",
    )
    list_filter = ("state", "why", "pinned", "began_at")
    search_fields = ("file", "=made_by", "trouble", "sha256")
    search_help_text = "Part of a file's name, of its SHA-256 or of what is wrong with it."
    command_permission = "vmtree.change_snapshot"
    ordering = ("-began_at", "-id")
    actions = ("verify", "pin", "unpin", "compare")

    def get_urls(self) -> list[URLPattern]:
        """Add the pages for comparing and restoring, and the download."""
        pages: list[tuple[str, str, View]] = [
            ("take/", "take", require_POST(self.take_view)),
            ("compare/", "compare", require_GET(self.compare_view)),
            ("<int:key>/restore/", "restore", self.restore_view),
            ("<int:key>/download/", "download", require_GET(self.download_view)),
        ]
        urls = [
            path(
                route,
                self.admin_site.admin_view(self._show_errors(view)),
                name=f"vmtree_snapshot_{name}",
            )
            for route, name, view in pages
        ]
        return [*urls, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Add the button that takes a snapshot, if the user may."""
        may = {"may_take": self.has_command_permission(request)}
        return super().changelist_view(request, {**(extra_context or {}), **may})

    # -- columns -------------------------------------------------------------------------------

    @admin.display(description="moment", ordering="began_at")
    def moment(self, row: Snapshot) -> str:
        """Show the time of the data; of an unfinished snapshot, when it began."""
        return f"{row.at or row.began_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="VMs")
    def vms(self, row: Snapshot) -> str:
        """Show the number of VMs in it."""
        return str(row.counts.get("nodes", "—"))

    @admin.display(description="size", ordering="size")
    def bytes(self, row: Snapshot) -> str:
        return str(filesizeformat(row.size)) if row.size else "—"

    @admin.display(description="more")
    def ways(self, row: Snapshot) -> str:
        """Show links for a ready snapshot, else its problem."""
        if row.state != State.READY:
            return row.trouble or "—"
        compare = f"{reverse('admin:vmtree_snapshot_compare')}?from={row.pk}"
        links = [
            (reverse("admin:vmtree_snapshot_download", args=[row.pk]), "download"),
            (compare, "compare with now"),
            (reverse("admin:vmtree_snapshot_restore", args=[row.pk]), "restore …"),
        ]
        return format_html_join(" · ", '<a href="{}">{}</a>', links)

    # -- actions -------------------------------------------------------------------------------

    @admin.action(description="Verify selected snapshots", permissions=["command"])
    def verify(self, request: HttpRequest, queryset: QuerySet[Snapshot]) -> None:
        apply_to_each(self, request, queryset, partial(_verified, by=request.user))

    @admin.action(
        description="Pin selected snapshots (keep them for ever)", permissions=["command"]
    )
    def pin(self, request: HttpRequest, queryset: QuerySet[Snapshot]) -> None:
        apply_to_each(self, request, queryset, partial(_pinned, by=request.user, pinned=True))

    @admin.action(description="Unpin selected snapshots", permissions=["command"])
    def unpin(self, request: HttpRequest, queryset: QuerySet[Snapshot]) -> None:
        apply_to_each(self, request, queryset, partial(_pinned, by=request.user, pinned=False))

    @admin.action(description="Compare two selected snapshots, or one with now")
    def compare(self, request: HttpRequest, queryset: QuerySet[Snapshot]) -> HttpResponse | None:
        """Redirect to the comparison, from the older to the newer one."""
        keys = list(queryset.order_by("began_at", "pk").values_list("pk", flat=True)[:3])
        if len(keys) > 2:
            self.message_user(request, "Choose one or two snapshots to compare.", messages.ERROR)
            return None
        query = "&".join(f"{word}={key}" for word, key in zip(("from", "to"), keys, strict=False))
        return HttpResponseRedirect(f"{reverse('admin:vmtree_snapshot_compare')}?{query}")

    # -- pages ---------------------------------------------------------------------------------

    def _show_errors(self, view: View) -> View:
        """Wrap a view so that errors become a message above the list."""

        def wrapped(request: HttpRequest, **words: Any) -> HttpResponseBase:
            try:
                return view(request, **words)
            except ReefError as error:
                self.message_user(request, str(error), messages.ERROR)
                return HttpResponseRedirect(reverse(_LIST))

        return wrapped

    def take_view(self, request: HttpRequest) -> HttpResponse:
        self._command(request)
        taken = snapshots.take(by=request.user)
        self.message_user(request, f"Snapshot {taken.snapshot.file} saved.", messages.SUCCESS)
        return HttpResponseRedirect(reverse(_LIST))

    def download_view(self, request: HttpRequest, key: int) -> HttpResponseBase:
        """Send the file, after verifying it."""
        self._view(request)
        return snapshot_downloads.download(request, snapshots.find(key))

    def compare_view(self, request: HttpRequest) -> HttpResponse:
        """Compare `?from=` with `?to=` (ids of snapshots), or with the present without `?to=`."""
        self._view(request)
        old = snapshots.find(_key(request, "from"))
        new = snapshots.find(_key(request, "to")) if request.GET.get("to") else None
        until = self.moment(new) if new else "now"
        title = f"What changed from {self.moment(old)} to {until}"
        return self._page(request, "compare", title, snapshots.compare(old, new))

    def restore_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """GET shows the plan; POST with its `confirm` carries out exactly that plan."""
        self._command(request)
        snapshot = snapshots.find(key)
        if request.method == "POST":
            return self._restore(request, snapshot)
        plan = snapshots.plan(snapshot, by=request.user)
        title = f"Restore the tree of {self.moment(snapshot)}?"
        return self._page(request, "restore", title, plan.comparison, confirm=plan.confirm)

    def _restore(self, request: HttpRequest, snapshot: Snapshot) -> HttpResponse:
        confirm = request.POST.get("confirm", "")
        if not confirm:
            raise BadInput("confirm: look at the comparison first", "confirm")
        done = snapshots.restore(snapshot, confirm=confirm, by=request.user)
        text = "Restored the tree from {}. The previous tree is in {}."
        message = format_html(text, snapshot.file, done.before.file)
        self.message_user(request, message, messages.SUCCESS)
        return HttpResponseRedirect(reverse(_LIST))

    def _page(
        self, request: HttpRequest, name: str, title: str, found: Comparison, **more: str
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "title": title,
            "kinds": descriptions.kinds(found),
            "beside": descriptions.kinds_beside(found),
            "is_empty": found.is_empty,
            **more,
        }
        return TemplateResponse(request, f"admin/vmtree/snapshot/{name}.html", context)

    def _view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _command(self, request: HttpRequest) -> None:
        if not self.has_command_permission(request):
            raise PermissionDenied


def _key(request: HttpRequest, name: str) -> int:
    key = parse_number(request.GET.get(name, ""))
    if key is None:
        raise BadInput(f"{name}: must be the id of a snapshot", name)
    return key


def _verified(row: Snapshot, *, by: object) -> str:
    found = snapshots.verify(row, by=by)
    if found.state != State.READY:
        raise ReefError(found.trouble)
    return "is intact"


def _pinned(row: Snapshot, *, by: object, pinned: bool) -> str:
    snapshots.pin(row, pinned=pinned, by=by)
    return "is pinned" if pinned else "is no longer pinned"
