"""One page of a list, sorted by the database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import QueryDict

from reef_site.common.lists.sorting import Heading, Sorting

PAGE_SIZE = 100


@dataclass(frozen=True)
class ListPage:
    """The keys of the rows of one page, in their order, and what the template shows around them."""

    page: Page[Any]
    keys: list[Any]
    headings: list[Heading]
    range: Iterable[Any]

    @classmethod
    def of(cls, rows: QuerySet[Any], sorting: Sorting, values: QueryDict) -> ListPage:
        """Return the page `?page=`.

        Only keys are read, so that sorting does not compute what only a page of rows shows.
        """
        paginator = Paginator(sorting.apply(rows).values_list("pk", flat=True), PAGE_SIZE)
        page = paginator.get_page(values.get("page"))
        elided = paginator.get_elided_page_range(page.number, on_each_side=2, on_ends=1)
        return cls(page, list(page.object_list), sorting.headings(values), list(elided))

    def load(self, rows: QuerySet[Any]) -> list[Any]:
        """Return the rows of this page from `rows`, in order."""
        found = {row.pk: row for row in rows.filter(pk__in=self.keys)}
        return [found[key] for key in self.keys if key in found]
