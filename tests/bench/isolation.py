"""Bench of isolation at the start of an agent: `python tests/bench/isolation.py`.

Starts a trivial agent in each mode in turn, under equal conditions; prints the medians in
milliseconds: for making folders and plan, and for the shim's start until the agent runs.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 20
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["REEF_DATA_DIR"] = tempfile.mkdtemp(prefix="reef-bench-", dir="/var/tmp")
os.environ["DJANGO_SETTINGS_MODULE"] = "reef_site.settings"

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.core.management import call_command  # noqa: E402

from lieutenants.agents import DIALECTS  # noqa: E402
from lieutenants.agents.base import Program  # noqa: E402
from lieutenants.isolation import homes, modes, plan  # noqa: E402
from lieutenants.supervision.transports import get_transport  # noqa: E402
from lieutenants.supervision.transports.base import Launch  # noqa: E402


def start(mode: str, number: int) -> tuple[float, float]:
    """Return the seconds for folders and plan, and for the shim's start."""
    settings.ISOLATION = mode
    home = homes.home_of(f"{mode}-{number}")
    program = Program("cat", ["/bin/cat"], files=[Path("/bin/cat")])
    began = time.perf_counter()
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    way = plan.make_plan(home, home.workspace, program)
    dialect = DIALECTS["pi"]
    homes.prepare(home, name="bench", prompt="", owner=way.uid, shared=False, dialect=dialect)
    prepared = time.perf_counter()
    directory = str(home.runs / "run")
    transport = get_transport("local")
    handle = transport.start(
        Launch(
            run="run",
            dir=directory,
            argv=[*way.argv, "/bin/cat"],
            env={"PATH": way.path},
            cwd=str(home.workspace),
            lock=str(home.root / "session.lock"),
            heal=[],
            tag=f"REEF_LIEUTENANT={home.root.name}",
            hello=[],
            isolation=way.rules,
        )
    )
    started = time.perf_counter()
    transport.stop(directory, handle, None)
    while transport.alive(handle):
        time.sleep(0.01)
    return prepared - began, started - prepared


def main() -> None:
    call_command("migrate", verbosity=0)
    offered = [mode for mode in modes.Isolation if modes.host().offers(mode)]
    found: dict[str, list[tuple[float, float]]] = {mode.value: [] for mode in offered}
    for number in range(ROUNDS):
        for mode, times in found.items():
            times.append(start(mode, number))
    print(f"{'isolation':<12}{'folders, plan':>15}{'shim and agent':>16}  (median, ms)")
    for mode, times in found.items():
        folders, shim = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        print(f"{mode:<12}{folders:>15.1f}{shim:>16.1f}")


if __name__ == "__main__":
    main()
