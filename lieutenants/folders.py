"""Which folders agents may work in.

Nobody gives an agent reef's own folders, anything inside them (except its own workspace), or a
folder around them. A lieutenant that a node makes stays inside the folders of that node's line.
Folders are compared as they are on disk: behind symbolic links and bind mounts. `check` is for the
request that makes a lieutenant; `check_at_start` is for each start, since links can be changed
later.
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
from vmtree.models import Node

MISSING = "folder: must be an absolute path of a folder that exists"
PRIVATE = "folder: must not be reef's own data folder, a folder inside it, or a folder around it"
MOVED = "folder: leads to another place than when the lieutenant was made"
OUTSIDE_LINE = (
    "rule: a lieutenant that a node makes works inside that node's folder, or the folder of a "
    "lieutenant below it. folder: is outside of these"
)
_MADE_BY_NODE = "node "


def check(folder: str, *, line_of: str = "") -> Path:
    """Return the folder resolved, if a new lieutenant may work there.

    `line_of` is the VM id of the node that asks; empty for everybody else. Raises BadInput,
    Forbidden.
    """
    path = _resolved(folder)
    shared = [_workspace(pk) for pk in _line_ids(line_of)] if line_of else []
    _refuse_private(path, except_for=shared)
    if line_of:
        _refuse_outside_line(path, line_of)
    return path


def check_at_start(lieutenant: Lieutenant) -> Path:
    """Return the folder in which its process starts, resolved. Raises BadInput, Forbidden.

    The default workspace must exist by now.
    """
    path = _resolved(lieutenant.folder)
    own = _workspace(lieutenant.pk)
    # Rows hold where a folder really is. If it is a link now, its agent may have made it one.
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
    """The VM id of the node that made it; empty if an operator or the root token did."""
    first = lieutenant.moves.order_by("id").first()
    actor = first.actor if first else ""
    return actor.removeprefix(_MADE_BY_NODE) if actor.startswith(_MADE_BY_NODE) else ""


def _line_ids(vm_id: str) -> list[str]:
    """The lieutenants of a node's line, destroyed ones too."""
    node = Node.objects.filter(vm_id=vm_id).first()
    if node is None:
        return []
    line = permissions.line_of(node).values("vm_id")
    return list(Lieutenant.objects.filter(pk__in=line).values_list("pk", flat=True))


def _refuse_outside_line(path: Path, vm_id: str, *, apart_from: str = "") -> None:
    line = Lieutenant.objects.filter(pk__in=_line_ids(vm_id)).exclude(pk=apart_from)
    rows = line.values_list("pk", "folder")
    # As they were stored: a link that an agent puts in place of its folder widens nothing.
    bases = [base for pk, folder in rows for base in (Path(folder), _workspace(pk))]
    if not any(path.is_relative_to(base) for base in bases):
        raise Forbidden(OUTSIDE_LINE)


# -- reef's own folders --------------------------------------------------------------------------


def _workspace(lieutenant_id: str) -> Path:
    return settings.LIEUTENANTS_DIR.resolve() / lieutenant_id / "workspace"


def _private() -> Iterator[Path]:
    """What no agent works in."""
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
        # Links of /proc lead to places that their text does not name.
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
    # Which folder of the device's file system is mounted there.
    root: PurePosixPath


@dataclass(frozen=True)
class _Mounts:
    """The mounts of this process: two paths that a bind mount joins are one place."""

    mounts: tuple[_Mount, ...]

    @classmethod
    def read(cls) -> _Mounts:
        """As the kernel tells now; none where it does not."""
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
        """Whether the path is the folder, or below it."""
        if path.is_relative_to(folder) or _is_same(folder, (path, *path.parents)):
            return True
        (device, place), (other, top) = self._place(path), self._place(folder)
        return device == other and place.is_relative_to(top)

    def is_mounted_below(self, path: Path, folder: Path) -> bool:
        """Whether something is mounted below the path that shows the folder or a part of it."""
        device, place = self._place(folder)
        below = [each for each in self.mounts if each.point.is_relative_to(path)]
        return any(
            each.device == device
            and (place.is_relative_to(each.root) or each.root.is_relative_to(place))
            for each in below
            if each.point != PurePosixPath(path)
        )

    def _place(self, path: Path) -> tuple[str, PurePosixPath]:
        """The device, and the path in its file system."""
        found: _Mount | None = None
        for each in self.mounts:
            # Of two mounts at one point the later one is seen.
            if path.is_relative_to(each.point) and (
                found is None or len(each.point.parts) >= len(found.point.parts)
            ):
                found = each
        if found is None:
            return "", PurePosixPath(path)
        return found.device, found.root / PurePosixPath(path).relative_to(found.point)


def _is_same(folder: Path, others: Sequence[Path]) -> bool:
    """Whether one of these is the folder by device and inode."""
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
    """A path of mountinfo, where blanks and the like stand as octal numbers."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return PurePosixPath(text)
