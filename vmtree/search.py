"""`?q=`: words that narrow nodes, the same in API, pages and admin.

`organ:store cap:ssh category:lieutenant under:<id>` and text to look for in names and ids; blanks
go into quotes. Apps above add words of their own, in their `AppConfig.ready`, by `add_word`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL

from vmtree import lineage
from vmtree.exceptions import BadInput
from vmtree.models import LINKS, Category, Node

Nodes = QuerySet[Node]
LONGEST = 1000
# A word without its value; else a word, perhaps, and a value in quotes or without.
_TOKEN = re.compile(r'([^\s:"]+:)(?=\s|$)|(?:([^\s:"]+):)?(?:"([^"]*)"?|(\S+))')


@dataclass(frozen=True)
class Word:
    """A word of the search. A flag stands alone, others take a value after a colon.

    `narrow` gets nodes and the value, and gives the nodes that fit. `values` are all there are,
    if they are a closed set.
    """

    name: str
    narrow: Callable[[Nodes, str], Nodes]
    values: tuple[str, ...] = ()
    flag: bool = False

    def __str__(self) -> str:
        return self.name if self.flag else f"{self.name}:"


_words: dict[str, Word] = {}


def add_word(word: Word, *, also: str = "") -> None:
    """Make a word known, with a shorter name if it has one."""
    for name in (word.name, also):
        if name:
            _words[name] = word


def words() -> list[str]:
    """What may be searched for, as it is written."""
    return sorted({str(word) for word in _words.values()})


def narrow(nodes: Nodes, query: str) -> Nodes:
    """Those that all words of the query fit. Raises BadInput that lists the right words."""
    if len(query) > LONGEST:
        raise BadInput(f"q: at most {LONGEST} characters", "q")
    for name, value, is_quoted in _parts(query):
        word = _word(name, value, is_quoted=is_quoted)
        nodes = word.narrow(nodes, value) if word else _text(nodes, value)
    return nodes


def _parts(query: str) -> list[tuple[str, str, bool]]:
    """Name before the colon (or nothing), value, and whether that was in quotes."""
    found = []
    for empty, name, quoted, bare in _TOKEN.findall(query.replace("\0", "")):
        if empty:
            raise BadInput(f"q: nothing follows {empty}", "q")
        found.append((name, quoted or bare, not bare))
    return found


def _word(name: str, value: str, *, is_quoted: bool) -> Word | None:
    """The word that is meant; None for text. Raises BadInput."""
    if not name:
        word = None if is_quoted else _words.get(value)
        return word if word and word.flag else None
    word = _words.get(name)
    if word is None or word.flag:
        raise BadInput(f"q: there is no {name}: — words are {', '.join(words())} or any text", "q")
    if word.values and value not in word.values:
        raise BadInput(f"q: {name} is one of {', '.join(word.values)}, not {value!r}", "q")
    return word


def _text(nodes: Nodes, text: str) -> Nodes:
    return nodes.filter(Q(name__icontains=text) | Q(vm_id__icontains=text)) if text else nodes


def _under(nodes: Nodes, vm_id: str) -> Nodes:
    top = Node.objects.filter(vm_id=vm_id).values_list("pk", flat=True).first()
    if top is None:
        raise BadInput(f"q: under: there is no VM {vm_id!r}", "q")
    sql = f"{lineage.below(LINKS)} SELECT key FROM line"
    return nodes.filter(pk__in=RawSQL(sql, [top])).exclude(pk=top)  # noqa: S611


add_word(Word("organ", lambda nodes, name: nodes.filter(pk__in=_with("organ", name))))
add_word(
    Word("capability", lambda nodes, name: nodes.filter(pk__in=_with("capability", name))),
    also="cap",
)
add_word(
    Word(
        "category",
        lambda nodes, value: nodes.filter(category=value),
        values=tuple(Category.values),
    )
)
add_word(Word("id", lambda nodes, vm_id: nodes.filter(vm_id=vm_id)))
add_word(Word("parent", lambda nodes, vm_id: nodes.filter(parent__vm_id=vm_id)))
add_word(Word("under", _under))


def _with(kind: str, name: str) -> QuerySet[Node]:
    return Node.objects.with_trait(kind, name).values("pk")  # type: ignore[return-value]
