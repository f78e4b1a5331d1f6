"""Find and end the processes of an emulator."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

# All processes of an emulator have this variable, except those that were started over SSH.
TAG = "VM_EMULATOR_TAG"


def pids_with_variable(name: str, value: str) -> list[int]:
    """Return the pids of other processes whose environment has this variable."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def parent_pids() -> dict[int, int]:
    """Map each pid to that of its parent."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = (entry / "stat").read_text()
                table[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return table


def with_descendants(roots: list[int]) -> list[int]:
    """Return these pids and those of all their descendants, sorted."""
    table, found = parent_pids(), set(roots)
    while more := {pid for pid, parent in table.items() if parent in found} - found:
        found |= more
    return sorted(found)


def kill_tagged(tag: str) -> None:
    """Kill all processes with this tag and wait until they have ended."""
    end = time.monotonic() + 10
    while (left := pids_with_variable(TAG, tag)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def start_time(pid: int) -> str:
    """Return its start time; empty if it does not run."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if facts[0] in ("Z", "X") else facts[19]


def remove_folder(folder: Path) -> None:
    """Remove a folder with rm, which is faster than Python for thousands of files."""
    subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def remove_in_background(folder: Path, timeout: float = 0.0) -> None:
    """Move a folder away and remove it in the background; wait at most `timeout` seconds for it."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"{folder.name}.old-{secrets.token_hex(4)}"))
    # Includes the remains of an earlier, interrupted removal.
    old = [str(path) for path in folder.parent.glob(f"{folder.name}.old-*")]
    if not old:
        return
    removing = subprocess.Popen(
        ["rm", "-rf", "--", *old],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Without our tag, so that the next start does not kill it.
        env={"PATH": os.environ.get("PATH", os.defpath)},
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        removing.wait(timeout)


def write_pid_file(pid: int, file: Path) -> None:
    """Write pid and start time of a process to a file. A reused pid has another start time."""
    file.write_text(f"{pid} {start_time(pid)}")


def read_pid_file(file: Path) -> list[int]:
    """Return the pid of a `write_pid_file` as a list; [] if that process has ended."""
    words = file.read_text().split() if file.exists() else []
    return [int(words[0])] if len(words) == 2 and start_time(int(words[0])) == words[1] else []
