"""Operations of the relay, beside journals. Each one takes and returns a JSON object."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time

from lieutenants.supervision.transports.ssh.relay.machine import (
    ROOT,
    Control,
    Refused,
    expand,
    handle_of,
    is_alive,
    search_path,
    write_file,
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

KEEP_SIZE, PUNCH_HOLE, PAGE = 1, 2, 4096
CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)


def sweep_run(request: dict[str, Any], directory: str) -> None:
    """End the processes that a run has left behind."""
    owner = os.path.basename(os.path.dirname(os.path.dirname(directory)))
    sweep(request.get("program"), owner)


def find(request: dict[str, Any]) -> dict[str, Any]:
    return {"handle": handle_of(expand(request["dir"]))}


def send(request: dict[str, Any]) -> dict[str, Any]:
    """Pass commands to a keeper, each after the reply to the previous one."""
    with Control(expand(request["dir"])) as control:
        for command in request["commands"]:
            fields = {"id": command["id"], "line": command["line"]}
            answer = control.ask({"op": "send", **fields, "generation": request.get("generation")})
            if not answer.get("ok"):
                raise Refused("the supervisor refused: {}".format(answer.get("error")))
    return {}


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """Ask the keeper to stop; if it is gone, end the processes that it left."""
    directory = expand(request["dir"])
    handle = handle_of(directory)
    if handle is None or not is_alive(handle):
        sweep_run(request, directory)
        return {"gone": True}
    with Control(directory) as control:
        fields = ("farewell", "farewell_wait", "generation")
        answer = control.ask({"op": "stop", **{name: request.get(name) for name in fields}})
        if answer.get("error"):
            raise Refused("the supervisor refused: {}".format(answer["error"]))
    return {}


def end(request: dict[str, Any]) -> dict[str, Any]:
    """End the agent without its keeper's help, and the keeper itself if asked to."""
    directory = expand(request["dir"])
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
    handle = handle_of(directory)
    if os.path.exists(os.path.join(directory, "keeper.json")) and not (handle and is_alive(handle)):
        shutil.rmtree(directory, ignore_errors=True)
    return {}


def remove(request: dict[str, Any]) -> dict[str, Any]:
    """Remove all that belongs to a lieutenant here, after ending what still runs."""
    owner = os.path.basename(str(request["lieutenant"]))
    root = os.path.join(ROOT, "lieutenants", owner)
    for directory in run_folders(root):
        handle = handle_of(directory)
        if handle and is_alive(handle):
            raise Refused(f"an agent still runs in {directory}")
    if os.path.isdir(root):
        sweep(request.get("program"), owner)
        shutil.rmtree(root, ignore_errors=True)
        if os.path.exists(root):
            raise Refused(f"cannot remove all of {root}")
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(ROOT, "lieutenants"))
        # Nobody is left who needs the programs.
        shutil.rmtree(os.path.join(ROOT, "programs"), ignore_errors=True)
        os.rmdir(ROOT)
    return {}


def evict(request: dict[str, Any]) -> dict[str, Any]:
    """End the agents that a copied machine has inherited, and remove their files.

    `kept` are the ids of lieutenants that belong here. Agents of older servers run in tmux.
    """
    base, ended = os.path.join(ROOT, "lieutenants"), []
    for owner in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        if owner in request["kept"]:
            continue
        for directory in run_folders(os.path.join(base, owner)):
            end({"dir": directory, "program": request.get("program"), "keeper": True})
        sweep(request.get("program"), owner)
        shutil.rmtree(os.path.join(base, owner), ignore_errors=True)
        ended.append(owner)
    tmux = shutil.which("tmux", path=search_path())
    sessions = ("pi-rpc", "pi-keeper") if tmux else ()
    ended += [each for each in sessions if run_quietly([str(tmux), "kill-session", "-t", each])]
    shutil.rmtree("/tmp/pi-rpc", ignore_errors=True)  # noqa: S108
    return {"ended": ended}


def run_quietly(command: list[str]) -> bool:
    """Return whether a command has succeeded within its time."""
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def run_folders(root: str) -> list[str]:
    runs = os.path.join(root, "runs")
    with contextlib.suppress(OSError):
        return sorted(os.path.join(runs, name) for name in os.listdir(runs))
    return []


def list_runs(_request: dict[str, Any]) -> dict[str, Any]:
    """Return all runs here: lieutenant, run, handle, and whether its keeper is alive."""
    found = []
    base = os.path.join(ROOT, "lieutenants")
    for owner in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        for directory in run_folders(os.path.join(base, owner)):
            handle = handle_of(directory)
            if handle:
                run = os.path.basename(directory)
                facts = {"lieutenant": owner, "run": run, "handle": handle}
                found.append({**facts, "alive": is_alive(handle)})
    return {"runs": found}


def shorten(request: dict[str, Any]) -> dict[str, Any]:
    """Release the disk space of a journal before an offset, where the file system can."""
    path = os.path.join(expand(request["dir"]), "journal.jsonl")
    length = int(request["at"]) // PAGE * PAGE
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return {}
    try:
        punch = ctypes.CDLL(None, use_errno=True).fallocate
        punch.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
        if length and punch(file, PUNCH_HOLE | KEEP_SIZE, 0, length):
            number = ctypes.get_errno()
            if number not in CANNOT_PUNCH:
                raise Refused(f"the journal cannot be shortened: {os.strerror(number)}")
    finally:
        os.close(file)
    return {}


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
    "shorten": shorten,
}


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request."""
    number = {"n": request.get("n")}
    try:
        operation = OPERATIONS[request["op"]]
        return {**number, "ok": True, **operation(request)}
    except Refused as trouble:
        return {**number, "ok": False, "kind": trouble.kind, "error": str(trouble)}
    except OSError as trouble:
        return {**number, "ok": False, "error": f"{trouble.strerror}: {trouble.filename}"}
    except Exception as trouble:  # noqa: BLE001 - one request must not end the others
        text = f"{type(trouble).__name__}: {trouble}"
        return {**number, "ok": False, "error": text[:500]}
