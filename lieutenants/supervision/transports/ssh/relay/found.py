"""Runs that reef does not know: what is noted about them, and the end of one that was found."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from lieutenants.supervision.transports.ssh.relay.machine import (
    MB,
    Control,
    Refused,
    expand,
    generation_of,
    handle_of,
    is_alive,
    is_running,
    parse_object,
    read_file,
    stat_fields,
)
from lieutenants.supervision.transports.ssh.relay.older import end_older, find_older
from lieutenants.supervision.transports.ssh.relay.starting import keeper_processes, sweep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STOP_SECONDS = 20.0  # until a keeper that was asked to stop has ended
KILL_SECONDS = 3.0
IDENTITY = ("keeper_pid", "keeper_started", "agent_pid", "agent_started", "boot_id")


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """Return what is noted about each of the run folders `dirs`, in the same order.

    These are the object in the file `note` of its lieutenant, the name of the newest file of its
    session, and the generation of the newest follower.
    """
    found = []
    for each in request["dirs"]:
        directory = expand(each)
        root = owner_folder(directory)
        note = read_file(os.path.join(root, os.path.basename(request["note"])), MB)
        facts = {"session": newest_session(root), "generation": generation_of(directory)}
        found.append({"note": parse_object(note), **facts})
    return {"runs": found}


def owner_folder(directory: str) -> str:
    """Return the folder of the lieutenant to which a run folder belongs."""
    return os.path.dirname(os.path.dirname(directory))


def newest_session(root: str) -> str:
    """Return the name of the session file that was written last; empty without one."""
    found = []
    folder = os.path.join(root, "session")
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.endswith(".jsonl"):
                with contextlib.suppress(OSError):
                    found.append((os.stat(os.path.join(folder, name)).st_mtime, name))
    return max(found)[1] if found else ""


def end_found(request: dict[str, Any]) -> dict[str, Any]:
    """End the keeper and the agent of `handle` in the run folder `dir`; return as `gone` whether
    they have ended.

    Nothing else is ended: nothing that was started since, and no other run of the lieutenant.
    """
    directory, found = expand(request["dir"]), request["handle"]
    if not found.get("boot_id"):
        raise Refused("it is not known in which boot of the machine it was found")
    if not is_alive(found):
        return {"gone": True}
    if not is_same(handle_of(directory), found):
        raise Refused("its folder is another supervisor's now")
    owner = os.path.basename(owner_folder(directory))
    if has_twin(directory):
        # Both have the lieutenant's mark, by which a keeper ends what its agent leaves behind.
        kill(found, request.get("program"))
        return {"gone": not is_alive(found)}
    with contextlib.suppress(Refused), Control(directory) as control:
        control.ask({"op": "stop"})
        await_end(found, STOP_SECONDS)
    if is_alive(found):
        kill(found, request.get("program"))
        sweep(request.get("program"), owner)
    return {"gone": not is_alive(found)}


def end_older_found(request: dict[str, Any]) -> dict[str, Any]:
    """End the agent of an older server that was found, which has no keeper; see `end_found`."""

    def is_there() -> bool:
        older = find_older()["older"] or {}
        return all(older.get(name) == request[name] for name in ("pid", "started"))

    if is_there():
        end_older(request.get("program"))
    return {"gone": not is_there()}


def is_same(handle: dict[str, Any] | None, found: dict[str, Any]) -> bool:
    return handle is not None and all(handle.get(name) == found.get(name) for name in IDENTITY)


def has_twin(directory: str) -> bool:
    """Return whether another keeper of the same lieutenant is alive."""
    runs, name = os.path.split(directory)
    for other in os.listdir(runs):
        handle = handle_of(os.path.join(runs, other)) if other != name else None
        if handle and is_alive(handle):
            return True
    return False


def await_end(found: dict[str, Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    while is_alive(found) and time.monotonic() < until:
        time.sleep(0.05)


def kill(found: dict[str, Any], program: Any) -> None:
    """Kill a keeper, then its agent with all that descends from it."""
    doomed = [(found["keeper_pid"], found["keeper_started"])]
    agent = (found["agent_pid"], found["agent_started"])
    if is_running(*agent):
        doomed.append(agent)
        for pid in keeper_processes(program).descendants(agent[0]):
            fields = stat_fields(pid)
            if len(fields) > 19:
                doomed.append((pid, int(fields[19])))
    for pid, started in doomed:
        kill_exactly(pid, started)
    await_end(found, KILL_SECONDS)


def kill_exactly(pid: int, started: int) -> None:
    """Kill the process of this pid and start time, and no later one of the same pid."""
    with contextlib.suppress(OSError):
        if not hasattr(signal, "pidfd_send_signal"):
            # Before Python 3.9.
            if is_running(pid, started):
                os.kill(pid, signal.SIGKILL)
            return
        descriptor = os.pidfd_open(pid)
        try:
            if is_running(pid, started):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
