"""What the tests need beside Python: both agents by npm; a browser, sshd and more by apt.

What is missing is fetched where that is allowed. What is found is told to the tests in variables
`REEF_TEST_…`; what is not, in `REEF_TEST_PROBLEMS`, a JSON object with a sentence for each name.
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

from bootloader import agent_install
from bootloader.agent_install import CHECKOUT, InstallError, Recipe, apt_install

CACHE = CHECKOUT / ".cache"
OLD_AGENT = Recipe(CHECKOUT / "tests" / "agents" / "pi-0.73", "@mariozechner/pi-coding-agent")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Say = Callable[[str], object]


@dataclass(frozen=True)
class Program:
    """A program of the machine, the variable that tells where it is, the packages that hold it."""

    name: str
    variable: str
    find: Callable[[], str | None]
    packages: tuple[str, ...]


@dataclass
class Testbed:
    """What was found, as variables, and why the rest was not."""

    found: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The variables for the tests."""
        facts = {"REEF_TEST_CACHE": str(CACHE), "REEF_TEST_PROBLEMS": json.dumps(self.problems)}
        return {**facts, **self.found}


def find_browser() -> str | None:
    """A Chromium that Playwright can drive."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def find_for_root(name: str) -> str | None:
    """A program that may lie where only root's path leads. sshd must be called by this path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


def find_postgresql() -> str | None:
    """The folder with initdb and postgres; the newest if there are several."""
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
    # Login shells that the hosts of the tests have.
    Program("zsh", "REEF_TEST_ZSH", partial(shutil.which, "zsh"), ("zsh",)),
    Program("fish", "REEF_TEST_FISH", partial(shutil.which, "fish"), ("fish",)),
    Program("tcsh", "REEF_TEST_TCSH", partial(shutil.which, "tcsh"), ("tcsh",)),
    Program("postgresql", "REEF_TEST_POSTGRESQL", find_postgresql, ("postgresql",)),
)


def prepare(say: Say) -> Testbed:
    """Find what the tests need, and fetch what is missing where that is allowed."""
    bed = Testbed()
    missing = [program for program in PROGRAMS if not program.find()]
    trouble = _fetch(missing, say) if missing else ""
    for program in PROGRAMS:
        if path := program.find():
            bed.found[program.variable] = path
        else:
            command = apt_install(*program.packages)
            why = f"{program.name} is missing{trouble}. Mend it with `{command}`"
            bed.problems[program.name] = why
            say(why)
    _agents(bed, say)
    return bed


def _fetch(missing: list[Program], say: Say) -> str:
    """Install by apt; returns what kept us from it, to be put into a sentence, or nothing."""
    if not shutil.which("apt-get"):
        return " and there is no apt here"
    if os.geteuid() != 0:
        return " and only root may install it"
    packages = [package for program in missing for package in program.packages]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        say(f"apt-get {' '.join(words)}")
        done = subprocess.run(
            ["apt-get", "-q", *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            say("\n".join(done.stdout.splitlines()[-8:]))
            return " and apt-get failed"
    return ""


def _agents(bed: Testbed, say: Say) -> None:
    """Both agents, each in a folder of its own, so that no test touches the machine's own."""
    home = CACHE / "agents"
    try:
        new = agent_install.ensure(agent_install.PINNED, home / "pi-0.87", say)
        bed.found["REEF_TEST_PI_087"] = str(new.pi)
        bed.found["REEF_TEST_NODE22"] = str(new.node)
    except InstallError as error:
        bed.problems["pi_087"] = str(error)
        say(str(error))
    try:
        old = agent_install.ensure(OLD_AGENT, home / "pi-0.73", say)
        bed.found["REEF_TEST_PI_073"] = str(old.cli)
    except InstallError as error:
        bed.problems["pi_073"] = str(error)
        say(str(error))
