"""Find and end the processes of an emulator."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

# Every process of an emulator but those started over SSH has this in its environment.
TAG = "VM_EMULATOR_TAG"


def with_mark(name: str, value: str) -> list[int]:
    """Pids of living processes whose environment holds this, but not our own."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def parents() -> dict[int, int]:
    """The parent of each process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = (entry / "stat").read_text()
                table[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return table


def family(roots: list[int]) -> list[int]:
    """These processes and all below them."""
    table, found = parents(), set(roots)
    while more := {pid for pid, parent in table.items() if parent in found} - found:
        found |= more
    return sorted(found)


def end_all(tag: str) -> None:
    """Kill whatever carries the tag, and wait until it is gone."""
    end = time.monotonic() + 10
    while (left := with_mark(TAG, tag)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def started(pid: int) -> str:
    """Return its start time; empty if it does not run."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if facts[0] in ("Z", "X") else facts[19]


def remove(folder: Path) -> None:
    """A folder with everything in it; faster than Python is with thousands of files."""
    subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def put_away(folder: Path, patience: float = 0.0) -> None:
    """The folder is gone at once; what lay in it is removed after us where that takes longer."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(f"{folder.name}.old-{secrets.token_hex(4)}"))
    # Also what an earlier one did not finish.
    old = [str(path) for path in folder.parent.glob(f"{folder.name}.old-*")]
    if not old:
        return
    removing = subprocess.Popen(
        ["rm", "-rf", "--", *old],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Nobody's: neither the end of our group nor the next start ends it.
        env={"PATH": os.environ.get("PATH", os.defpath)},
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        removing.wait(patience)


def note(pid: int, file: Path) -> None:
    """Write down a process, so that it is known again even under another number's reuse."""
    file.write_text(f"{pid} {started(pid)}")


def noted(file: Path) -> list[int]:
    """The process of `note`, if it still runs."""
    words = file.read_text().split() if file.exists() else []
    return [int(words[0])] if len(words) == 2 and started(int(words[0])) == words[1] else []
