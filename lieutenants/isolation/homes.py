"""The folders of one lieutenant: reef's, the agent's, and those recreated at each start."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from lieutenants.agents.base import Dialect

GIT_CONFIG = """\
[user]
\tname = {name}
\temail = {name}@reef.invalid
[safe]
\tdirectory = *
"""


@dataclass(frozen=True)
class Home:
    """Paths below one lieutenant's folder, which is named by its id."""

    root: Path

    @property
    def runs(self) -> Path:
        """Return reef's own folder: journals, sockets and logs of the keepers."""
        return self.root / "runs"

    @property
    def workspace(self) -> Path:
        """Return the agent's working folder if no other was given."""
        return self.root / "workspace"

    @property
    def session(self) -> Path:
        """Return the folder of the agent's session files."""
        return self.root / "session"

    @property
    def session_file(self) -> Path:
        """Return the session file that is continued from start to start."""
        return self.session / "session.jsonl"

    @property
    def user(self) -> Path:
        """Return the agent's HOME."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """Return the agent's temporary folder, which is emptied at each start."""
        return self.root / "tmp"

    @property
    def config(self) -> Path:
        """Return the agent's own configuration, copied from reef's at each start."""
        return self.root / "agent"

    @property
    def prompt(self) -> Path:
        """Return the file with the agent's system prompt."""
        return self.root / "system-prompt.md"

    @property
    def agents(self) -> tuple[Path, ...]:
        """Return the folders that belong to the agent."""
        return (self.workspace, self.session, self.user, self.tmp, self.config)


def home_of(lieutenant_id: str) -> Home:
    """Return the folders of this lieutenant."""
    return Home(settings.LIEUTENANTS_DIR / lieutenant_id)


def prepare(
    home: Home,
    *,
    name: str,
    prompt: str,
    owner: int | None,
    shared: bool,
    dialect: Dialect,
) -> None:
    """Create all folders for a start of the agent. Raises OSError.

    The dialect says which configuration is copied, and completes the copy. `owner` is the system
    user that the agent runs as, None for reef's own user. `shared` lets other users traverse to the
    folder, where agents have no private view of the file system.
    """
    settings.LIEUTENANTS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.root.mkdir(mode=0o700, exist_ok=True)
    home.runs.mkdir(mode=0o700, exist_ok=True)
    if shared:
        allow_traversal(home)
    else:
        home.root.chmod(0o711 if owner is not None else 0o700)
    for folder in (home.workspace, home.session, home.user):
        folder.mkdir(mode=0o700, exist_ok=True)
    _move_old_session(home)
    _replace_tree(home.tmp, None)
    _replace_tree(home.config, dialect.config_folder())
    dialect.complete_config(home.config)
    _write_once(home.user / ".gitconfig", GIT_CONFIG.format(name=name), owner)
    home.prompt.write_text(prompt, encoding="utf-8")
    home.prompt.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(home.prompt, 0, 0 if owner is None else owner)
        for folder in home.agents:
            give_tree(folder, os.geteuid() if owner is None else owner)


def give_tree(folder: Path, owner: int) -> None:
    """Make `owner` the user and group of a folder and all its contents, if needed.

    Links are changed themselves, never their targets. A file with several hard links may belong to
    somebody else, so it is replaced by a copy.
    """
    if folder.stat(follow_symlinks=False).st_uid == owner:
        return
    for _, folders, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
                _copy_in_place(name, descriptor)
            os.chown(name, owner, owner, dir_fd=descriptor, follow_symlinks=False)
    # The folder itself comes last: its owner marks the whole tree as done.
    os.chown(folder, owner, owner, follow_symlinks=False)


def _copy_in_place(name: str, folder: int) -> None:
    fresh = f".{name}.reef-copy"
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(source, "rb") as old:
        mode = stat.S_IMODE(os.fstat(old.fileno()).st_mode) & 0o777
        target = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
        with os.fdopen(target, "wb") as new:
            shutil.copyfileobj(old, new)
    os.replace(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)


def _replace_tree(target: Path, source: Path | None) -> None:
    """Recreate `target` as a copy of `source`, or empty. Links are never followed."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        remove_tree(target)
    target.mkdir(mode=0o700)
    if source is None or not source.is_dir():
        return
    for entry in source.iterdir():
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy(entry, target / entry.name)


def remove_tree(folder: Path) -> None:
    """Remove a folder, even if an agent left subfolders whose modes prevent it."""

    def allow(_: object, path: str, __: object) -> None:
        for locked in (os.path.dirname(path), path):
            if not os.path.islink(locked):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(locked, 0o700)

    for _ in range(50):  # each round removes at least one level
        shutil.rmtree(folder, onerror=allow)
        if not folder.exists():
            return
    folder.rename(folder.with_name(f".{folder.name}.{time.time_ns()}"))


def _write_once(path: Path, text: str, owner: int | None) -> None:
    """Create a file; an existing one of that name is kept."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError), os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(text)
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)


def _move_old_session(home: Home) -> None:
    """Move the session file of older versions, which lies in the lieutenant's folder itself."""
    for old in home.root.glob("*.jsonl"):
        if not os.path.lexists(home.session / old.name):
            old.rename(home.session / old.name)


def allow_traversal(home: Home) -> None:
    """Let other users traverse the data folder without listing it."""
    for entry in settings.DATA_DIR.iterdir():
        if entry not in (settings.LIEUTENANTS_DIR, settings.AGENT_INSTALL_DIR):
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat(follow_symlinks=False)
                if not stat.S_ISLNK(facts.st_mode):
                    entry.chmod(stat.S_IMODE(facts.st_mode) & 0o700)
    for folder in (settings.DATA_DIR, settings.LIEUTENANTS_DIR, home.root):
        folder.chmod(0o711)
