"""Install the coding agent on a VM from the same npm lock as on the root.

`python3 -m bootloader.boot.on_vm.install_agent --target REEF_HOME/agent`, from the unpacked wheel.
Standard library only, Python 3.9 or newer. On a VM without npm, the Node version of the agent's
lock and the npm version named here are downloaded from a registry (`--npm-from`: the configured
one, otherwise the one that the root's own npm uses) and checked by their SHA-512.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bootloader.boot.npm_agent import (
    NODE_PACKAGES,
    NPM_OPTIONS,
    PINNED,
    InstallError,
    Recipe,
    ensure_or_note,
    installed,
)
from bootloader.boot.on_vm.reasons import cause
from reef_site.common.text import clip_start

MIN_NODE = 20
# Disk space for the agent with its packages, plus some reserve.
NEEDED_MIB = 400
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Package:
    """A package of the npm registry at one version, with its integrity hash."""

    name: str
    version: str
    integrity: str

    def url(self, registry: str) -> str:
        """Return the address of its tarball."""
        return f"{registry}/{self.name}/-/{self.name}-{self.version}.tgz"


NPM = Package(
    "npm",
    "11.21.2",
    "sha512-7HPApk+AflMUavSseL1Pm6CnYqMIHk53x+KmuhqmTDqPkjPMgxIpTPcTqsE91EKNw4gFBJV9fnXiSdGm1DXq9A==",
)


def main(argv: list[str] | None = None) -> int:
    """Install and log to stdout; return 1 on failure."""
    parser = argparse.ArgumentParser(description="install the coding agent on a VM")
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--version", default="", help="another one than the lock's")
    parser.add_argument("--npm-from", default="", help="the registry, if there is no npm here")
    options = parser.parse_args(argv)
    registry = options.npm_from.rstrip("/")
    try:
        recipe = PINNED
        if options.version and options.version != locked_version():
            provide_npm(options.target.parent, registry)
            recipe = recipe_for(options.version, options.target.parent)
        if not installed(recipe, options.target):
            check_room(options.target)
            provide_npm(options.target.parent, registry)
    except (InstallError, OSError) as error:
        say(str(error))
        return 1
    return 0 if ensure_or_note(recipe, options.target.absolute(), say) else 1


def check_room(target: Path) -> None:
    """Raise InstallError unless the disk has enough free space for the agent."""
    folder = next(each for each in target.absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free >> 20
    if free < NEEDED_MIB:
        text = f"no space left for the agent: {folder} has {free} MiB free"
        raise InstallError(f"{text}, and the agent takes {NEEDED_MIB} MiB")


def say(line: str) -> None:
    """Print a line for the boot log."""
    print(line, flush=True)  # noqa: T201


def locked_version() -> str:
    """Return the agent's version in the bundled lock."""
    facts = json.loads((PINNED.source / "package.json").read_text())
    return str(facts["dependencies"][PINNED.package])


def recipe_for(version: str, home: Path) -> Recipe:
    """Resolve a lock for another version. Raise InstallError."""
    folder = home / f"agent-recipe-{hashlib.sha256(version.encode()).hexdigest()[:12]}"
    recipe = Recipe(folder, PINNED.package)
    if recipe.lock.exists():
        return recipe
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.loads((PINNED.source / "package.json").read_text())
    facts["dependencies"][PINNED.package] = version
    (folder / "package.json").write_text(json.dumps(facts, indent=2) + "\n")
    command = ["npm", "install", "--package-lock-only", *NPM_OPTIONS]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        why = clip_start(cause(done.stderr), 500)
        raise InstallError(f"npm finds no version {version} of {PINNED.package}: {why}")
    return recipe


# -- installing npm ------------------------------------------------------------------------------


def provide_npm(home: Path, registry: str) -> None:
    """Put npm and its Node on this process's PATH, unless suitable ones exist.

    Raise InstallError.
    """
    if shutil.which("npm") and _node_major() >= MIN_NODE:
        return
    if not registry:
        raise InstallError("there is no npm here; REEF_NPM_REGISTRY says where to get one, if set")
    node = node_package()
    folder = home / "npm" / f"{node.version}-{NPM.version}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for package in (node, NPM):
            say(f"fetching {package.name} {package.version}")
            fetch(package, registry, folder / package.name)
        _write_programs(folder, node)
        (folder / "complete").touch()
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # This Node has its own certificates; add those that the VM trusts.
    if TRUSTED.exists():
        os.environ.setdefault("NODE_EXTRA_CA_CERTS", str(TRUSTED))


def node_package() -> Package:
    """Return the Node package that the agent's lock names for this architecture.

    Raise InstallError.
    """
    name = NODE_PACKAGES.get(platform.machine())
    packages = json.loads(PINNED.lock.read_text())["packages"]
    facts = packages.get(f"node_modules/{name}")
    if not name or not facts:
        raise InstallError(f"there is no Node for this kind of machine ({platform.machine()})")
    return Package(name, facts["version"], facts["integrity"])


def fetch(package: Package, registry: str, target: Path) -> None:
    """Download, verify and unpack a package. Raise InstallError."""
    url = package.url(registry)
    target.mkdir(parents=True)
    draft = target.with_suffix(".tgz")
    if not url.startswith(("https://", "http://")):
        raise InstallError(f"{url} is no address of an npm registry")
    try:
        with urllib.request.urlopen(url, timeout=120) as answer, draft.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise InstallError(f"{url} could not be fetched: {error}") from None
    if _integrity(draft) != package.integrity:
        raise InstallError(f"{url} has another SHA-512 than the lock says")
    with tarfile.open(draft) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(target, filter="data")
        else:  # safe: the hash of the archive was verified
            archive.extractall(target)  # noqa: S202
    draft.unlink()


def _integrity(path: Path) -> str:
    digest = hashlib.sha512()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha512-{base64.b64encode(digest.digest()).decode()}"


def _write_programs(folder: Path, node: Package) -> None:
    programs = folder / "bin"
    programs.mkdir()
    binary = folder / node.name / "package" / "bin" / "node"
    binary.chmod(0o755)
    (programs / "node").symlink_to(binary)
    script = "../npm/package/bin/npm-cli.js"
    (programs / "npm").write_text(
        f'#!/bin/sh\nhere=$(dirname "$0")\nexec "$here/node" "$here/{script}" "$@"\n'
    )
    (programs / "npm").chmod(0o755)


def _node_major() -> int:
    """Return the major version of the Node on PATH; 0 without one."""
    node = shutil.which("node")
    if not node:
        return 0
    result = subprocess.run(
        [node, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    number = result.stdout.strip().lstrip("v").split(".")[0]
    return int(number) if number.isdigit() else 0


if __name__ == "__main__":
    sys.exit(main())
