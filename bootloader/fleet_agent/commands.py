"""The command line."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, List, NoReturn

from .agent import FleetAgent
from .errors import AgentError, StopRequested
from .home import Home
from .machine import process_started
from .membership import join, renew

MIN_PYTHON = (3, 8)
MAX_LOG_BYTES = 1 << 20


def log_line(text: str) -> None:
    """Write one line to stderr, with the time unless the journal adds it."""
    stamp = "" if os.environ.get("JOURNAL_STREAM") else time.strftime("%Y-%m-%dT%H:%M:%S%z ")
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("{}{}\n".format(stamp, " ".join(text.split())))
        sys.stderr.flush()


def is_same_file(opened: int, path: str) -> bool:
    """Return whether the path still leads to this open file."""
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except OSError:
        return False


def command_run(home: Home) -> int:
    """Send heartbeats until stopped. Only one agent may run for a home."""
    os.makedirs(home.path("run"), mode=0o700, exist_ok=True)
    with open(home.path("run", "fleet-agent.lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AgentError("a fleet agent runs already for {}".format(home.folder)) from None
        if not is_same_file(lock.fileno(), lock.name):
            raise AgentError("the lock of {} was removed while it was taken".format(home.folder))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        FleetAgent(home, log_line).run()
    return 0


def stop(*_: Any) -> NoReturn:
    """Handle the first signal and ignore later ones, so that signing off is not interrupted."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise StopRequested


def command_start(home: Home) -> int:
    """Run detached, with a log; do nothing if one runs already."""
    if running(home):
        return 0
    os.makedirs(home.path("log"), mode=0o700, exist_ok=True)
    log = home.path("log", "fleet-agent.log")
    with contextlib.suppress(OSError):
        if os.path.getsize(log) > MAX_LOG_BYTES:
            os.replace(log, log + ".1")
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    argv = [sys.executable, os.path.abspath(__file__), "run", "--home", home.folder]
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=handle,
        stderr=handle,
        start_new_session=True,
        cwd="/",
    )
    os.close(handle)
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        if child.poll() is not None:
            raise AgentError("it ended at once; {} says why".format(log))
        if running(home):
            return 0
        time.sleep(0.05)
    raise AgentError("it did not begin; {} may say why".format(log))


def running(home: Home) -> int:
    """Return the pid of the agent that runs for this home; 0 if there is none."""
    state = home.state()
    try:
        pid = int(state["pid"])
        return pid if process_started(pid) == state["started"] else 0
    except (OSError, KeyError, TypeError, ValueError, IndexError):
        return 0


def command_stop(home: Home) -> int:
    """Stop a running agent and wait for its end."""
    pid = running(home)
    if pid:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 15.0
    while running(home):
        if time.monotonic() > end:
            raise AgentError("process {} does not end".format(pid))
        time.sleep(0.05)
    return 0


def command_status(home: Home, wait: float) -> int:
    """Print the state of the running agent; return 0 if its last heartbeat succeeded."""
    end = time.monotonic() + wait
    while True:
        pid, state = running(home), home.state()
        good = bool(pid and state.get("lastBeatAt") and not state.get("problem"))
        if good or time.monotonic() >= end:
            break
        time.sleep(0.1)
    print(json.dumps({"running": bool(pid), "good": good, **state}))
    return 0 if good else 1


UNIT_TEMPLATE = """\
[Unit]
Description=reef fleet agent: keeps this VM a member of its fleet
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={python} {program} run --home {home}
Restart=always
RestartSec=5
KillMode=process
OOMPolicy=continue
TasksMax=64
TimeoutStopSec=20
UMask=0077
NoNewPrivileges=yes
ProtectSystem=full
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def command_unit(home: Home) -> int:
    """Print a systemd unit for this file and this home."""
    values = {
        "python": unit_word(sys.executable),
        "program": unit_word(os.path.abspath(__file__)),
        "home": unit_word(home.folder),
    }
    sys.stdout.write(UNIT_TEMPLATE.format(**values))
    return 0


def unit_word(text: str) -> str:
    """Quote a word of a unit's command line, so that systemd expands nothing in it."""
    if any(ord(character) < 32 for character in text):
        raise AgentError("a path for systemd has no control characters")
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return '"{}"'.format(text)


def main(argv: List[str]) -> int:
    """Run one command; an AgentError is printed to stderr and exits with 1."""
    if sys.version_info < MIN_PYTHON:
        sys.stderr.write("the fleet agent needs Python 3.8 or newer\n")
        return 1
    parser = argparse.ArgumentParser(description="Keeps a VM a member of its fleet.")
    verbs = ("join", "run", "start", "stop", "status", "renew", "unit")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--home", default=os.environ.get("REEF_HOME") or "/opt/reef")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds, for status")
    options = parser.parse_args(argv)
    home = Home(options.home)
    try:
        if options.verb == "join":
            join(home, log_line)
        elif options.verb == "renew":
            log_line(renew(home))
        elif options.verb == "status":
            return command_status(home, options.wait)
        else:
            commands = {"run": command_run, "start": command_start, "stop": command_stop}
            return {**commands, "unit": command_unit}[options.verb](home)
    except AgentError as error:
        log_line(str(error))
        return 1
    except OSError as error:
        log_line("{}: {}".format(options.verb, error))
        return 1
    except (StopRequested, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
