"""Isolation modes that this host offers, and the one that reef uses."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, models

from lieutenants.exceptions import IsolationUnavailable
from lieutenants.models import Lieutenant
from lieutenants.supervision.keeper.program import local_file

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 20
# Earlier versions let an agent signal other processes of its user.
LANDLOCK_WITH_SIGNALS = 6
MAX_NAMES = 5


class Isolation(models.TextChoices):
    """Isolation between an agent and reef, weakest first."""

    NONE = "none", "none"
    LANDLOCK = "landlock", "Landlock"
    BUBBLEWRAP = "bubblewrap", "Bubblewrap"
    USER = "user", "system user"

    @property
    def rank(self) -> int:
        """Return a number for comparison: higher is stronger."""
        return list(Isolation).index(self)


@dataclass(frozen=True)
class Host:
    """Isolation features that the kernel allows this user."""

    landlock: int  # version of the interface, 0 without it
    mounts: bool  # private mount namespaces
    user: bool  # change to another user
    bubblewrap: str  # path of the program; empty without it, and for root

    @property
    def best(self) -> Isolation:
        """Return the strongest isolation that needs no configuration."""
        if self.user:
            return Isolation.USER
        return Isolation.LANDLOCK if self.landlock else Isolation.NONE

    def offers(self, mode: Isolation) -> bool:
        """Return whether this host can isolate agents like this."""
        return {
            Isolation.NONE: True,
            # Root's agents would own everything that root owns, so for root a system user is
            # required.
            Isolation.LANDLOCK: self.landlock > 0 and not self.user,
            Isolation.BUBBLEWRAP: bool(self.bubblewrap),
            Isolation.USER: self.user,
        }[mode]


@functools.cache
def host() -> Host:
    """Return what this host offers. Tried in a child process, once per process."""
    facts: dict[str, Any] = {}
    program = (shutil.which("bwrap") or "") if os.geteuid() else ""
    try:
        asked = subprocess.run(
            [sys.executable, "-I", "-S", str(local_file()), "probe", program],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            check=True,
        )
        facts = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("cannot find out which isolation this host offers: %s", error)
    return Host(
        landlock=int(facts.get("landlock", 0)),
        mounts=bool(facts.get("mounts")),
        user=bool(facts.get("user")),
        bubblewrap=program if facts.get("bubblewrap") else "",
    )


def configured() -> Isolation:
    """Return the isolation that agents of this host get.

    A single agent may get a weaker one: a system user cannot use a folder of root's. Raises
    IsolationUnavailable if the setting names one that this host does not offer.
    """
    wanted = settings.ISOLATION
    if wanted == "auto":
        return host().best
    mode = Isolation(wanted)
    if not host().offers(mode):
        raise IsolationUnavailable(
            f"REEF_ISOLATION is {mode.value}, which this host does not offer; "
            f"the best here is {host().best.value}"
        )
    return mode


def warning() -> str:
    """Return what an operator should know about the isolation here; empty if all is well."""
    try:
        mode = configured()
    except IsolationUnavailable as error:
        return f"Agents cannot start: {error}."
    if mode is not Isolation.NONE and (bare := _without_isolation()):
        return (
            f"These agents are not isolated, and can read reef's tokens and keys: {bare}. "
            "Restart them."
        )
    if mode is Isolation.NONE:
        return "Agents are not isolated: each can read reef's tokens, keys and database. " + (
            "Isolation is switched off by REEF_ISOLATION=none."
            if settings.ISOLATION == "none"
            else _NOTHING
        )
    if mode is Isolation.LANDLOCK and not host().mounts:
        return (
            "Agents can change the permissions of reef's files, though not read them: Landlock "
            "does not cover that, and this host gives ordinary users no mount namespaces."
        )
    if mode is Isolation.LANDLOCK and host().landlock < LANDLOCK_WITH_SIGNALS:
        return (
            "Agents can end reef's processes: this kernel's Landlock does not cover signals. "
            "Linux 6.12 or newer does, or start reef as root."
        )
    return ""


def _without_isolation() -> str:
    """Return names of this host's lieutenants whose agents run without isolation.

    Older versions isolated no agent and stored no mode.
    """
    running = (
        Lieutenant.objects.active()
        .here()
        .filter(
            models.Q(isolation=Isolation.NONE)
            | models.Q(isolation="", processes__ready_at__isnull=False),
            processes__ended_at__isnull=True,
        )
    )
    running = running.order_by("name")
    try:
        return ", ".join(running.values_list("name", flat=True)[:MAX_NAMES])
    except DatabaseError as error:
        logger.warning("cannot look for agents without isolation: %s", type(error).__name__)
        return ""


_NOTHING = (
    "This kernel has no Landlock. Use Linux 5.13 or newer, start reef as root, or install "
    "bubblewrap and set REEF_ISOLATION=bubblewrap."
)
