"""The files that VMs download from their root: this reef as a wheel, the fleet agent, and lock
files.

Everything is built from the running code, so a VM needs only its root and its package mirrors.
Hatchling builds the wheel from a copy of the sources, once for each state of them. It is kept in
the data folder under a name that contains the state's digest; a name never refers to different
content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from bootloader.boot.render import PARTS
from bootloader.exceptions import PackagingFailed
from bootloader.join import fleet_agent_file
from reef_site.common import locks
from reef_site.common.errors import NotFound

PACKAGES = ("reef_site", "lieutenants", "bootloader", "registry", "vmtree", "versconfig")
# Resources needed beside the packages, and where hatchling puts them in the wheel.
RESOURCES = ("pyproject.toml", "README.md", "requirements.lock")
TEMPLATES = "templates"
# Needed only for the development of reef.
EXCLUDED_FILES = frozenset(
    {"reef_site/install/testing_tools.py", "reef_site/management/commands/test.py"}
)
# The emulator of the demo runs in a checkout only.
EXCLUDED_FOLDERS = frozenset({"reef_site/demo/platform"})
EXCLUDED_NAMES = frozenset({"__pycache__", "node_modules", "resources"})
BUILD_SECONDS = 120
# How many states of the sources are kept for downloads, including the newest.
MAX_KEPT_STATES = 4

# Matches the folders of states.
_STATE_GLOB = "[0-9a-f]" * 12
_VERSION_LINE = re.compile(r'(?m)^version = "[^"]*"$')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")


@dataclass(frozen=True)
class DistFile:
    """One file that VMs may download from `/bootloader/dist/<name>`."""

    name: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class Dist:
    """All downloads built from one state of the sources.

    `lock` lists the packages that reef needs with their hashes, for `pip --require-hashes`; the
    wheel is installed after it with `--no-deps`. `npm_package` and `npm_lock` are package.json and
    package-lock.json of the coding agent, for `npm ci`.
    """

    version: str
    wheel_file: DistFile
    lock_file: DistFile
    agent_file: DistFile
    body_file: DistFile
    npm_package_file: DistFile
    npm_lock_file: DistFile

    @property
    def files(self) -> tuple[DistFile, ...]:
        """Return all files."""
        return (
            self.wheel_file,
            self.lock_file,
            self.agent_file,
            self.body_file,
            self.npm_package_file,
            self.npm_lock_file,
        )

    @property
    def aliases(self) -> dict[str, DistFile]:
        """Return the newest files by their constant names."""
        return {
            "requirements.lock": self.lock_file,
            "fleet_agent.py": self.agent_file,
            "package.json": self.npm_package_file,
            "package-lock.json": self.npm_lock_file,
        }

    @property
    def wheel(self) -> Path:
        """Return the local path of the wheel."""
        return self.wheel_file.path

    @property
    def wheel_name(self) -> str:
        """Return the wheel's file name, which pip requires to have this form."""
        return self.wheel_file.name

    @property
    def wheel_sha256(self) -> str:
        """Return the digest in hex."""
        return self.wheel_file.sha256

    @property
    def lock_name(self) -> str:
        """Return the download name of the lock."""
        return self.lock_file.name

    @property
    def lock_sha256(self) -> str:
        """Return the digest in hex."""
        return self.lock_file.sha256

    @property
    def body_name(self) -> str:
        """Return the download name of the constant part of all boot scripts."""
        return self.body_file.name

    @property
    def body_sha256(self) -> str:
        """Return the digest in hex."""
        return self.body_file.sha256

    @property
    def agent_name(self) -> str:
        """Return the download name of the fleet agent."""
        return self.agent_file.name

    @property
    def agent_sha256(self) -> str:
        """Return the digest in hex."""
        return self.agent_file.sha256


def current() -> Dist:
    """Return the files for the running code, building them if necessary. Raise PackagingFailed."""
    try:
        sources = _sources()
        mark = _state_digest(sources)
        folder = _dist_folder() / mark
        if not folder.is_dir():
            with _build_lock():
                if not folder.is_dir():
                    _build(sources, mark, folder)
        os.utime(folder)
        return _load(folder, mark)
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError) as error:
        raise PackagingFailed(f"this reef cannot be packed for VMs: {error}") from error


def find(name: str) -> Path:
    """Return the file with this name, possibly of an earlier state that is still kept.

    Raise NotFound.

    `fleet_agent.py`, `requirements.lock`, `package.json` and `package-lock.json` are the newest.
    """
    newest = current()
    if name in newest.aliases:
        return newest.aliases[name].path
    if _NAME.fullmatch(name):
        for folder in _dist_folder().glob(_STATE_GLOB):
            if (folder / name).is_file():
                return folder / name
    raise NotFound(f"there is no file '{name}' here; the list is at /bootloader/dist/")


# -- sources -------------------------------------------------------------------------------------


def _sources() -> dict[str, Path]:
    """Return every file that goes into the wheel, by its path in the checkout."""
    base, resources = Path(settings.BASE_DIR), Path(settings.RESOURCES_DIR)
    found = {name: resources / name for name in RESOURCES}
    for package in PACKAGES:
        found |= _files_below(base / package, package)
    found |= _files_below(resources / TEMPLATES, TEMPLATES)
    return {place: path for place, path in sorted(found.items()) if place not in EXCLUDED_FILES}


def _files_below(folder: Path, place: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for entry in os.scandir(folder):
        if entry.name in EXCLUDED_NAMES or entry.name.endswith((".pyc", ".pyo", ".new")):
            continue
        where = f"{place}/{entry.name}"
        if where in EXCLUDED_FOLDERS:
            continue
        if entry.is_dir(follow_symlinks=False):
            found |= _files_below(Path(entry.path), where)
        elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
            found[where] = Path(entry.path)
    return found


_digests: dict[tuple[str, int, int], str] = {}


def sha256_of(path: Path) -> str:
    """Return the digest in hex, cached by modification time and size."""
    about = path.stat()
    key = (str(path), about.st_mtime_ns, about.st_size)
    if key not in _digests:
        _digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _digests[key]


def _state_digest(sources: dict[str, Path]) -> str:
    """Return a short digest of all sources, equal in a checkout and in an installation of it."""
    whole = hashlib.sha256()
    for place, path in sources.items():
        if place == "pyproject.toml":
            # Ignore the version, which differs if it came with a wheel.
            whole.update(_VERSION_LINE.sub("", path.read_text(), count=1).encode())
        else:
            whole.update(f"{place}\0{sha256_of(path)}\n".encode())
    return whole.hexdigest()[:12]


# -- building ------------------------------------------------------------------------------------


def _dist_folder() -> Path:
    folder: Path = settings.DATA_DIR / "dist"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _build_lock() -> Iterator[None]:
    with locks.held(_dist_folder() / "build.lock"):
        yield


def _build(sources: dict[str, Path], mark: str, folder: Path) -> None:
    """Build into a temporary folder and rename it, so that a folder is always complete."""
    half = Path(tempfile.mkdtemp(prefix=".half-", dir=_dist_folder()))
    try:
        with tempfile.TemporaryDirectory(prefix="reef-dist-") as stage:
            _stage(sources, Path(stage), mark)
            _run_hatchling(Path(stage), half)
        for name, text in _other_files(sources).items():
            (half / name).write_bytes(text)
        half.chmod(0o700)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    old = sorted(
        _dist_folder().glob(_STATE_GLOB), key=lambda each: each.stat().st_mtime, reverse=True
    )
    for each in old[MAX_KEPT_STATES:]:
        shutil.rmtree(each, ignore_errors=True)


def _stage(sources: dict[str, Path], stage: Path, mark: str) -> None:
    """Copy the sources, with a version that is unique to this state."""
    for place, path in sources.items():
        target = stage / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    project = stage / "pyproject.toml"
    text = project.read_text()
    changed, count = _VERSION_LINE.subn(f'version = "{_version(mark)}"', text, count=1)
    if not count:
        raise PackagingFailed("this reef cannot be packed for VMs: pyproject.toml has no version")
    project.write_text(changed)


def _run_hatchling(stage: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=stage,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        output = " / ".join(done.stdout.strip().splitlines()[-4:])
        raise PackagingFailed(f"this reef cannot be packed for VMs: hatchling says: {output}")


def _version(mark: str) -> str:
    # Start with a letter: a part of digits only would lose its leading zeros.
    return f"{settings.VERSION}+g{mark}"


def _other_files(sources: dict[str, Path]) -> dict[str, bytes]:
    """Return the downloads other than the wheel, by names that contain their digest."""
    contents = {
        ("requirements", ".txt"): _runtime_lock(sources["requirements.lock"].read_text()).encode(),
        ("fleet_agent", ".py"): fleet_agent_file.build(
            sources["bootloader/fleet_agent/__init__.py"].parent
        ),
        ("boot", ".sh"): "\n".join(
            sources[f"bootloader/boot/scripts/{part}"].read_text() for part in PARTS
        ).encode(),
        ("package", ".json"): sources["lieutenants/agents/pi/node/package.json"].read_bytes(),
        ("package-lock", ".json"): sources[
            "lieutenants/agents/pi/node/package-lock.json"
        ].read_bytes(),
    }
    return {
        f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{end}": content
        for (stem, end), content in contents.items()
    }


def _runtime_lock(lock: str) -> str:
    """Return the lock's runtime part, without test packages."""
    found = re.search(r"(?ms)^#: run\n(.*?)(?=^#: |\Z)", lock)
    if not found:
        raise PackagingFailed(
            "this reef cannot be packed for VMs: requirements.lock has no run block"
        )
    return found[1]


def _load(folder: Path, mark: str) -> Dist:
    """Return the files in a built folder."""

    def one(pattern: str) -> DistFile:
        path = next(folder.glob(pattern))
        return DistFile(path.name, path, sha256_of(path), path.stat().st_size)

    return Dist(
        version=_version(mark),
        wheel_file=one("reef-*.whl"),
        lock_file=one("requirements-*.txt"),
        agent_file=one("fleet_agent-*.py"),
        body_file=one("boot-*.sh"),
        npm_package_file=one("package-[0-9a-f]*.json"),
        npm_lock_file=one("package-lock-*.json"),
    )
