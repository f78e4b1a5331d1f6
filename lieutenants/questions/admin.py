"""Read-only admin of questions. Their page takes answers."""

from __future__ import annotations

from django.contrib import admin

from lieutenants.questions.models import Question
from reef_site.common.admin import ReadOnlyAdmin
from reef_site.common.text import first_words


@admin.register(Question)
class QuestionAdmin(ReadOnlyAdmin):
    """Questions of agents and how they were decided."""

    list_display = ("head", "vm_id", "kind", "source", "state", "decided_by", "created_at")
    list_filter = ("state", "kind", "source", "created_at")
    search_fields = ("=id", "=vm_id", "=lieutenant__name")
    list_select_related = ("lieutenant",)

    @admin.display(description="text")
    def head(self, row: Question) -> str:
        return first_words(row.text, 100)
