"""The folders of one lieutenant: what is reef's, what is the agent's, what is made anew."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from lieutenants.exceptions import AgentMisconfigured

# Files of the agent's configuration that hold keys of model providers.
CREDENTIALS = ("auth.json", "models.json")
# Comments and trailing commas, which the agent accepts; texts, so that they are passed over.
_NO_JSON = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)
_GIT_CONFIG = """\
[user]
\tname = {name}
\temail = {name}@reef.invalid
[safe]
\tdirectory = *
"""


@dataclass(frozen=True)
class Home:
    """Paths below one lieutenant's folder. The folder's name is the lieutenant's id."""

    root: Path

    @property
    def runs(self) -> Path:
        """Reef's own: journals, sockets and logs of the shims."""
        return self.root / "runs"

    @property
    def workspace(self) -> Path:
        """Where the agent works when it was given no folder."""
        return self.root / "workspace"

    @property
    def session(self) -> Path:
        """The agent's session files."""
        return self.root / "session"

    @property
    def session_file(self) -> Path:
        """The session that is continued from start to start."""
        return self.session / "session.jsonl"

    @property
    def user(self) -> Path:
        """The agent's HOME."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """The agent's temporary files; emptied at each start."""
        return self.root / "tmp"

    @property
    def config(self) -> Path:
        """The agent's own configuration, made from reef's copy at each start."""
        return self.root / "agent"

    @property
    def prompt(self) -> Path:
        """What the agent is told about itself."""
        return self.root / "system-prompt.md"

    @property
    def agents(self) -> tuple[Path, ...]:
        """Folders that belong to the agent."""
        return (self.workspace, self.session, self.user, self.tmp, self.config)


def home_of(lieutenant_id: str) -> Home:
    """The folders of this lieutenant."""
    return Home(settings.LIEUTENANTS_DIR / lieutenant_id)


def check_config() -> None:
    """Refuse a configuration that no agent could start with. Raises AgentMisconfigured."""
    for name in (*CREDENTIALS, "settings.json"):
        path = settings.AGENT_CONFIG_DIR / name
        try:
            json.loads(_NO_JSON.sub(_keep_strings, path.read_text(encoding="utf-8-sig")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise AgentMisconfigured(f"{path} cannot be read: {error}. Correct it first.") from None


def _keep_strings(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else ""


def prepare(home: Home, *, name: str, prompt: str, owner: int | None, shared: bool) -> None:
    """Make all folders for a start of the agent. Raises OSError.

    `owner` is the system user that the agent runs as, None for reef's own user. `shared` opens the
    way to the folder for other users, where agents have no view of their own.
    """
    settings.LIEUTENANTS_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.root.mkdir(mode=0o700, exist_ok=True)
    home.runs.mkdir(mode=0o700, exist_ok=True)
    if shared:
        _open_the_way(home)
    else:
        home.root.chmod(0o711 if owner is not None else 0o700)
    for folder in (home.workspace, home.session, home.user):
        folder.mkdir(mode=0o700, exist_ok=True)
    _move_old_session(home)
    _replace_tree(home.tmp, None)
    _replace_tree(home.config, settings.AGENT_CONFIG_DIR)
    for credential in CREDENTIALS:
        with contextlib.suppress(FileNotFoundError):
            (home.config / credential).chmod(0o400)
    _write_once(home.user / ".gitconfig", _GIT_CONFIG.format(name=name), owner)
    home.prompt.write_text(prompt, encoding="utf-8")
    home.prompt.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(home.prompt, 0, 0 if owner is None else owner)
        for folder in home.agents:
            give_tree(folder, os.geteuid() if owner is None else owner)


def give_tree(folder: Path, owner: int) -> None:
    """Make `owner` the user and group of a folder and all in it, if it is not yet.

    Links are changed themselves, never what they point at. A file with a second name may be
    somebody else's, so it is replaced by a copy.
    """
    if folder.stat(follow_symlinks=False).st_uid == owner:
        return
    for _, folders, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
                _copy_in_place(name, descriptor)
            os.chown(name, owner, owner, dir_fd=descriptor, follow_symlinks=False)
    # The folder itself comes last: it says that all of it is done.
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
    """Make `target` anew, as a copy of `source` or empty. Nothing behind a link is touched."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        _remove_tree(target)
    target.mkdir(mode=0o700)
    if source is None or not source.is_dir():
        return
    for entry in source.iterdir():
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy(entry, target / entry.name)


def _remove_tree(folder: Path) -> None:
    """Remove a folder, also where an agent left folders in it that forbid this."""

    def allow(_: object, path: str, __: object) -> None:
        for locked in (os.path.dirname(path), path):
            if not os.path.islink(locked):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(locked, 0o700)

    for _ in range(50):  # each round gets at least one level deeper
        shutil.rmtree(folder, onerror=allow)
        if not folder.exists():
            return
    folder.rename(folder.with_name(f".{folder.name}.{time.time_ns()}"))


def _write_once(path: Path, text: str, owner: int | None) -> None:
    """Write a file that is not there yet; whatever has that name now stays as it is."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError), os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(text)
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)


def _move_old_session(home: Home) -> None:
    """Sessions lay in the lieutenant's folder itself before agents had folders of their own."""
    for old in home.root.glob("*.jsonl"):
        if not os.path.lexists(home.session / old.name):
            old.rename(home.session / old.name)


def _open_the_way(home: Home) -> None:
    """Let other users pass through the data folder, and see nothing of it."""
    for entry in settings.DATA_DIR.iterdir():
        if entry not in (settings.LIEUTENANTS_DIR, settings.AGENT_INSTALL_DIR):
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat(follow_symlinks=False)
                if not stat.S_ISLNK(facts.st_mode):
                    entry.chmod(stat.S_IMODE(facts.st_mode) & 0o700)
    for folder in (settings.DATA_DIR, settings.LIEUTENANTS_DIR, home.root):
        folder.chmod(0o711)
