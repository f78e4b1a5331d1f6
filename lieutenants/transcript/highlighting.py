"""Code as HTML with the classes of a few kinds of tokens.

Lexers are those of Pygments, for common languages only. Long texts, long lines and texts that take
too long are shown plain.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from pygments import token
from pygments.lexer import Lexer
from pygments.lexers import find_lexer_class_by_name
from pygments.token import _TokenType as TokenType

from lieutenants.transcript.rendered import Remembered
from lieutenants.transcript.terminal import mark_reordering

MAX_CHARACTERS = 20_000
_MAX_LINE = 2_000
_MAX_SECONDS = 0.1
# How many tokens are read between two looks at the clock.
_TOKENS = 64
# Each language by its name at Pygments, then other names and the endings of files.
_LANGUAGES = """
bash sh shell zsh console shellsession bashrc
batch bat cmd
c h
csharp cs c#
cpp c++ cc cxx hpp hh
cmake
css
clojure clj
dart
diff patch
jinja j2 jinja2
docker dockerfile containerfile
elixir ex exs
erlang erl
go golang
graphql gql
groovy gradle
html htm xhtml vue svelte
haskell hs
ini cfg conf properties editorconfig service
json jsonl jsonc webmanifest
java
javascript js mjs cjs jsx
julia jl
kotlin kt kts
lua
make makefile mk
markdown md
nix
nginx
ocaml ml mli
php
perl pl pm
powershell ps1
protobuf proto
python py pyi python3 py3
pytb
r
ruby rb gemfile rakefile
rust rs
scss sass
sql
scala
swift
toml lock
terraform tf hcl
typescript ts tsx mts cts
xml svg xsd plist
yaml yml
zig
"""
_NAMES = {
    word: line.split()[0] for line in _LANGUAGES.strip().splitlines() for word in line.split()
}
_KINDS = (
    (token.Comment, "c"),
    (token.Keyword, "k"),
    (token.Operator.Word, "k"),
    (token.String, "s"),
    (token.Number, "n"),
    (token.Literal, "s"),
    (token.Name.Function, "f"),
    (token.Name.Class, "f"),
    (token.Name.Tag, "k"),
    (token.Name.Attribute, "a"),
    (token.Name.Decorator, "a"),
    (token.Name.Builtin, "b"),
    (token.Name.Exception, "b"),
    (token.Name.Variable, "a"),
    (token.Generic.Deleted, "del"),
    (token.Generic.Inserted, "ins"),
    (token.Generic.Heading, "k"),
    (token.Generic.Subheading, "k"),
    (token.Generic.Error, "del"),
)
_remembered = Remembered(4_000_000)


def language_of(name: str) -> str:
    """Return the language that a fence or an ending names; empty if it is not known."""
    word = name.strip().lower()
    return word if word in _NAMES else ""


def language_of_path(path: str) -> str:
    """Return the language of a file by its name; empty if it is not known."""
    name = PurePosixPath(path.strip()[-200:].lower()).name
    return language_of(name.rpartition(".")[2]) or language_of(name.partition(".")[0])


def can_highlight(code: str, language: str) -> bool:
    """Return whether a code is coloured: its language is known, and it is not too long."""
    if language not in _NAMES or len(code) > MAX_CHARACTERS:
        return False
    return max(map(len, code.split("\n")), default=0) <= _MAX_LINE


def highlight(code: str, language: str) -> SafeString:
    """Return the code as escaped HTML, coloured if it can be."""
    code = mark_reordering(code.replace("\r\n", "\n").replace("\r", "\n"))
    if not can_highlight(code, language):
        return escape(code)
    return _remembered.get(f"{language}\n{code}", lambda: _highlighted(code, language))


def _highlighted(code: str, language: str) -> SafeString:
    parts: list[str] = []
    kind, texts = "", list[str]()
    for each, text in _tokens(code, _lexer(language)):
        if each != kind and not text.isspace():
            parts.append(_piece(kind, texts))
            kind, texts = each, []
        texts.append(text)
    parts.append(_piece(kind, texts))
    return mark_safe("".join(parts))  # noqa: S308


def _piece(kind: str, texts: list[str]) -> str:
    text = escape("".join(texts))
    return f'<span class="s-{kind}">{text}</span>' if kind and text else text


def _tokens(code: str, lexer: Lexer) -> Iterator[tuple[str, str]]:
    """Yield kinds and texts; the rest of a code that takes too long is one text without a kind."""
    began, at = time.thread_time(), 0
    for number, (each, text) in enumerate(lexer.get_tokens(code)):
        # Lexers may add a last line break.
        yield _kind_of(each), text[: len(code) - at]
        at += len(text)
        if number % _TOKENS == 0 and time.thread_time() - began > _MAX_SECONDS:
            yield "", code[at:]
            return


@functools.cache
def _kind_of(each: TokenType) -> str:
    return next((kind for parent, kind in _KINDS if each in parent), "")


@functools.cache
def _lexer(language: str) -> Lexer:
    # The text stays as it is, so that places in it stay true.
    return find_lexer_class_by_name(_NAMES[language])(stripnl=False, ensurenl=False)
