"""Columns of a list, and the order that `?sort=` asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F, QuerySet
from django.db.models.expressions import OrderBy
from django.http import QueryDict

from reef_site.common.page_values import text_value

PARAMETER = "sort"
# Another order begins on the first page, and pages have no other place in the tree.
_DROPPED = ("page", "after", "place")


@dataclass(frozen=True)
class Column:
    """A column of a list. Without `fields` it cannot be sorted by.

    `fields` are ordered in the direction that the column is sorted in, and then by primary key, so
    that rows with equal values stay in place. Rows without a value in a `nullable` column come
    last. `annotate` adds the fields that the model does not have.
    """

    key: str
    label: str
    fields: tuple[str, ...] = ()
    is_descending_first: bool = False
    nullable: bool = False
    annotate: Callable[[QuerySet[Any]], QuerySet[Any]] = lambda rows: rows
    css: str = ""


@dataclass(frozen=True)
class Heading:
    """The heading of a column: a link that sorts by it. Without a query it is plain text."""

    label: str
    css: str
    query: str = ""
    # The value of `aria-sort`; empty if the list is not sorted by this column.
    direction: str = ""


@dataclass(frozen=True)
class Sorting:
    """The order of a list: one of its columns, in one direction."""

    columns: Sequence[Column]
    column: Column
    is_descending: bool

    @classmethod
    def of(cls, values: QueryDict, columns: Sequence[Column], default: str) -> Sorting:
        """Return the order in `?sort=`, or the default one if that is not valid.

        Both are the key of a column, with a minus before it for the descending order.
        """
        known = {each.key: each for each in columns if each.fields}
        asked = text_value(values, PARAMETER, 40)
        word = asked if asked.removeprefix("-") in known else default
        return cls(columns, known[word.removeprefix("-")], word.startswith("-"))

    @property
    def word(self) -> str:
        """The order as in `?sort=`."""
        return f"-{self.column.key}" if self.is_descending else self.column.key

    def apply(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows in this order."""
        return self.column.annotate(rows).order_by(*self.expressions())

    def expressions(self) -> list[OrderBy]:
        """Return what the rows are ordered by, once they have the column's annotations."""
        nullable = self.column.nullable
        fields = [self._order_of(name, nullable=nullable) for name in self.column.fields]
        return [*fields, self._order_of("pk")]

    def _order_of(self, name: str, *, nullable: bool = False) -> OrderBy:
        last = True if nullable else None
        field = F(name)
        return field.desc(nulls_last=last) if self.is_descending else field.asc(nulls_last=last)

    def headings(self, values: QueryDict) -> list[Heading]:
        """Return the headings; a link to the column that is sorted by reverses the order."""
        return [self._heading(each, values) for each in self.columns]

    def _heading(self, column: Column, values: QueryDict) -> Heading:
        if not column.fields:
            return Heading(column.label, column.css)
        is_mine = column == self.column
        descends = not self.is_descending if is_mine else column.is_descending_first
        query = values.copy()
        for name in _DROPPED:
            query.pop(name, None)
        query[PARAMETER] = f"-{column.key}" if descends else column.key
        direction = ("descending" if self.is_descending else "ascending") if is_mine else ""
        return Heading(column.label, column.css, query.urlencode(), direction)
