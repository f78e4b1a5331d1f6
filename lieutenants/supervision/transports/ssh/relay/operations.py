"""Operations of the relay, beside journals. Each one takes and returns a JSON object."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time

from lieutenants.supervision.transports.ssh.relay.changes import read_changes
from lieutenants.supervision.transports.ssh.relay.found import (
    describe,
    end_found,
    end_older_found,
)
from lieutenants.supervision.transports.ssh.relay.journals import shorten
from lieutenants.supervision.transports.ssh.relay.machine import (
    ROOT,
    Control,
    Refused,
    check_generation,
    expand,
    handle_of,
    is_alive,
    read_file,
    write_file,
)
from lieutenants.supervision.transports.ssh.relay.older import (
    FOLDER,
    end_older,
    find_older,
    is_owned,
    own_older,
)
from lieutenants.supervision.transports.ssh.relay.starting import (
    install,
    look,
    start,
    sweep,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EVICT_SECONDS = 100.0  # until an eviction that is under way has ended


def sweep_run(request: dict[str, Any], directory: str) -> None:
    """End the processes that a run has left behind."""
    owner = os.path.basename(os.path.dirname(os.path.dirname(directory)))
    sweep(request.get("program"), owner)
    end_older(request.get("program"), owner)


def find(request: dict[str, Any]) -> dict[str, Any]:
    return {"handle": handle_of(expand(request["dir"]))}


def send(request: dict[str, Any]) -> dict[str, Any]:
    """Pass commands to a keeper, each after the reply to the previous one.

    Without commands, the keeper only learns the follower's generation.
    """
    generation = {"generation": request.get("generation")}
    with Control(expand(request["dir"])) as control:
        if not request["commands"]:
            control.ask({"op": "state", **generation})
        for command in request["commands"]:
            fields = {"id": command["id"], "line": command["line"]}
            control.ask({"op": "send", **fields, **generation})
    return {}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """Ask the keeper to stop; if it is gone, end the processes that it left."""
    directory = expand(request["dir"])
    handle = handle_of(directory)
    if handle is None or not is_alive(handle):
        check_generation(directory, request)
        sweep_run(request, directory)
        return {"gone": True}
    with Control(directory) as control:
        fields = ("farewell", "farewell_wait", "generation")
        control.ask({"op": "stop", **{name: request.get(name) for name in fields}})
    return {}


def end(request: dict[str, Any]) -> dict[str, Any]:
    """End the agent without its keeper's help, and the keeper itself if asked to."""
    directory = expand(request["dir"])
    check_generation(directory, request)
    handle = handle_of(directory) or request.get("handle") or {}
    sweep_run(request, directory)
    if handle.get("boot_id") and is_alive(handle):
        with contextlib.suppress(OSError):
            os.kill(handle["keeper_pid"], signal.SIGCONT)
            if request.get("keeper"):
                os.kill(handle["keeper_pid"], signal.SIGKILL)
    return {}


def withdraw(request: dict[str, Any]) -> dict[str, Any]:
    """Prevent later keepers in this folder; return the handle of an earlier one."""
    directory = expand(request["dir"])
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as trouble:
        raise Refused(f"cannot make {directory}: {trouble.strerror}") from None
    try:
        for _ in range(20):
            handle = handle_of(directory)
            if handle:
                return {"handle": handle}
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
                continue
            handle = handle_of(directory)
            if handle is None:
                note = json.dumps({"ok": False, "withdrawn": True}).encode()
                write_file(os.path.join(directory, "keeper.json"), note + b"\n")
            return {"handle": handle}
    finally:
        os.close(folder)
    raise Refused("a supervisor is still starting there")


def clean(request: dict[str, Any]) -> dict[str, Any]:
    """Remove the folder of an ended run."""
    directory = expand(request["dir"])
    check_generation(directory, request)
    handle = handle_of(directory)
    if os.path.exists(os.path.join(directory, "keeper.json")) and not (handle and is_alive(handle)):
        shutil.rmtree(directory, ignore_errors=True)
    return {}


def remove(request: dict[str, Any]) -> dict[str, Any]:
    """Remove all that belongs to a lieutenant here, after ending what still runs.

    With `unmarked`, the agent of an older server is its own even without its mark.
    """
    owner = os.path.basename(str(request["lieutenant"]))
    root = os.path.join(ROOT, "lieutenants", owner)
    for directory in run_folders(root):
        check_generation(directory, request)
        handle = handle_of(directory)
        if handle and is_alive(handle):
            raise Refused(f"an agent still runs in {directory}")
    if os.path.isdir(root):
        sweep(request.get("program"), owner)
    unmarked = bool(request.get("unmarked"))
    end_older(request.get("program"), owner, unmarked)
    older = find_older()["older"]
    if older and is_owned(older, owner, unmarked):
        raise Refused("the agent that an older server has started still runs")
    if os.path.isdir(root):
        shutil.rmtree(root, ignore_errors=True)
        if os.path.exists(root):
            raise Refused(f"cannot remove all of {root}")
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(ROOT, "lieutenants"))
        # Nobody is left who needs the programs.
        shutil.rmtree(os.path.join(ROOT, "programs"), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(ROOT, "evicted"))
        os.rmdir(ROOT)
    return {}


def evict(request: dict[str, Any]) -> dict[str, Any]:
    """End the agents that a copied machine has inherited, and remove their files.

    `kept` are the ids of lieutenants that belong here. With the same text `once` this happens once:
    a repeated request must not end agents that came later, so that it waits for the first one.
    """
    os.makedirs(ROOT, mode=0o700, exist_ok=True)
    folder = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(folder)
        return evict_alone(request)
    finally:
        os.close(folder)


def lock(folder: int) -> None:
    """Lock an open folder until it is closed. Raises Refused after EVICT_SECONDS."""
    until = time.monotonic() + EVICT_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise Refused("other agents are still being ended there") from None
            time.sleep(0.1)


def evict_alone(request: dict[str, Any]) -> dict[str, Any]:
    base, ended = os.path.join(ROOT, "lieutenants"), []
    mark = os.path.join(ROOT, "evicted")
    if request.get("once") and read_file(mark) == request["once"].encode():
        return {"ended": []}
    for owner in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        if owner in request["kept"]:
            continue
        for directory in run_folders(os.path.join(base, owner)):
            end({"dir": directory, "program": request.get("program"), "keeper": True})
        sweep(request.get("program"), owner)
        shutil.rmtree(os.path.join(base, owner), ignore_errors=True)
        ended.append(owner)
    older = find_older()["older"] or {}
    if older.get("owner") not in request["kept"] and end_older(request.get("program")):
        ended.append("older")
    if not find_older()["older"]:
        shutil.rmtree(FOLDER, ignore_errors=True)
    if request.get("once"):
        write_file(mark, request["once"].encode())
    return {"ended": ended}


def run_folders(root: str) -> list[str]:
    runs = os.path.join(root, "runs")
    with contextlib.suppress(OSError):
        return sorted(os.path.join(runs, name) for name in os.listdir(runs))
    return []


def list_runs(_request: dict[str, Any]) -> dict[str, Any]:
    """Return all runs here: lieutenant, run, handle, and whether its keeper is alive.

    `older` is as in `find_older`.
    """
    found = []
    base = os.path.join(ROOT, "lieutenants")
    for owner in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        for directory in run_folders(os.path.join(base, owner)):
            handle = handle_of(directory)
            if handle:
                run = os.path.basename(directory)
                facts = {"lieutenant": owner, "run": run, "handle": handle}
                found.append({**facts, "alive": is_alive(handle)})
    return {"runs": found, **find_older()}


OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "install": install,
    "look": look,
    "start": start,
    "find": find,
    "send": send,
    "stop": stop,
    "end": end,
    "withdraw": withdraw,
    "clean": clean,
    "remove": remove,
    "evict": evict,
    "list": list_runs,
    "describe": describe,
    "end_found": end_found,
    "end_older_found": end_older_found,
    "older": find_older,
    "own": own_older,
    "shorten": shorten,
    "changes": read_changes,
}


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request."""
    number = {"n": request.get("n")}
    try:
        operation = OPERATIONS[request["op"]]
        return {**number, "ok": True, **operation(request)}
    except Refused as trouble:
        facts = {"kind": trouble.kind, "generation": trouble.generation}
        return {**number, "ok": False, "error": str(trouble), **facts}
    except OSError as trouble:
        return {**number, "ok": False, "error": f"{trouble.strerror}: {trouble.filename}"}
    except Exception as trouble:  # noqa: BLE001 - one request must not end the others
        text = f"{type(trouble).__name__}: {trouble}"
        return {**number, "ok": False, "error": text[:500]}
