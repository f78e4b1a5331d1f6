"""The keeper's own process: from the spec on its stdin to the end of the agent."""

from __future__ import annotations

import contextlib
import os
import signal

from .agent import spawn
from .control import refusal
from .journal import describe, log_problem
from .json_lines import pack, parse_object
from .keeper import Keeper
from .pipes import read_all
from .processes import boot_id, started, sweep
from .run_files import (
    AlreadyRunningError,
    claim_directory,
    listen,
    lock_session,
    make_key,
    remove,
    write_file,
)
from .sandbox.kernel import adopt_orphans, set_dumpable
from .spec import KeeperError, Spec

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .agent import Agent


def catch_signals() -> int:
    """Return a descriptor that becomes readable with the numbers of received signals."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGIO):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reader


def detach(descriptor: int) -> None:
    """Point an inherited descriptor to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def close_inherited() -> None:
    """Close all descriptors except the standard three."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # one of them listed the directory
                os.close(int(name))


def prepare(spec: Spec) -> tuple[Keeper, dict[str, Any]]:
    """Start the agent; return the keeper and its reply.

    Raises KeeperError, AlreadyRunningError, OSError.
    """
    claim_directory(spec.dir)
    log = os.open("keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if spec.lock:
        lock_session(spec.lock)
    if spec.tag:
        sweep(spec.tag, user=spec.own_user, lieutenants=spec.lieutenants)
    wakeup, listener, key = catch_signals(), listen(), make_key()
    try:
        agent = spawn(spec)
    except KeeperError:
        remove("control.sock")
        raise
    os.dup2(log, 2)
    os.close(log)
    try:
        keeper = Keeper(spec, agent, listener, wakeup, key)
        keeper.begin()
        answer = start_reply(spec, agent)
        write_file("keeper.json", pack(answer))
        keeper.remember_facts(pack(answer))
    except OSError:
        agent.signal(signal.SIGKILL)
        agent.reap()
        raise
    spec.env.clear()  # may hold secrets, and is not needed any more
    spec.argv.clear()
    return keeper, answer


def start_reply(spec: Spec, agent: Agent) -> dict[str, Any]:
    """Return the reply to `start`: pids and start times of keeper and agent."""
    return {
        "ok": True,
        "run": spec.run,
        "keeper_pid": os.getpid(),
        "keeper_started": started(os.getpid()),
        "agent_pid": agent.pid,
        "agent_started": agent.started,
        "boot_id": boot_id(),
        "isolation": spec.isolation.get("mode"),
        "own_user": spec.own_user,
        "uid": spec.isolation.get("uid", 0),
    }


def run_keeper() -> None:
    """Run the keeper's own process until the agent ends.

    Reads the spec from stdin and writes the reply to stdout.
    """
    close_inherited()
    os.setsid()
    os.umask(0o077)
    keeper = None
    try:
        set_dumpable(False)
        adopt_orphans()
        given = parse_object(read_all(0))
        detach(0)
        if given is None:
            raise KeeperError("the spec is not a JSON object")
        keeper, answer = prepare(Spec(given))
    except AlreadyRunningError as held:
        answer = held.args[0]
    except KeeperError as trouble:
        answer = refusal(str(trouble))
    except OSError as trouble:
        answer = refusal(describe(trouble))
    print_json(answer)
    detach(1)
    if keeper is not None:
        keeper.run()


def print_json(answer: dict[str, Any]) -> None:
    try:
        os.write(1, pack(answer))
    except OSError as trouble:
        log_problem("nobody waits for the answer: {}".format(trouble.strerror))
