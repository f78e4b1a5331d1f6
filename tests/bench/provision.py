"""Bench of many VMs at once: `python -m tests.bench.provision [--count 20] [--type bare]`.

Starts the emulated platform (real VMs on this machine) and a reef beside it, requests `count` VMs
at once, and waits until all have joined. Prints the time of each step, the processor time of reef's
processes, and what is left after all VMs were destroyed. Type `bare` has no coding agent, so
everything is fetched from the root reef; other types use npm.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.processes import cpu
from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.handle import Emulator
from tests.waiting import until


def main() -> None:
    """Run the bench and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--type", default="bare")
    parser.add_argument("--seconds", type=float, default=1800)
    asked = parser.parse_args()
    before = mounts_and_namespaces()
    with tempfile.TemporaryDirectory(prefix="reef-bench-") as folder, Emulator() as emulator:
        at_once = str(asked.at_once)
        with BootStack(Path(folder), emulator, REEF_PROVISION_AT_ONCE=at_once) as stack:
            stack.manage("shell", "-c", BARE)
            run(stack, emulator, asked)
    left = [line for line in mounts_and_namespaces() if line not in before]
    print(f"left behind on this machine: {', '.join(left) or 'nothing'}")


def run(stack: BootStack, emulator: Emulator, asked: argparse.Namespace) -> None:
    """Request the VMs, wait, print, destroy."""
    body = {"name": "vm", "type": asked.type, "count": asked.count}
    begun, used = time.monotonic(), cpu(stack)
    ids = [each["id"] for each in stack.post("/bootloader/provision", body).json()["provisionings"]]
    print(f"asked for {len(ids)} VMs in {time.monotonic() - begun:.2f} s")

    def count_open() -> int:
        found = stack.client.get("/bootloader/provisionings?limit=1000").json()["provisionings"]
        return sum(each["state"] in ("queued", "running") for each in found)

    until(lambda: not count_open(), asked.seconds)
    wall = time.monotonic() - begun
    found = stack.client.get("/bootloader/provisionings?limit=1000").json()["provisionings"]
    print_results(found, wall)
    live = [vm["liveness"] for vm in stack.client.get("/registry/vms").json()["vms"]]
    print(f"VMs at the platform {len(emulator.vms())}, live in the registry {live.count('live')}")
    for name, seconds in cpu(stack).items():
        print(f"  {name:8} {seconds - used[name]:6.1f} s of processor time")
    for each in found:
        if each["state"] == "done":
            stack.post(f"/vm-tree/vms/{each['vmId']}/destroy")
    until(lambda: not emulator.vms(), 300)
    until(lambda: not stack.client.get("/vm-tree/vms").json()["count"], 60)
    machines = stack.client.get("/bootloader/machines").json()["count"]
    print(f"after destroying all: {len(emulator.vms())} VMs, {machines} machines known")


def print_results(found: list[dict[str, Any]], wall: float) -> None:
    """Print the times of each step over all VMs, in seconds."""
    states = [each["state"] for each in found]
    print(f"{states.count('done')} of {len(found)} done in {wall:.1f} s")
    for each in found:
        if each["state"] != "done":
            print(f"  {each['name']}: {each['state']}: {each['reason']}")
    print(f"  {'step':10} {'median':>8} {'longest':>8}")
    for name in [step["name"] for step in found[0]["steps"]]:
        times = [
            step["durationMs"] / 1000
            for each in found
            for step in each["steps"]
            if step["name"] == name and step["durationMs"] is not None
        ]
        if times:
            print(f"  {name:10} {statistics.median(times):8.2f} {max(times):8.2f}")


def mounts_and_namespaces() -> list[str]:
    """Return the resources of VMs on this machine, beside processes."""
    mounts = [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines()]
    listed = subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, check=False
    ).stdout
    return mounts + [f"namespace {line.split()[0]}" for line in listed.splitlines() if line]


if __name__ == "__main__":
    main()
