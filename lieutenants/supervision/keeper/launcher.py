"""Command line of the keeper, which is one file when it runs (see `program`).

python3 keeper.pyz start          spec (JSON) on stdin; starts keeper and agent, prints one line
python3 keeper.pyz call DIR       request (JSON line) on stdin; prints the keeper's reply
python3 keeper.pyz probe [BWRAP]  prints how agents can be isolated here, as JSON
python3 keeper.pyz confine        spec (JSON) on stdin; becomes that program, isolated
python3 keeper.pyz changes        request (JSON) on stdin; prints what git says of a folder, as JSON
"""

from __future__ import annotations

import os
import socket
import sys

from .control import refusal
from .json_lines import dig, pack, parse_object
from .limits import CALL_SECONDS
from .pipes import read_all
from .run_files import read_key

# As an import, nothing is compiled at a start, and what starts it costs the keeper no memory.
IMPORTED = "import sys; sys.path.insert(0, sys.argv[1]); from keeper import run; run.run_keeper()"


def start(archive: str) -> int:
    """Start a keeper from this file, in a clean process of its own, and pass its reply on."""
    ours, theirs = os.pipe()
    flags = ["-I", "-S", "-X", "utf8"]
    os.posix_spawn(
        sys.executable,
        [sys.executable, *flags, "-c", IMPORTED, os.path.abspath(archive)],
        clean_environment(),
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)],
    )
    os.close(theirs)
    answer = read_all(ours)
    if not answer:
        answer = pack(refusal("the supervisor died before the agent ran"))
    os.write(1, answer)
    return 0 if dig(parse_object(answer), "ok") is True else 1


def clean_environment() -> dict[str, str]:
    """Return an empty environment, except that large freed lines return to the system (glibc)."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", **kept}


def call(path: str) -> int:
    """Pass one request line from stdin to the keeper of a run directory; print its reply."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CALL_SECONDS)
            connection.connect("/proc/self/fd/{}/control.sock".format(directory))
            request = parse_object(read_all(0).split(b"\n", 1)[0]) or {}
            connection.sendall(pack({**request, "key": read_key(directory)}))
            with connection.makefile("rb") as stream:
                answer = stream.readline()
    except OSError as trouble:
        answer = pack(refusal("no supervisor answers: {}".format(trouble)))
    if not answer:
        answer = pack(refusal("the supervisor has gone"))
    os.write(1, answer)
    return 0 if dig(parse_object(answer), "ok") is True else 1


def probe(bubblewrap: str) -> int:
    """Print what `probe.probe` finds."""
    from .sandbox import probe as probes

    os.write(1, pack(probes.probe(bubblewrap)))
    return 0


def confine() -> int:
    """Become the program of the spec on stdin."""
    from .confined import become_confined

    return become_confined()


def changes() -> int:
    """Answer the request on stdin about the changes in a folder."""
    from .changes.answer import main as answer

    return answer()


def main(arguments: list[str], archive: str) -> int:
    """Run a command; return the exit status. `archive` is the path of the keeper's one file."""
    if arguments == ["start"]:
        return start(archive)
    if len(arguments) == 2 and arguments[0] == "call":
        return call(arguments[1])
    if arguments[:1] == ["probe"] and len(arguments) <= 2:
        return probe("".join(arguments[1:]))
    if arguments == ["confine"]:
        return confine()
    if arguments == ["changes"]:
        return changes()
    sys.stderr.write(__doc__)
    return 2
