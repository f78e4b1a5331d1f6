"""Routes below /emulator, by which tests control the platform."""

from __future__ import annotations

from dataclasses import asdict

from reef_site.demo.platform import keys
from reef_site.demo.platform.faults import Fault
from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.responses import ApiError, Response, empty_response, json_response
from reef_site.demo.platform.store import Account

PREFIX = "/emulator"
routes = Routes()


@routes.on("GET", "", "control", PREFIX)
async def show_state(call: Call) -> Response:
    """Return switches, faults, violations and all VMs."""
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
        "faults": [asdict(add_fault) for add_fault in machines.fault_injector.faults],
        "violations": machines.request_log.violations,
        "vms": vms,
    }
    return json_response(facts)


@routes.on("GET", "/heard", "control", PREFIX)
async def list_requests(call: Call) -> Response:
    """List the requests so far."""
    return json_response([asdict(each) for each in call.machines.request_log.requests])


@routes.on("PATCH", "/switches", "control", PREFIX)
async def set_switches(call: Call) -> Response:
    """Set switches and return all of them."""
    switches = call.machines.switches
    try:
        switches.change(call.json())
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    if switches.ssh_cut:
        call.machines.close_connections(None)
    return json_response(asdict(switches))


@routes.on("POST", "/faults", "control", PREFIX)
async def add_fault(call: Call) -> Response:
    """Add a fault."""
    try:
        call.machines.fault_injector.faults.append(Fault(**call.json(op="str")))
    except TypeError as error:
        raise ApiError(400, str(error)) from None
    return empty_response(201)


@routes.on("POST", "/heal", "control", PREFIX)
async def clear_faults(call: Call) -> Response:
    """Reset all switches and remove all faults."""
    call.machines.fault_injector.clear_faults()
    return empty_response()


@routes.on("POST", "/reset", "control", PREFIX)
async def reset(call: Call) -> Response:
    """Restore the initial state."""
    await call.machines.reset()
    return empty_response()


@routes.on("POST", "/keys", "control", PREFIX)
async def another_key(call: Call) -> Response:
    """Add a key for the caller's organisation or another one."""
    org = call.json(org="str?").get("org") or call.account.org
    made = Account(keys.api_key(), org)
    call.machines.store.accounts[made.key] = made
    call.machines.store.save()
    return json_response({"key": made.key}, 201)


@routes.on("POST", "/cut", "control", PREFIX)
async def cut_connections(call: Call) -> Response:
    """Abort connections through the gateway."""
    return json_response(
        {"cut": call.machines.close_connections(call.json(vm_id="str?").get("vm_id"))}
    )


@routes.on("PATCH", "/vm/{vm_id}/cable", "control", PREFIX)
async def set_cable(call: Call) -> Response:
    """Disconnect a VM's network cable, or connect it again."""
    up: bool = call.json(up="bool")["up"]
    vm = call.machines.vm(call.path_params["vm_id"], call.account)
    await call.machines.hosting.set_cable(vm.vm_id, up=up)
    return empty_response()


@routes.on("POST", "/vm/{vm_id}/crash", "control", PREFIX)
async def crash(call: Call) -> Response:
    """Kill the first process of a VM, so that the API reports `dead`."""
    vm = call.machines.vm(call.path_params["vm_id"], call.account)
    call.machines.hosting.crash(vm.vm_id)
    return empty_response()
