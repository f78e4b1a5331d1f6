"""Checks which folders agents may work in.

Reef's own folders, their contents (except the lieutenant's own workspace) and their parents are not
allowed. A lieutenant that a node, or an operator token with a subtree, creates has to stay inside
the folders of that node's line. Folders are compared after resolving symbolic links and bind
mounts. `check` runs when a lieutenant is created, `check_at_start` at each start, because links can
change in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from django.conf import settings
from django.db import connection

from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput, Forbidden
from vmtree import permissions
from vmtree.models import Node, OperatorToken

MISSING = "folder: must be an absolute path of a folder that exists"
PRIVATE = "folder: must not be reef's own data folder, a folder inside it, or a folder around it"
MOVED = "folder: leads to another place than when the lieutenant was made"
OUTSIDE_LINE = (
    "rule: a lieutenant that a node makes works inside that node's folder, or the folder of a "
    "lieutenant below it. folder: is outside of these"
)
_MADE_BY_NODE, _MADE_BY_TOKEN = "node ", "token "


def check(folder: str, *, line_of: str = "") -> Path:
    """Return the resolved folder if a new lieutenant may work there.

    `line_of` is the VM id of the node to whose line the caller is limited, empty for other callers.
    Raises BadInput, Forbidden.
    """
    path = _resolved(folder)
    shared = [_workspace(pk) for pk in _line_ids(line_of)] if line_of else []
    _refuse_private(path, except_for=shared)
    if line_of:
        _refuse_outside_line(path, line_of)
    return path


def check_at_start(lieutenant: Lieutenant) -> Path:
    """Return the resolved folder in which the process starts. Raises BadInput, Forbidden.

    The default workspace has to exist already.
    """
    path = _resolved(lieutenant.folder)
    own = _workspace(lieutenant.pk)
    # The row holds the resolved path. If it is a link now, the agent may have created the link.
    if str(path) != lieutenant.folder:
        raise BadInput(MOVED, "folder")
    if Path(lieutenant.folder) == settings.LIEUTENANTS_DIR / lieutenant.pk / "workspace":
        _refuse_private(path, except_for=[own])
        return path
    maker = _maker_of(lieutenant)
    shared = [_workspace(pk) for pk in _line_ids(maker)] if maker else []
    _refuse_private(path, except_for=[own, *shared])
    if maker:
        _refuse_outside_line(path, maker, apart_from=lieutenant.pk)
    return path


# -- the line of a node --------------------------------------------------------------------------


def _maker_of(lieutenant: Lieutenant) -> str:
    """Return the VM id of the node to whose line its creator is limited; empty for operators."""
    first = lieutenant.moves.order_by("id").first()
    actor = first.actor if first else ""
    if actor.startswith(_MADE_BY_TOKEN):
        tokens = OperatorToken.objects.filter(name=actor.removeprefix(_MADE_BY_TOKEN))
        return tokens.values_list("subtree__vm_id", flat=True).first() or ""
    return actor.removeprefix(_MADE_BY_NODE) if actor.startswith(_MADE_BY_NODE) else ""


def _line_ids(vm_id: str) -> list[str]:
    """Return the ids of the lieutenants in a node's line, including destroyed ones."""
    node = Node.objects.filter(vm_id=vm_id).first()
    if node is None:
        return []
    line = permissions.line_of(node).values("vm_id")
    return list(Lieutenant.objects.filter(pk__in=line).values_list("pk", flat=True))


def _refuse_outside_line(path: Path, vm_id: str, *, apart_from: str = "") -> None:
    line = Lieutenant.objects.filter(pk__in=_line_ids(vm_id)).exclude(pk=apart_from)
    rows = line.values_list("pk", "folder")
    # Use the stored paths: an agent must not gain access by replacing its folder with a link.
    bases = [base for pk, folder in rows for base in (Path(folder), _workspace(pk))]
    if not any(path.is_relative_to(base) for base in bases):
        raise Forbidden(OUTSIDE_LINE)


# -- reef's own folders --------------------------------------------------------------------------


def _workspace(lieutenant_id: str) -> Path:
    return settings.LIEUTENANTS_DIR.resolve() / lieutenant_id / "workspace"


def _private() -> Iterator[Path]:
    """Yield the folders in which no agent may work."""
    for folder in (
        *(settings.DATA_DIR, settings.RUN_DIR, settings.LIEUTENANTS_DIR),
        *(settings.AGENT_INSTALL_DIR, settings.AGENT_CONFIG_DIR),
    ):
        yield folder.resolve()
    if connection.vendor == "sqlite":
        database = Path(str(connection.settings_dict["NAME"]))
        if database.is_absolute():
            yield database.resolve()


def _resolved(folder: str) -> Path:
    given = Path(folder)
    try:
        path = given.resolve(strict=True)
        # Links in /proc lead elsewhere than their text says.
        good = given.is_absolute() and path.is_dir() and os.path.samefile(given, path)
    except (OSError, ValueError, RuntimeError):
        good = False
    if not good:
        raise BadInput(MISSING, "folder")
    return path


def _refuse_private(path: Path, *, except_for: Sequence[Path]) -> None:
    mounts = _Mounts.read()
    is_shared = any(path.is_relative_to(each) for each in except_for)
    for private in _private():
        inside = mounts.is_inside(path, private) and not is_shared
        if inside or mounts.is_inside(private, path) or mounts.is_mounted_below(path, private):
            raise BadInput(PRIVATE, "folder")


@dataclass(frozen=True)
class _Mount:
    point: PurePosixPath
    device: str
    # Folder within the device's file system that is mounted there.
    root: PurePosixPath


@dataclass(frozen=True)
class _Mounts:
    """Mounts of this process; bind mounts make two paths the same folder."""

    mounts: tuple[_Mount, ...]

    @classmethod
    def read(cls) -> _Mounts:
        """Read the kernel's list of mounts; empty if it is not available."""
        try:
            text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return cls(())
        fields = [line.split(" ") for line in text.splitlines()]
        return cls(
            tuple(
                _Mount(_unescaped(each[4]), each[2], _unescaped(each[3]))
                for each in fields
                if len(each) > 4
            )
        )

    def is_inside(self, path: Path, folder: Path) -> bool:
        """Return whether the path is the folder or below it."""
        if path.is_relative_to(folder) or _is_same(folder, (path, *path.parents)):
            return True
        (device, place), (other, top) = self._place(path), self._place(folder)
        return device == other and place.is_relative_to(top)

    def is_mounted_below(self, path: Path, folder: Path) -> bool:
        """Return whether a mount below the path shows the folder or a part of it."""
        device, place = self._place(folder)
        below = [each for each in self.mounts if each.point.is_relative_to(path)]
        return any(
            each.device == device
            and (place.is_relative_to(each.root) or each.root.is_relative_to(place))
            for each in below
            if each.point != PurePosixPath(path)
        )

    def _place(self, path: Path) -> tuple[str, PurePosixPath]:
        """Return the device of a path, and the path in its file system."""
        found: _Mount | None = None
        for each in self.mounts:
            # Of two mounts at one point, the later one is visible.
            if path.is_relative_to(each.point) and (
                found is None or len(each.point.parts) >= len(found.point.parts)
            ):
                found = each
        if found is None:
            return "", PurePosixPath(path)
        return found.device, found.root / PurePosixPath(path).relative_to(found.point)


def _is_same(folder: Path, others: Sequence[Path]) -> bool:
    """Return whether one of these is the same folder, by device and inode."""
    try:
        wanted = folder.stat()
    except OSError:
        return False
    for other in others:
        try:
            found = other.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def _unescaped(text: str) -> PurePosixPath:
    """Return a path of mountinfo, in which white space is escaped as octal numbers."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return PurePosixPath(text)
