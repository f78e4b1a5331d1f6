"""An agent that an older server has started: in tmux, with a FIFO and files in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys

from lieutenants.supervision.transports.ssh.relay.machine import (
    Refused,
    parse_object,
    read_file,
    search_path,
    stat_fields,
    write_file,
)
from lieutenants.supervision.transports.ssh.relay.starting import keeper_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The older server's choice. The environment of a machine may name another folder, as in tests that
# run beside each other.
FOLDER = os.environ.get("REEF_OLDER_AGENT_FOLDER") or "/tmp/pi-rpc"  # noqa: S108
NAMES = (b"VERS_AGENT_NAME", b"VERS_AGENT_ROLE", b"VERS_PARENT_AGENT", b"REEF_CATEGORY")
END_SECONDS = 15.0


def find_older(_request: Any = None) -> dict[str, Any]:
    """Return as `older` the agent that runs in the older server's folder; None without one."""
    try:
        folder = os.lstat(FOLDER)
        files = [os.lstat(os.path.join(FOLDER, name)) for name in ("in", "out")]
    except OSError:
        return {"older": None}
    # Others may write into the folder above, and must not make us read or end something.
    is_own = folder.st_uid == os.geteuid() and not folder.st_mode & 0o022
    kinds = stat.S_ISDIR(folder.st_mode), stat.S_ISFIFO(files[0].st_mode)
    if not (is_own and all(kinds) and stat.S_ISREG(files[1].st_mode)):
        return {"older": None}
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and all(is_open(name, number, files[number]) for number in (0, 1)):
            fields = stat_fields(int(name))
            if len(fields) > 19 and fields[0] not in (b"Z", b"X"):
                found.append((int(fields[19]), int(name)))
    # Programs that the agent has started may have inherited both.
    return {"older": describe(*min(found)) if found else None}


def is_open(pid: str, number: int, file: os.stat_result) -> bool:
    try:
        found = os.stat(f"/proc/{pid}/fd/{number}")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


def describe(started: int, pid: int) -> dict[str, Any]:
    workspace = ""
    with contextlib.suppress(OSError):
        workspace = os.readlink(f"/proc/{pid}/cwd")
    env = {}
    for each in read_file(f"/proc/{pid}/environ").split(b"\0"):
        name, _, value = each.partition(b"=")
        if name in NAMES:
            env[name.decode()] = value.decode("utf-8", "replace")[:200]
    owner = parse_object(read_file(os.path.join(FOLDER, "reef.json"))).get("lieutenant")
    facts = {"pid": pid, "started": started, "folder": FOLDER, "workspace": workspace}
    return {**facts, "owner": owner, "env": env}


def own_older(request: dict[str, Any]) -> dict[str, Any]:
    """Note whose that agent is, so that whoever looks next sees it."""
    older = find_older()["older"] or {}
    if any(older.get(name) != request[name] for name in ("pid", "started")):
        raise Refused("the agent that an older server had started has ended")
    note = {"lieutenant": request["lieutenant"]}
    write_file(os.path.join(FOLDER, "reef.json"), json.dumps(note).encode())
    return {}


def is_owned(older: dict[str, Any], owner: str, unmarked: bool = False) -> bool:
    """Return whether an agent is this lieutenant's, or nobody's if `unmarked`."""
    return older["owner"] == owner or (unmarked and not older["owner"])


def end_older(program: Any, owner: str | None = None, unmarked: bool = False) -> bool:
    """End that agent if it is this lieutenant's, or whosever it is; return whether it was ended.

    See `is_owned` for `unmarked`.
    """
    older = find_older()["older"]
    if older is None or (owner is not None and not is_owned(older, owner, unmarked)):
        return False
    file = os.path.join(os.path.dirname(keeper_file(program)), "attend.py")
    command = [sys.executable, "-I", "-S", file, "end", FOLDER]
    quiet, env = subprocess.DEVNULL, {"PATH": search_path()}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*command, str(older["pid"]), str(older["started"])],
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            env=env,
            timeout=END_SECONDS,
            check=False,
        )
    return True
