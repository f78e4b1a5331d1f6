"""This machine: its load, lieutenants, services and identity."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
from typing import Dict, Iterator, List
from urllib.parse import urlsplit

from .errors import AgentError, Json
from .home import Home, read_private

MAX_LIEUTENANTS = 200


def machine_fingerprint(url: str) -> str:
    """Return an id of this machine's current boot, different for each running copy of the
    machine.
    """
    parts = [read_line("/etc/machine-id"), read_line("/proc/sys/kernel/random/boot_id")]
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    with contextlib.suppress(OSError, ValueError):
        # Nothing is sent: this only determines which of our addresses leads there.
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sock:
            sock.connect(place)
            parts.append(str(sock.getsockname()[0]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_line(path: str) -> str:
    """Return the first line of a file; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def composition_of(identity: Dict[str, str]) -> Json:
    """Return the VM's composition as stored in tree and registry."""
    return {
        "organs": [word for word in identity.get("REEF_ORGANS", "").split(",") if word],
        "capabilities": [w for w in identity.get("REEF_CAPABILITIES", "").split(",") if w],
    }


def digest_of(composition: Json) -> str:
    """Return the SHA-256 by which the registry detects a changed composition."""
    text = json.dumps(composition, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def vitals(home: Home) -> Json:
    """Return the load of the last minute, and the disk usage in percent."""
    found: Json = {}
    with contextlib.suppress(OSError):
        found["load"] = round(os.getloadavg()[0], 2)
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(home.folder)
        found["disk"] = round(100.0 * usage.used / max(1, usage.used + usage.free), 1)
    return found


def lieutenants(home: Home) -> List[Json]:
    """Return running agents with their keepers as entries of `services`."""
    found = []
    for path in keeper_files(home):
        try:
            with open(path, "rb") as file:
                facts = json.loads(file.read())
            agent = facts["agent_pid"]
            if process_started(agent) != facts["agent_started"]:
                continue
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue
        env = environment_of(agent)
        name = env.get("VERS_AGENT_NAME") or os.path.basename(path.split("/runs/")[0])
        entry = {"name": name, "kind": "lieutenant", "pid": agent}
        if env.get("VERS_VM_ID"):
            entry["vmId"] = env["VERS_VM_ID"]
        found.append(entry)
    return sorted(found, key=lambda each: str(each["name"]))[:MAX_LIEUTENANTS]


def keeper_files(home: Home) -> Iterator[str]:
    """Yield the paths of the keepers' files: `…/lieutenants/<one>/runs/<run>/keeper.json`."""
    tops = [home.path(*names) for names in ((), ("data",), ("reef",), ("reef", "data"))]
    tops.append(os.path.expanduser("~/.reef"))
    for top in dict.fromkeys(tops):
        lieutenants_folder = os.path.join(top, "lieutenants")
        for one in list_folder(lieutenants_folder):
            for run in list_folder(os.path.join(lieutenants_folder, one, "runs")):
                yield os.path.join(lieutenants_folder, one, "runs", run, "keeper.json")


def list_folder(folder: str) -> List[str]:
    """Return the names in a folder; empty if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def process_started(pid: int) -> int:
    """Return the start time of a process in ticks since boot. Raise OSError if it has ended."""
    with open("/proc/{}/stat".format(pid), "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise OSError("it has ended")
    return int(fields[19])


def environment_of(pid: int) -> Dict[str, str]:
    """Return the environment of a process; empty if it may not be read."""
    try:
        with open("/proc/{}/environ".format(pid), "rb") as file:
            lines = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def services(home: Home) -> List[Json]:
    """Return the services of this VM: its own reef, and its lieutenants."""
    found: List[Json] = []
    port = own_reef_port(home)
    if port and is_listening(port):
        found.append({"name": "reef", "port": port, "protocol": "http"})
    return found + lieutenants(home)


def own_reef_port(home: Home) -> int:
    """Return the port of this VM's own reef from `reef/reef.env`; 0 if there is none."""
    path = home.path("reef", "reef.env")
    if not os.path.exists(path):
        return 0
    with contextlib.suppress(AgentError):
        found = re.search(r"(?m)^(?:export )?PORT='?([0-9]{1,5})'?$", read_private(path))
        return int(found.group(1)) if found else 3000
    return 0


def is_listening(port: int) -> bool:
    """Return whether the local port accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except (OSError, OverflowError):
        return False
    return True
