"""Actions on many rows of a list. Each app registers its lists; `reef_site.lists` does the rest.

A person chooses rows and an action. `plan` says what will happen to each row, and what is refused
and why. What the person confirms are exactly these rows, and a worker calls `run` for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import QuerySet
from django.http import QueryDict

from reef_site.common.hooks import Hook

# How many rows one plan takes.
MAX_ROWS = 1000

Person = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class PlannedRow:
    """The plan for one row: `does` describes the action, `refused` says why it is not done.

    `warning` is what the person should know before; a row that gets a new reason for one until it
    is its turn is not changed. `count` is the number of VMs that change, if it is not just one.
    """

    target: str
    name: str
    does: str
    refused: str = ""
    warning: str = ""
    count: int | None = None


@dataclass(frozen=True)
class Turn:
    """One row whose turn it is: its key, and what was confirmed."""

    target: str
    key: str
    warning: str
    count: int | None
    text: str
    # A snapshot that was taken before the first row, if the action wants one.
    snapshot: str


@dataclass(frozen=True)
class Result:
    """The result for one row. `job` is the job that goes on with it, if there is one."""

    text: str
    job: str = ""


@dataclass(frozen=True)
class BulkAction:
    """An action. `plan` returns a row for each target, in order; `run` raises a ReefError.

    `run` is called in a transaction, with which it is undone. All that it does must be in the
    database, or wait for the commit.
    """

    key: str
    label: str
    plan: Callable[[Sequence[str], Person], list[PlannedRow]]
    run: Callable[[Turn, Person], Result]
    is_destructive: bool = False
    # The person writes a text that goes to each row.
    needs_text: bool = False
    takes_snapshot: bool = False


@dataclass(frozen=True)
class BulkList:
    """A list with actions, and with filters that a person can save.

    `find` returns the primary keys of the rows that a query in the page's URL matches; it raises
    BadInput. `url_of` returns the page of a row. `presets` are filters that everybody has, as pairs
    of name and query.
    """

    key: str
    # The rows in a sentence, such as `lieutenants`.
    noun: str
    url_name: str
    find: Callable[[QueryDict, Person], QuerySet[Any, Any]]
    url_of: Callable[[str], str]
    actions: Mapping[str, BulkAction]
    presets: Sequence[tuple[str, str]] = ()
    organ: str = ""


bulk_lists: Hook[BulkList] = Hook("lists.bulk", "Lists with saved filters and actions on rows.")
