"""Checks whether a program is the agent: runs it with `--version`, isolated and with limits.

Debian has a `pi` that prints digits of π endlessly; version managers put shims on the PATH that
need variables which agents do not get; a link may point to a Node that was removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from lieutenants.agents.base import HostCheck
from lieutenants.agents.pi.program import Agent, find_agent
from lieutenants.exceptions import AgentMissing

TIMEOUT_SECONDS = 10.0
MAX_OUTPUT_BYTES = 16 << 10
MIN_VERSION = (0, 73)
# A failure is cached for this long, a success until the file changes.
CACHE_FAILURE_SECONDS = 20.0
REMEDY = (
    "Set PI_PATH= to the agent, or install it (npm install -g @earendil-works/pi-coding-agent)."
)

_VERSION = re.compile(r"(?<![\w.])v?(\d+)\.(\d+)\.(\d+)\b")
_POLL_SECONDS = 0.002
# Programs that run a script which cannot run here: each tells its own version, not the agent's.
_INTERPRETERS = re.compile(r"(node(js)?|bun|deno|(ba|da|z)?sh|env|python[\d.]*)")


@dataclass(frozen=True)
class _Output:
    """Result of running a program; `code` is None if it was killed."""

    code: int | None
    text: str = ""
    trouble: str = ""
    is_late: bool = False


# By path and file state: the problem, and the time until which it is cached.
_cache: dict[tuple[object, ...], tuple[str, float]] = {}


def problem_of(agent: Agent) -> str:
    """Return why this program cannot be the agent, with the remedy; empty if it can.

    It runs with the environment of agents, but with an empty home.
    """
    key = _cache_key(agent.path)
    problem, until = _cache.get(key, ("", 0.0))
    if time.monotonic() < until:
        return problem
    problem = check(agent.path, agent_environment(), is_packaged=bool(agent.version))
    until = time.monotonic() + (CACHE_FAILURE_SECONDS if problem else 1e9)
    _cache[key] = (problem, until)
    return problem


def check(path: Path, environment: Mapping[str, str], *, is_packaged: bool = False) -> str:
    """Return why the program is not the agent; a program of a known package may be slow."""
    result = _run(path, environment)
    if result.is_late and is_packaged:
        return ""
    problem = result.trouble or _problem_in(result)
    return f"{path} cannot be used as the agent: {problem}. {REMEDY}" if problem else ""


def agent_environment() -> dict[str, str]:
    """Return the variables of our environment that agents get."""
    return {name: os.environ[name] for name in settings.AGENT_ENV if name in os.environ}


def check_host() -> HostCheck:
    """Check the `pi` that would be used, and reject one that is not an agent.

    A version manager's shim that needs variables agents do not get is replaced by its target.
    """
    if not (settings.PI_PATH or shutil.which("pi")):
        return HostCheck()
    try:
        agent = find_agent()
    except AgentMissing:
        return HostCheck()
    problem = problem_of(agent)
    if not problem:
        return HostCheck()
    if real := resolve_shim(agent.path):
        note = f"{agent.path} is a shim; agents are started as {real}"
        return HostCheck(notes=[note], environment={"PI_PATH": str(real)})
    if settings.PI_PATH:
        return HostCheck(problem)
    note = f"warning: {problem} reef uses an agent of its own instead."
    return HostCheck(notes=[note], environment={"REEF_OWN_AGENT": "1"})


def resolve_shim(path: Path) -> Path | None:
    """Return the program that a shim runs in our environment, if agents can run it too."""
    seen: list[Path] = []
    with _running(path, os.environ) as process:
        end = time.monotonic() + TIMEOUT_SECONDS
        while process.poll() is None and time.monotonic() < end:
            for each in _programs_of(process.pid):
                if each not in seen:
                    seen.append(each)
            time.sleep(_POLL_SECONDS)
    shim = path.resolve()
    for each in reversed(seen):
        target = each.resolve()
        if target == shim or _INTERPRETERS.fullmatch(target.name):
            continue
        if not check(each, agent_environment()):
            return each
    return None


def _problem_in(result: _Output) -> str:
    """Return why the output is not that of the agent; empty if it is."""
    if result.code != 0:
        line = _telling_line(result.text)
        return f"asked for --version, it ended with exit code {result.code}" + (
            f" ({line})" if line else ""
        )
    found = _VERSION.search(result.text)
    if found is None:
        line = _telling_line(result.text)
        return f"asked for --version, it answered {line!r}" if line else "it tells no version"
    version = tuple(map(int, found.groups()))
    if version < MIN_VERSION:
        return f"it is version {found[0]}, and reef works from {MIN_VERSION[0]}.{MIN_VERSION[1]} on"
    return ""


def _run(path: Path, environment: Mapping[str, str]) -> _Output:
    try:
        with _running(path, environment) as process:
            return _read_output(process)
    except OSError as error:
        return _Output(None, trouble=_why_not_executable(path, error))


@contextlib.contextmanager
def _running(path: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run `<path> --version` in an empty home; kill its process group at the end."""
    with tempfile.TemporaryDirectory(prefix="reef-version-", ignore_cleanup_errors=True) as home:
        own_home = {"HOME": home} if environment is not os.environ else {}
        quiet = {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}
        process = subprocess.Popen(
            [str(path), "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, **own_home, **quiet},
            cwd=home,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()


def _read_output(process: subprocess.Popen[bytes]) -> _Output:
    """Read the output up to the limits."""
    assert process.stdout is not None
    output, end = process.stdout.fileno(), time.monotonic() + TIMEOUT_SECONDS
    os.set_blocking(output, False)
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if len(data) > MAX_OUTPUT_BYTES:
                return _Output(None, trouble="asked for --version, it prints without an end")
            rest = end - time.monotonic()
            if rest <= 0:
                late = f"asked for --version, it did not end within {TIMEOUT_SECONDS:g} s"
                return _Output(None, trouble=late, is_late=not data)
            if selector.select(min(rest, 0.1)):
                chunk = os.read(output, MAX_OUTPUT_BYTES)
                data += chunk
                if not chunk:
                    break
            elif process.poll() is not None:
                break
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.1, end - time.monotonic()))
    return _Output(process.returncode, data.decode("utf-8", "replace"))


def _why_not_executable(path: Path, error: OSError) -> str:
    """Return why the program cannot be executed, for example a missing interpreter."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.readline(300)
        command = head[2:].decode("utf-8", "replace").split()
        if head.startswith(b"#!") and command and not os.access(command[0], os.X_OK):
            return f"it cannot be run, because its interpreter {command[0]} is missing"
    return f"it cannot be run ({error.strerror or type(error).__name__})"


def _telling_line(text: str) -> str:
    """Return the most telling line, without control characters: the first error, else the first."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = ["".join(filter(str.isprintable, line)) for line in lines if line]
    errors = [line for line in lines if re.search(r"error|not|no ", line, re.IGNORECASE)]
    return (errors or lines or [""])[0][:160]


def _programs_of(pid: int) -> Iterator[Path]:
    """Yield the files that this process and its children execute: programs and scripts."""
    with contextlib.suppress(OSError, ValueError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2]
        named = [os.readlink(f"/proc/{pid}/exe"), *(os.fsdecode(word) for word in words)]
        for name in named:
            if os.path.isabs(name) and os.access(name, os.X_OK) and os.path.isfile(name):
                yield Path(name)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _programs_of(int(child))


def _cache_key(path: Path) -> tuple[object, ...]:
    try:
        found = os.stat(shutil.which(path) or path)
    except OSError:
        return (str(path),)
    return (str(path), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
