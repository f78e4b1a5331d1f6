"""The search language of `?q=`, the same in API, pages and admin.

`organ:store category:lieutenant under:<id>` and so on filter; other text is searched in names and
ids; text with blanks is quoted. Higher apps add terms to `search_terms`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet

from reef_site.common.errors import BadInput
from reef_site.common.hooks import Hook
from vmtree import aliases
from vmtree.models import LINKS, Category, Node
from vmtree.queries import recursion

Nodes = QuerySet[Node]
LONGEST = 1000
# A term without its value; else an optional term and a value, quoted or not.
_TOKEN = re.compile(r'([^\s:"]+:)(?=\s|$)|(?:([^\s:"]+):)?(?:"([^"]*)"?|(\S+))')


@dataclass(frozen=True)
class Term:
    """A term of the search. A flag stands alone, others take a value after a colon.

    `narrow` takes rows (nodes, for terms of the tree) and the value, and returns the rows that
    match. `values` are the allowed values; empty allows any.
    """

    name: str
    narrow: Callable[[Any, str], Any]
    values: tuple[str, ...] = ()
    flag: bool = False

    def __str__(self) -> str:
        return self.name if self.flag else f"{self.name}:"


search_terms: Hook[Term] = Hook(
    "tree.search_terms", "Terms of the search over the tree, by the names that a query may use."
)


def spellings(terms: Iterable[Term]) -> list[str]:
    """Return the terms as they are written in a query, sorted."""
    return sorted({str(term) for term in terms})


def narrow(nodes: Nodes, query: str) -> Nodes:
    """Return the nodes that match the whole query. Raises BadInput that lists the terms."""
    for term, value in parse(query, dict(search_terms.items())):
        nodes = term.narrow(nodes, value) if term else _text(nodes, value)
    return nodes


def parse(query: str, terms: Mapping[str, Term]) -> Iterator[tuple[Term | None, str]]:
    """Yield the terms of a query (None for text) with their values. Raises BadInput."""
    if len(query) > LONGEST:
        raise BadInput(f"q: at most {LONGEST} characters", "q")
    if "\0" in query:
        raise BadInput("q: has a NUL character, which no name or id has", "q")
    for name, value, is_quoted in _tokenize(query):
        yield _term(name, value, terms, is_quoted=is_quoted), value


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


def _term(name: str, value: str, terms: Mapping[str, Term], *, is_quoted: bool) -> Term | None:
    """Return the term with this name, ignoring case; None for text. Raises BadInput."""
    if not name:
        term = None if is_quoted else terms.get(value.lower())
        return term if term and term.flag else None
    term = terms.get(name.lower())
    if term is None or term.flag:
        valid = ", ".join(spellings(terms.values()))
        raise BadInput(f'q: Unknown filter "{name}:". Try {valid} or any text', "q")
    if term.values and value not in term.values:
        raise BadInput(f"q: {name} is one of {', '.join(term.values)}, not {value!r}", "q")
    return term


def _text(nodes: Nodes, text: str) -> Nodes:
    return nodes.filter(has_text(text, "name", "vm_id")) if text else nodes


def _under(nodes: Nodes, vm_id: str) -> Nodes:
    top = _key_of("under", vm_id)
    return nodes.filter(pk__in=recursion.descendants(LINKS, top)).exclude(pk=top)


def _parent(nodes: Nodes, vm_id: str) -> Nodes:
    return nodes.filter(parent=_key_of("parent", vm_id))


def _key_of(term: str, vm_id: str) -> int:
    """Return the key of the VM that a term names. Removed VMs count: they had children, too."""
    key = Node.objects.filter(vm_id=aliases.resolve(vm_id)).values_list("pk", flat=True).first()
    if key is None:
        raise BadInput(f"q: {term}: there is no VM {vm_id!r}", "q")
    return key


def _with(kind: str, name: str) -> QuerySet[Node]:
    return Node.objects.with_trait(kind, name).values("pk")  # type: ignore[return-value]


def _category(nodes: Nodes, value: str) -> Nodes:
    return nodes.filter(category=value)


_capability = Term("cap", lambda nodes, name: nodes.filter(pk__in=_with("capability", name)))
_OWN_TERMS = {
    "organ": Term("organ", lambda nodes, name: nodes.filter(pk__in=_with("organ", name))),
    "cap": _capability,
    "capability": _capability,
    "category": Term("category", _category, values=tuple(Category.values)),
    "id": Term("id", lambda nodes, vm_id: nodes.filter(vm_id=aliases.resolve(vm_id))),
    "parent": Term("parent", _parent),
    "under": Term("under", _under),
}
for _name, _own_term in _OWN_TERMS.items():
    search_terms.register(_own_term, key=_name)
