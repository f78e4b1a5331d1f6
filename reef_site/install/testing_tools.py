"""Tools of the tests beside Python: agents and axe-core by npm; a browser, sshd and more by apt.

Missing tools are installed where that is allowed. The tests get the paths in variables
`REEF_TEST_…`, and `REEF_TEST_PROBLEMS`, a JSON object with a sentence for each missing tool.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bootloader.boot import npm_agent
from bootloader.boot.npm_agent import CHECKOUT, InstallError, Recipe, apt_install

CACHE = CHECKOUT / ".cache"
# The agents that the tests run beside the pinned one, by the end of their variable's name.
OLDER_AGENTS = {
    "087": Recipe(CHECKOUT / "tests" / "agents" / "pi-0.87", npm_agent.PINNED.package),
    "073": Recipe(CHECKOUT / "tests" / "agents" / "pi-0.73", "@mariozechner/pi-coding-agent"),
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Report = Callable[[str], object]
# Speaks the Agent Client Protocol for one of these agents.
ADAPTER = Recipe(CHECKOUT / "tests" / "agents" / "pi-acp", "pi-acp", "pi-acp")
# Checks the accessibility of pages, as a script that a browser runs.
AXE = Recipe(CHECKOUT / "tests" / "axe", "axe-core")


@dataclass(frozen=True)
class Program:
    """A program of the machine: the variable for its path, and the packages that contain it."""

    name: str
    variable: str
    find: Callable[[], str | None]
    packages: tuple[str, ...]


@dataclass
class ToolSet:
    """The tools that were found, by variable, and the problems with the rest, by name."""

    found: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the variables for the tests."""
        facts = {"REEF_TEST_CACHE": str(CACHE), "REEF_TEST_PROBLEMS": json.dumps(self.problems)}
        return {**facts, **self.found}


def find_browser() -> str | None:
    """Return a Chromium that Playwright can drive."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def find_for_root(name: str) -> str | None:
    """Find a program also in the folders of root's PATH. sshd must be called by its full path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


def find_postgresql() -> str | None:
    """Return the folder with initdb and postgres; the newest if there are several."""
    homes = Path("/usr/lib/postgresql").glob("*/bin")
    places = sorted(homes, key=lambda path: path.parent.name.rjust(4), reverse=True)
    if on_path := shutil.which("initdb"):
        places.append(Path(on_path).resolve().parent)
    return next((str(path) for path in places if (path / "postgres").exists()), None)


PROGRAMS = (
    Program("chromium", "REEF_TEST_CHROMIUM", find_browser, ("chromium", "fonts-dejavu-core")),
    Program("sshd", "REEF_TEST_SSHD", partial(find_for_root, "sshd"), ("openssh-server",)),
    Program("bubblewrap", "REEF_TEST_BUBBLEWRAP", partial(find_for_root, "bwrap"), ("bubblewrap",)),
    Program("ip", "REEF_TEST_IP", partial(find_for_root, "ip"), ("iproute2",)),
    Program("iptables", "REEF_TEST_IPTABLES", partial(find_for_root, "iptables"), ("iptables",)),
    Program("openssl", "REEF_TEST_OPENSSL", partial(find_for_root, "openssl"), ("openssl",)),
    Program(
        "cloud-init", "REEF_TEST_CLOUD_INIT", partial(find_for_root, "cloud-init"), ("cloud-init",)
    ),
    # Agents of older servers run in it.
    Program("tmux", "REEF_TEST_TMUX", partial(shutil.which, "tmux"), ("tmux",)),
    # Login shells of the tests' hosts.
    Program("zsh", "REEF_TEST_ZSH", partial(shutil.which, "zsh"), ("zsh",)),
    Program("fish", "REEF_TEST_FISH", partial(shutil.which, "fish"), ("fish",)),
    Program("tcsh", "REEF_TEST_TCSH", partial(shutil.which, "tcsh"), ("tcsh",)),
    Program("postgresql", "REEF_TEST_POSTGRESQL", find_postgresql, ("postgresql",)),
)


def prepare(report: Report) -> ToolSet:
    """Find the tools, and install missing ones where that is allowed."""
    tools = ToolSet()
    missing = [program for program in PROGRAMS if not program.find()]
    reason = _install(missing, report) if missing else ""
    for program in PROGRAMS:
        if path := program.find():
            tools.found[program.variable] = path
        else:
            command = apt_install(*program.packages)
            why = f"{program.name} is missing{reason}. Fix it with `{command}`"
            tools.problems[program.name] = why
            report(why)
    _install_agents(tools, report)
    _install_axe(tools, report)
    return tools


def _install(missing: list[Program], report: Report) -> str:
    """Install by apt; return the reason of a failure as part of a sentence, or an empty text."""
    if not shutil.which("apt-get"):
        return " and there is no apt here"
    if os.geteuid() != 0:
        return " and only root may install it"
    packages = [package for program in missing for package in program.packages]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        report(f"apt-get {' '.join(words)}")
        done = subprocess.run(
            ["apt-get", "-q", *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            report("\n".join(done.stdout.splitlines()[-8:]))
            return " and apt-get failed"
    return ""


def _install_agents(tools: ToolSet, report: Report) -> None:
    """Install the agents in folders of their own, so that tests never use the machine's."""
    home = CACHE / "agents"
    try:
        pinned = npm_agent.ensure(npm_agent.PINNED, home / "pi-pinned", report)
        tools.found["REEF_TEST_PI_160"] = str(pinned.pi)
        tools.found["REEF_TEST_NODE22"] = str(pinned.node)
    except InstallError as error:
        tools.problems["pi_160"] = str(error)
        report(str(error))
    for name, recipe in OLDER_AGENTS.items():
        try:
            older = npm_agent.ensure(recipe, home / recipe.source.name, report)
            tools.found[f"REEF_TEST_PI_{name}"] = str(older.pi)
        except InstallError as error:
            tools.problems[f"pi_{name}"] = str(error)
            report(str(error))
    try:
        adapter = npm_agent.ensure(ADAPTER, home / "pi-acp", report)
        tools.found["REEF_TEST_PI_ACP"] = str(adapter.cli)
    except InstallError as error:
        tools.problems["pi_acp"] = str(error)
        report(str(error))


def _install_axe(tools: ToolSet, report: Report) -> None:
    """Install axe-core at its locked version; it has no dependencies and no program."""
    folder = CACHE / "axe-core" / AXE.mark()
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    npm = shutil.which("npm")
    if npm and not script.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        shutil.copytree(AXE.source, unfinished)
        report(f"installing axe-core by npm into {folder}")
        command = [npm, "ci", *npm_agent.NPM_OPTIONS]
        done = subprocess.run(command, cwd=unfinished, capture_output=True, check=False)
        if done.returncode or folder.exists():
            shutil.rmtree(unfinished)
        else:
            unfinished.rename(folder)
    if script.exists():
        tools.found["REEF_TEST_AXE"] = str(script)
    else:
        tools.problems["axe-core"] = "axe-core could not be installed by npm"
        report(tools.problems["axe-core"])
