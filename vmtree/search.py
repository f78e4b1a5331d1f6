"""The search language of `?q=`, the same in API, pages and admin.

`organ:store category:lieutenant under:<id>` and so on filter; other text is searched in names and
ids; text with blanks is quoted. Higher apps register filters of their own in `AppConfig.ready`,
with `add_word`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL

from reef_site.common.errors import BadInput
from vmtree import aliases, lineage
from vmtree.models import LINKS, Category, Node

Nodes = QuerySet[Node]
LONGEST = 1000
# A filter without its value; else an optional filter name and a value, quoted or not.
_TOKEN = re.compile(r'([^\s:"]+:)(?=\s|$)|(?:([^\s:"]+):)?(?:"([^"]*)"?|(\S+))')


@dataclass(frozen=True)
class Word:
    """A filter of the search. A flag stands alone, others take a value after a colon.

    `narrow` takes a QuerySet (of nodes, for filters of the tree) and the value, and returns the
    matching rows. `values` lists all valid values if they are a closed set.
    """

    name: str
    narrow: Callable[[Any, str], Any]
    values: tuple[str, ...] = ()
    flag: bool = False

    def __str__(self) -> str:
        return self.name if self.flag else f"{self.name}:"


_filters: dict[str, Word] = {}


def add_word(filter_: Word, *, also: str = "") -> None:
    """Register a filter, with a second name if it has one."""
    for name in (filter_.name, also):
        if name:
            _filters[name] = filter_


def known_filters() -> Mapping[str, Word]:
    """Return all filters by name."""
    return _filters


def filter_names(known: Mapping[str, Word] | None = None) -> list[str]:
    """Return the names of all filters as users write them."""
    return sorted({str(filter_) for filter_ in (_filters if known is None else known).values()})


def narrow(nodes: Nodes, query: str) -> Nodes:
    """Return the nodes that match the whole query. Raises BadInput that lists the filters."""
    for filter_, value in parse(query, _filters):
        nodes = filter_.narrow(nodes, value) if filter_ else _text(nodes, value)
    return nodes


def parse(query: str, known: Mapping[str, Word]) -> Iterator[tuple[Word | None, str]]:
    """Parse a query into pairs of filter (None for text) and value. Raises BadInput."""
    if len(query) > LONGEST:
        raise BadInput(f"q: at most {LONGEST} characters", "q")
    if "\0" in query:
        raise BadInput("q: has a NUL character, which no name or id has", "q")
    for name, value, is_quoted in _tokenize(query):
        yield _find_filter(name, value, known, is_quoted=is_quoted), value


def has_text(text: str, *columns: str) -> Q:
    """Return a condition: one of these columns contains this text, ignoring case."""
    # SQLite's LIKE ignores case for ASCII only; its regular expressions are Python's.
    plain = text.isascii() or connection.vendor != "sqlite"
    how, value = ("icontains", text) if plain else ("iregex", re.escape(text))
    found = Q()
    for column in columns:
        found |= Q(**{f"{column}__{how}": value})
    return found


def _tokenize(query: str) -> list[tuple[str, str, bool]]:
    """Split into tuples of name before the colon (or empty), value, and whether it was quoted."""
    found = []
    for empty, name, quoted, bare in _TOKEN.findall(query):
        if empty:
            raise BadInput(f'q: "{empty}" needs a value', "q")
        if not name and not quoted and not bare:
            raise BadInput('q: nothing stands behind the quote (")', "q")
        found.append((name, quoted or bare, not bare))
    return found


def _find_filter(
    name: str, value: str, known: Mapping[str, Word], *, is_quoted: bool
) -> Word | None:
    """Return the filter with this name, ignoring case; None for text. Raises BadInput."""
    if not name:
        filter_ = None if is_quoted else known.get(value.lower())
        return filter_ if filter_ and filter_.flag else None
    filter_ = known.get(name.lower())
    if filter_ is None or filter_.flag:
        valid = ", ".join(filter_names(known))
        raise BadInput(f'q: Unknown filter "{name}:". Try {valid} or any text', "q")
    if filter_.values and value not in filter_.values:
        raise BadInput(f"q: {name} is one of {', '.join(filter_.values)}, not {value!r}", "q")
    return filter_


def _text(nodes: Nodes, text: str) -> Nodes:
    return nodes.filter(has_text(text, "name", "vm_id")) if text else nodes


def _under(nodes: Nodes, vm_id: str) -> Nodes:
    top = _key_of("under", vm_id)
    sql = f"{lineage.below(LINKS)} SELECT key FROM line"
    return nodes.filter(pk__in=RawSQL(sql, [top])).exclude(pk=top)  # noqa: S611


def _parent(nodes: Nodes, vm_id: str) -> Nodes:
    return nodes.filter(parent=_key_of("parent", vm_id))


def _key_of(filter_: str, vm_id: str) -> int:
    """Return the key of the VM that a filter names. Removed VMs count: they had children, too."""
    key = Node.objects.filter(vm_id=aliases.resolve(vm_id)).values_list("pk", flat=True).first()
    if key is None:
        raise BadInput(f"q: {filter_}: there is no VM {vm_id!r}", "q")
    return key


add_word(Word("organ", lambda nodes, name: nodes.filter(pk__in=_with("organ", name))))
add_word(
    Word("cap", lambda nodes, name: nodes.filter(pk__in=_with("capability", name))),
    also="capability",
)
add_word(
    Word(
        "category",
        lambda nodes, value: nodes.filter(category=value),
        values=tuple(Category.values),
    )
)
add_word(Word("id", lambda nodes, vm_id: nodes.filter(vm_id=aliases.resolve(vm_id))))
add_word(Word("parent", _parent))
add_word(Word("under", _under))


def _with(kind: str, name: str) -> QuerySet[Node]:
    return Node.objects.with_trait(kind, name).values("pk")  # type: ignore[return-value]
