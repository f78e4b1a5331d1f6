"""Custom profiles, which operators add to the built-in ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from bootloader.boot.catalog import BUILT_IN, CAPABILITIES, ORGANS
from bootloader.boot.plan import File, Profile, Size
from registry.models import Role
from vmtree.models import Category

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}(=[A-Za-z0-9.+:~-]{1,100})?")
MAX_FILE_CHARACTERS = 256 << 10


def _size(least: int, most: int, **options: Any) -> Any:
    limits = [MinValueValidator(least), MaxValueValidator(most)]
    return models.PositiveIntegerField(null=True, blank=True, validators=limits, **options)


class OwnProfile(models.Model):
    """A `Profile` stored as a row."""

    type = models.CharField(
        max_length=40,
        unique=True,
        validators=[RegexValidator(r"\A[a-z][a-z0-9-]*\Z", "small letters, digits and -")],
        help_text="Its name: small letters, digits and -.",
    )
    description = models.CharField(max_length=300)
    organs = models.JSONField(default=list, blank=True)
    capabilities = models.JSONField(default=list, blank=True)
    packages = models.JSONField(
        default=list, blank=True, help_text="Debian packages, such as git or ripgrep."
    )
    category = models.CharField(
        "category in the tree", max_length=20, choices=Category.choices, default=Category.SWARM_VM
    )
    role = models.CharField(
        "role in the registry", max_length=20, choices=Role.choices, default=Role.WORKER
    )
    agent_role = models.CharField(
        "role of its agent",
        max_length=40,
        default="worker",
        validators=[RegexValidator(r"\A[A-Za-z0-9._-]+\Z", "letters, digits and . _ -")],
        help_text="Value of VERS_AGENT_ROLE on the VM.",
    )
    agent = models.BooleanField("has the coding agent", default=True)
    own_reef = models.BooleanField(
        "has a reef of its own", default=False, help_text="With only the organs chosen above."
    )
    install_pi_vers = models.BooleanField(
        "pi-vers", default=False, help_text="Value of installPiVers in the API."
    )
    vcpus = _size(1, 256, verbose_name="vCPUs")
    memory_mib = _size(128, 4 << 20, verbose_name="memory (MiB)")
    disk_mib = _size(256, 64 << 20, verbose_name="disk (MiB)")

    class Meta:
        verbose_name = "profile"
        ordering = ["type"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(type__in=list(BUILT_IN)), name="profile_is_not_built_in"
            ),
            models.CheckConstraint(
                condition=Q(category__in=Category.values), name="profile_category_is_known"
            ),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="profile_role_is_known"),
        ]

    def __str__(self) -> str:
        return self.type

    def clean(self) -> None:
        """Check that organs, capabilities and packages are lists of valid names.

        Raise ValidationError.
        """
        problems = {
            "type": f"{self.type} is built in" if self.type in BUILT_IN else "",
            "organs": _names_problem(self.organs, ORGANS),
            "capabilities": _names_problem(self.capabilities, CAPABILITIES),
            "packages": _packages_problem(self.packages),
        }
        if found := {field: text for field, text in problems.items() if text}:
            raise ValidationError(found)

    def as_profile(self) -> Profile:
        """Return the row as a `Profile`."""
        return self.with_files(self.files.all())

    def with_files(self, files: Iterable[ProfileFile]) -> Profile:
        """Return the row as a `Profile` with these files, which are its own."""
        return Profile(
            type=self.type,
            organs=tuple(self.organs),
            capabilities=tuple(self.capabilities),
            install_pi_vers=self.install_pi_vers,
            description=self.description,
            category=self.category,
            role=self.role,
            agent_role=self.agent_role,
            agent=self.agent,
            own_reef=self.own_reef,
            packages=tuple(self.packages),
            files=tuple(each.as_file() for each in files),
            size=Size(self.vcpus, self.memory_mib, self.disk_mib),
        )


# Written by the boot script and the programs that it starts, below their folder.
BOOT_FILES = frozenset({"identity.json", "identity.env", "join-token", "fleet_agent.py"})
BOOT_FOLDERS = frozenset({"run", "log", "agent", "reef", "boot", "dist"})


def _reserved_name(path: str) -> str:
    """Return the name that the boot itself uses at this path; empty if there is none."""
    inside = path.removeprefix("/opt/reef/") if path.startswith("/opt/reef/") else path
    if inside.startswith("/"):
        return ""
    first, *others = [part for part in inside.split("/") if part]
    return first if first in BOOT_FOLDERS or (first in BOOT_FILES and not others) else ""


class ProfileFile(models.Model):
    """A file that VMs of a profile get."""

    MODES = [(0o644, "0644"), (0o600, "0600"), (0o755, "0755"), (0o700, "0700")]

    profile = models.ForeignKey(OwnProfile, models.CASCADE, related_name="files")
    path = models.CharField(
        max_length=500,
        help_text="Absolute, or relative to /opt/reef (~/.reef without root login).",
    )
    text = models.TextField(blank=True, max_length=MAX_FILE_CHARACTERS)
    mode = models.PositiveSmallIntegerField(choices=MODES, default=0o644)

    class Meta:
        verbose_name = "file"
        ordering = ["path"]
        constraints = [
            models.UniqueConstraint(fields=["profile", "path"], name="profile_file_once")
        ]

    def __str__(self) -> str:
        return self.path

    def clean(self) -> None:
        """Check that the path names a file and does not leave its folder. Raise ValidationError."""
        parts = self.path.split("/")
        if ".." in parts or not parts[-1] or "." in parts or not self.path.isprintable():
            raise ValidationError({"path": "must be the path of a file, without . and .."})
        if name := _reserved_name(self.path):
            raise ValidationError({"path": f"{name} is written by the boot script itself"})

    def as_file(self) -> File:
        """Return the row as a `File`, with Unix line ends and a final line break."""
        text = self.text.replace("\r\n", "\n")
        return File(self.path, f"{text}\n" if text and text[-1] != "\n" else text, self.mode)


def _names_problem(given: object, known: tuple[str, ...]) -> str:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        return "must be a list of names"
    if unknown := [name for name in given if name not in known]:
        return f"{unknown[0]!r} is not known; these are: {', '.join(known)}"
    return "" if len(set(given)) == len(given) else "has a name twice"


def _packages_problem(given: object) -> str:
    if not isinstance(given, list):
        return "must be a list of names"
    wrong = [name for name in given if not (isinstance(name, str) and PACKAGE.fullmatch(name))]
    return f"{wrong[0]!r} is no package's name" if wrong else ""
