"""Admin of the tree.

Nodes are changed through `services`; revisions and tokens are read-only. Lists stay fast with
100,000 rows: parents are joined, rows are counted once, and the search is that of the tree
(`organ:store category:lieutenant under:<id>`, or text).
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from reef_site.common.admin import ModelAdmin, ModelForm, ReadOnlyAdmin
from reef_site.common.errors import ReefError
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.recording import NewEvent
from vmtree import names as vm_names
from vmtree import search, services, tokens
from vmtree.dna import parse_dna
from vmtree.lineage import is_within
from vmtree.models import LINKS, Node, NodeToken, Revision
from vmtree.services import UNCHANGED, NodeChange
from vmtree.snapshot_admin import SnapshotAdmin as SnapshotAdmin


class NodeForm(ModelForm[Node]):
    """The editable fields of a node, with the same checks as `services.change`."""

    class Meta:
        model = Node
        fields = ("name", "category", "parent", "reef_config")

    def clean_name(self) -> str:
        """Reject invisible characters in a changed name; an old name may keep them."""
        given: str = self.cleaned_data["name"]
        if given != self.initial.get("name"):
            try:
                vm_names.check(given)
            except ReefError as error:
                raise forms.ValidationError(str(error)) from None
        return given

    def clean_reef_config(self) -> Any:
        """Return the DNA as two lists of text, or None."""
        given = self.cleaned_data["reef_config"]
        try:
            return None if given is None else parse_dna(given)
        except ReefError as error:
            raise forms.ValidationError(str(error)) from None

    def clean_parent(self) -> Node | None:
        """Reject a removed parent, the node itself and its descendants."""
        parent: Node | None = self.cleaned_data["parent"]
        if parent and parent.removed_at:
            raise forms.ValidationError("This VM was removed.")
        if parent and is_within(LINKS, parent.pk, self.instance.pk):
            raise forms.ValidationError("This VM is the same one or below it.")
        return parent


class RemovedFilter(admin.SimpleListFilter):
    """Shows only active nodes by default."""

    title = "removed"
    parameter_name = "removed"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Removed"), ("both", "Active and removed")]

    def choices(self, changelist: Any) -> Any:
        """Relabel Django's "All" choice: without a choice only active nodes are listed."""
        first, *others = super().choices(changelist)
        return [{**first, "display": "Active"}, *others]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Node]) -> QuerySet[Node]:
        if self.value() == "both":
            return queryset
        return queryset.filter(removed_at__isnull=self.value() != "yes")


@admin.register(Node)
class NodeAdmin(ModelAdmin[Node]):
    """Nodes of the tree. Removed nodes are read-only."""

    form = NodeForm
    list_display = ("vm_id", "shown_name", "category", "parent", "dna", "created_at", "removed_at")
    list_filter = (RemovedFilter, "category", "created_at", "updated_at")
    list_select_related = ("parent",)
    list_per_page = 100
    show_full_result_count = False
    # Makes Django show the search box; `get_search_results` does the search.
    search_fields = ("vm_id",)
    search_help_text = "Text in names and ids, or filters such as organ:store under:<id>."
    ordering = ("created_at", "id")
    raw_id_fields = ("parent",)
    fields = (
        *("vm_id", "name", "category", "parent", "reef_config"),
        *("belongings", "created_at", "updated_at", "removed_at"),
    )
    readonly_fields = ("vm_id", "belongings", "created_at", "updated_at", "removed_at")
    actions = ("revoke_tokens",)

    def has_add_permission(self, _request: HttpRequest) -> bool:
        """Return False: nodes are created by registration, provisioning or the API."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Return False: a deleted row is not a destroyed VM, and its id must stay reserved."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse changes of removed nodes."""
        return super().has_change_permission(request, obj) and not (obj and obj.removed_at)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Node], search_term: str
    ) -> tuple[QuerySet[Node], bool]:
        """Search with the filters of the tree; show an error message for an unknown filter."""
        try:
            return search.narrow(queryset, search_term), False
        except ReefError as error:
            self.message_user(request, str(error), messages.ERROR)
            return queryset.none(), False

    def save_model(self, request: HttpRequest, obj: Node, form: Any, _change: bool) -> None:
        """Change only the edited fields, through `services.change`, which records a revision."""
        changed = set(form.changed_data)
        changes = NodeChange(
            name=obj.name if "name" in changed else UNCHANGED,
            category=obj.category if "category" in changed else UNCHANGED,
            dna=obj.reef_config if "reef_config" in changed else UNCHANGED,
            parent_vm_id=obj.parent_vm_id if "parent" in changed else UNCHANGED,
        )
        try:
            services.change(obj.vm_id, changes, by=request.user)
        except ReefError as error:
            # The form was valid, so another request changed the tree meanwhile.
            self.message_user(request, f"Nothing was changed: {error}", messages.ERROR)

    @admin.display(description="name", ordering="name")
    def shown_name(self, row: Node) -> str:
        return vm_names.marked(row.name)

    @admin.display(description="DNA")
    def dna(self, row: Node) -> str:
        """Show organs, then capabilities."""
        return format_html("{} · {}", ", ".join(row.organs) or "—", ", ".join(row.capabilities))

    @admin.display(description="rows")
    def belongings(self, row: Node) -> str:
        """Link to the children, revisions and tokens of the node."""
        lists = (("node", "parent__id", "children"), ("revision", "node__id", "history"))
        return format_html_join(
            " · ",
            '<a href="{}?{}__exact={}">{}</a>',
            (
                (reverse(f"admin:vmtree_{model}_changelist"), field, row.pk, label)
                for model, field, label in (*lists, ("nodetoken", "node__id", "tokens"))
            ),
        )

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """Allow filtering by parent, which the link to the children uses."""
        return lookup == "parent__id__exact" or super().lookup_allowed(lookup, value, request)

    @admin.action(description="Revoke tokens of selected VMs and below", permissions=["change"])
    def revoke_tokens(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        count = sum(tokens.revoke(node, by=request.user) for node in queryset)
        self.message_user(request, f"Revoked {count} tokens.")


@admin.register(Revision)
class RevisionAdmin(ReadOnlyAdmin):
    """Revisions of all nodes."""

    list_display = ("at", "node", "what", "actor", "shown_name", "category", "parent_vm_id", "dna")
    list_filter = ("what", "category", "at")
    list_select_related = ("node",)
    search_fields = ("=node__vm_id", "=actor", "=parent_vm_id", "^name")
    search_help_text = "The id of a VM or of its parent, an actor, or how a VM's name begins."
    ordering = ("-id",)

    @admin.display(description="name", ordering="name")
    def shown_name(self, row: Revision) -> str:
        return vm_names.marked(row.name)

    @admin.display(description="DNA")
    def dna(self, row: Revision) -> str:
        """Show organs, then capabilities, of this revision."""
        kept = row.reef_config or {}
        organs, capabilities = kept.get("organs", []), kept.get("capabilities", [])
        return format_html("{} · {}", ", ".join(organs) or "—", ", ".join(capabilities))


@admin.register(NodeToken)
class NodeTokenAdmin(ReadOnlyAdmin):
    """Times at which tokens were issued and revoked; only their hashes are stored."""

    list_display = ("node", "made_at", "made_by", "revoked_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "made_at")
    list_select_related = ("node",)
    search_fields = ("=node__vm_id", "=made_by")
    ordering = ("-id",)
    actions = ("revoke",)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Require the permission to change nodes."""
        return request.user.has_perm("vmtree.change_node")

    @admin.action(description="Revoke selected tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[NodeToken]) -> None:
        """Revoke all tokens of the nodes of the selected rows."""
        nodes = dict(queryset.values_list("node", "node__vm_id"))
        with transaction.atomic():
            count = tokens.revoke_all(sorted(nodes))
            revoked = [NewEvent("tree.tokens-revoked", vm_id) for vm_id in nodes.values()]
            recording.record_many(revoked, actor=request.user)
        self.message_user(request, f"Revoked {count} tokens.")
