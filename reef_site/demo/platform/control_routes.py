"""Routes below /emulator, by which tests control the platform."""

from __future__ import annotations

from dataclasses import asdict

from reef_site.demo.platform import keys
from reef_site.demo.platform.faults import Fault
from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.responses import Answer, Refusal, empty, json_answer
from reef_site.demo.platform.store import Account

HERE = "/emulator"
routes = Routes()


@routes.on("GET", "", "control", HERE)
async def look(call: Call) -> Answer:
    """Everything that tests want to know of the inside."""
    machines = call.machines
    vms = [
        {
            "vm_id": vm.vm_id,
            "state": vm.state,
            "ip": machines.hosting.ip(vm),
            "labels": vm.labels,
            "parent_commit_id": vm.parent_commit_id,
        }
        for vm in machines.store.vms.values()
    ]
    facts = {
        "switches": asdict(machines.switches),
        "faults": [asdict(fault) for fault in machines.trouble.faults],
        "violations": machines.journal.violations,
        "vms": vms,
    }
    return json_answer(facts)


@routes.on("GET", "/heard", "control", HERE)
async def heard(call: Call) -> Answer:
    """The requests so far."""
    return json_answer([asdict(each) for each in call.machines.journal.heard])


@routes.on("PATCH", "/switches", "control", HERE)
async def switch(call: Call) -> Answer:
    """Set switches; the answer has all of them."""
    switches = call.machines.switches
    try:
        switches.change(call.json())
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    if switches.ssh_cut:
        call.machines.hang_up(None)
    return json_answer(asdict(switches))


@routes.on("POST", "/faults", "control", HERE)
async def fault(call: Call) -> Answer:
    """Add a fault."""
    try:
        call.machines.trouble.faults.append(Fault(**call.json(op="str")))
    except TypeError as error:
        raise Refusal(400, str(error)) from None
    return empty(201)


@routes.on("POST", "/heal", "control", HERE)
async def heal(call: Call) -> Answer:
    """Neither switches nor faults."""
    call.machines.trouble.heal()
    return empty()


@routes.on("POST", "/reset", "control", HERE)
async def reset(call: Call) -> Answer:
    """Restore the initial state."""
    await call.machines.reset()
    return empty()


@routes.on("POST", "/keys", "control", HERE)
async def another_key(call: Call) -> Answer:
    """Add a key for the caller's organisation or another one."""
    org = call.json(org="str?").get("org") or call.who.org
    made = Account(keys.api_key(), org)
    call.machines.store.accounts[made.key] = made
    call.machines.store.save()
    return json_answer({"key": made.key}, 201)


@routes.on("POST", "/cut", "control", HERE)
async def cut(call: Call) -> Answer:
    """Break connections through the gateway."""
    return json_answer({"cut": call.machines.hang_up(call.json(vm_id="str?").get("vm_id"))})


@routes.on("PATCH", "/vm/{vm_id}/cable", "control", HERE)
async def cable(call: Call) -> Answer:
    """Pull a VM's network cable, or put it back."""
    up: bool = call.json(up="bool")["up"]
    vm = call.machines.vm(call.words["vm_id"], call.who)
    await call.machines.hosting.cable(vm.vm_id, up=up)
    return empty()


@routes.on("POST", "/vm/{vm_id}/crash", "control", HERE)
async def crash(call: Call) -> Answer:
    """The VM's first process dies, and the API tells `dead`."""
    vm = call.machines.vm(call.words["vm_id"], call.who)
    call.machines.hosting.crash(vm.vm_id)
    return empty()
