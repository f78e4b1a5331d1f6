"""A whole reef with broker, workers and beat, parts of which are killed during a job."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack
from tests.waiting import until

CREW = [f"lt-{number}" for number in range(4)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path) as running:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(running.create, CREW))
        yield running


def post(stack: Stack, path: str, **body: object) -> Any:
    answer = stack.client.post(path, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


def grow(stack: Stack, vms: int = 60) -> None:
    """Create root → crew → VMs, registered and in the tree."""
    tree = "/vm-tree/vms"
    post(stack, tree, vmId="top", name="top", category="infra_vm")
    ids = [stack.get(name)["id"] for name in CREW]
    for vm_id in ids:
        moved = stack.client.patch(f"{tree}/{vm_id}", json={"parentVmId": "top"})
        assert moved.status_code == 200, moved.text
    for number in range(vms):
        facts = {"name": f"vm{number}", "parentVmId": ids[number % len(ids)]}
        post(stack, tree, vmId=f"vm{number}", category="swarm_vm", **facts)
        role = {"id": f"vm{number}", "role": "worker", "address": "::1", "registeredBy": "t"}
        post(stack, "/registry/vms", **role, **facts)


def job_of(stack: Stack, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.client.get(f"/vm-tree/jobs/{job_id}").json()
    return found


def wait(stack: Stack, job_id: str) -> dict[str, Any]:
    until(lambda: job_of(stack, job_id)["job"]["state"] != "open", 90)
    found = job_of(stack, job_id)
    assert found["job"]["state"] == "done", found
    return found


@pytest.mark.rotated
@pytest.mark.timeout(240)
def test_jobs_survive_a_killed_worker_and_an_emptied_redis(stack: Stack) -> None:
    grow(stack)
    plan = post(stack, "/vm-tree/vms/top/pause", dryRun=True)["plan"]
    assert (plan["count"], plan["leftOut"]) == (64, 1)

    job = post(stack, "/vm-tree/vms/top/pause")["job"]["id"]
    until(lambda: job_of(stack, job)["job"]["steps"]["done"] >= 5, 30)
    stack.kill("worker")
    stack.start("worker")
    wait(stack, job)
    assert {stack.get(name)["status"] for name in CREW} == {"paused"}

    job = post(stack, "/vm-tree/vms/top/resume")["job"]["id"]
    stack.kill("redis")
    stack.start("redis")
    wait(stack, job)
    for name in CREW:
        stack.wait_idle(name)

    job = post(stack, "/vm-tree/vms/top/destroy")["job"]["id"]
    until(lambda: job_of(stack, job)["job"]["steps"]["done"] >= 5, 30)
    stack.kill("worker")
    stack.start("worker")
    found = wait(stack, job)
    assert found["job"]["snapshot"]
    assert stack.client.get("/vm-tree/stats").json()["total"] == 0
    assert stack.client.get("/registry/vms").json()["count"] == 0
    assert stack.client.get("/lieutenant/lieutenants").json()["count"] == 0


@pytest.mark.rotated
@pytest.mark.timeout(120)
def test_rules_are_executed_by_beat_and_workers(stack: Stack) -> None:
    seen = {"name": "greeter", "event": "vm-registered", "action": "note", "text": "welcome"}
    post(stack, "/registry/rules", **seen, enabled=True)
    body = {"id": "new", "name": "new", "role": "worker", "address": "::1", "registeredBy": "t"}
    post(stack, "/registry/vms", **body)

    def done() -> Any:
        found = stack.client.get("/registry/firings?vmId=new&state=done").json()["firings"]
        return found[0] if found else None

    assert until(done, 60)["outcome"] == "welcome"
