"""Routes of VMs."""

from __future__ import annotations

import asyncio
from typing import Any

from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.responses import (
    ASLEEP,
    ApiError,
    BranchError,
    Response,
    empty_response,
    invalid_json,
    json_response,
    node_error,
    wrong_type,
)
from reef_site.demo.platform.store import Commit, Vm

routes = Routes()
WRITE_STATES = {
    "paused": ("Paused", "Running"),
    "sleeping": ("Sleeping", "Running"),
    "both": ("Paused", "Running", "Sleeping"),
}
FIRST_PORT = 28000


def vm_json(call: Call, vm: Vm) -> dict[str, Any]:
    """Return the JSON of a VM for the list and the status call."""
    facts: dict[str, Any] = {
        "vm_id": vm.vm_id,
        "owner_id": vm.owner_id,
        "created_at": vm.created_at,
        "state": vm.state,
    }
    if call.machines.switches.labels_in_vm:
        facts["labels"] = vm.labels
    return facts


def require_awake(vm: Vm) -> None:
    """Raise ApiError if the VM sleeps."""
    if vm.state == "sleeping":
        raise ApiError(409, ASLEEP)


@routes.on("GET", "/vms", "list")
@routes.on("GET", "/vm", "list_alias")
async def list_vms(call: Call) -> Response:
    """List the organisation's VMs. A switch can leave one of them out."""
    vms = [vm for vm in call.machines.store.vms.values() if vm.org == call.account.org]
    switches = call.machines.switches
    if switches.list_gap > 0 and vms:
        switches.list_gap -= 1
        missing = switches.list_gap_vm or vms[-1].vm_id
        vms = [vm for vm in vms if vm.vm_id != missing]
    return json_response([vm_json(call, vm) for vm in vms])


@routes.on("POST", "/vm/new_root", "new_root")
async def new_root(call: Call) -> Response:
    """Create a VM from an image."""
    wait = call.flag("wait_boot")
    config = call.json(vm_config="map")["vm_config"]
    for name in ("vcpu_count", "mem_size_mib", "fs_size_mib"):
        value = config.get(name)
        if value is not None and (type(value) is not int or not 0 <= value < 1 << 31):
            raise wrong_type(f"vm_config.{name}: invalid value: `{value}`, expected u32")
    for name in ("image_name", "kernel_name"):
        if not isinstance(config.get(name), str | None):
            raise wrong_type(f"vm_config.{name}: invalid type, expected a string")
    labels = config.get("labels")
    if labels is not None and not (
        isinstance(labels, dict) and all(isinstance(value, str) for value in labels.values())
    ):
        raise wrong_type("vm_config.labels: invalid type, expected a map")
    vm = await call.machines.create(call.account, config, wait=wait)
    return json_response({"vm_id": vm.vm_id}, 201)


@routes.on("POST", "/vm/from_commit", "from_commit")
async def from_commit(call: Call) -> Response:
    """Create a VM from a commit, named by id, by flat tag or as repository:tag."""
    facts = call.json()
    names = [name for name in ("commit_id", "tag_name", "ref") if facts.get(name) is not None]
    if len(names) != 1:
        raise invalid_json("expected exactly one of commit_id, tag_name, ref")
    commit = find_commit(call, names[0], facts[names[0]])
    vm = await call.machines.restore(call.account, commit)
    return json_response({"vm_id": vm.vm_id}, 201)


def find_commit(call: Call, kind: str, name: Any) -> Commit:
    """Return the commit that one of the three kinds of names refers to."""
    machines, store = call.machines, call.machines.store
    if not isinstance(name, str):
        raise wrong_type(f"{kind}: invalid type, expected a string")
    if kind == "commit_id":
        return machines.commit_of(name, call.account)
    repo, colon, tag = name.partition(":") if kind == "ref" else ("", ":", name)
    if not colon or not tag or (kind == "ref" and not repo):
        raise ApiError(400, "Invalid ref format. Expected 'repo_name:tag_name'")
    found = store.tags.get((call.account.org, repo, tag))
    if found is None:
        raise ApiError(404, "tag not found")
    return machines.commit_of(found.commit_id, call.account)


@routes.on("GET", "/vm/{vm_id}/status", "status")
async def status(call: Call) -> Response:
    """Return one VM."""
    vm = call.machines.vm(call.path_params["vm_id"], call.account)
    return json_response(vm_json(call, vm))


@routes.on("GET", "/vm/{vm_id}/metadata", "metadata")
async def metadata(call: Call) -> Response:
    """Return one VM with its address and origin."""
    vm = call.machines.vm(call.path_params["vm_id"], call.account)
    require_awake(vm)
    facts = vm_json(call, vm)
    facts.pop("labels", None)
    facts |= {
        "ip": call.machines.hosting.ip(vm),
        "parent_commit_id": vm.parent_commit_id,
        "grandparent_vm_id": vm.grandparent_vm_id,
        "deleted_at": None,
    }
    return json_response(facts)


@routes.on("GET", "/vm/{vm_id}/ssh_key", "ssh_key")
async def ssh_key(call: Call) -> Response:
    """Return the VM's private key."""
    vm = call.machines.vm(call.path_params["vm_id"], call.account)
    require_awake(vm)
    if vm.state != "running":
        raise node_error(f"409: VM is {vm.state}: {vm.vm_id}")
    return json_response({"ssh_private_key": vm.private_key, "ssh_port": FIRST_PORT + vm.number})


@routes.on("PATCH", "/vm/{vm_id}/state", "state")
async def change_state(call: Call) -> Response:
    """Pause or resume a VM."""
    skip = call.flag("skip_wait_boot")
    wanted = call.json(state="str")["state"]
    allowed = WRITE_STATES[call.machines.switches.state_write_enum]
    if wanted not in allowed:
        words = " or ".join(f"`{word}`" for word in allowed)
        raise wrong_type(f"state: unknown variant `{wanted}`, expected {words}")
    vm = call.machines.vm(call.path_params["vm_id"], call.account, text="vm not found")
    if vm.state != "sleeping":
        await call.machines.wait_until_running(vm, skip_wait=skip)
    await call.machines.change_state(vm, wanted)
    return empty_response()


@routes.on("PATCH", "/vm/{vm_id}/disk", "disk")
async def grow_disk(call: Call) -> Response:
    """Enlarge the disk of a VM."""
    skip = call.flag("skip_wait_boot")
    wanted: int = call.json(fs_size_mib="uint")["fs_size_mib"]
    vm = call.machines.vm(call.path_params["vm_id"], call.account, text="vm not found")
    await call.machines.wait_until_running(vm, skip_wait=skip)
    if wanted <= vm.disk_mib:
        size = f"New disk size ({wanted} MiB) must be strictly greater than"
        text = f"{size} current size ({vm.disk_mib} MiB). Shrinking is not supported."
        if call.machines.switches.disk_error_status == 400:
            raise ApiError(400, text)
        raise node_error(f"NonSuccessStatusCode(400, {text!r})")
    vm.disk_mib = wanted
    return empty_response()


@routes.on("POST", "/vm/{vm_id}/commit", "commit")
async def commit(call: Call) -> Response:
    """Save a VM."""
    keep, skip = call.flag("keep_paused"), call.flag("skip_wait_boot")
    fields = {"name": "str?", "description": "str?", "commit_id": "uuid?"}
    wanted = call.json(**fields) if call.body.strip() else {}
    vm = call.machines.vm(
        call.path_params["vm_id"], call.account, text="vm not found", capitalized=True
    )
    await call.machines.wait_until_running(vm, skip_wait=skip)
    made = await call.machines.commit(call.account, vm, wanted, keep_paused=keep)
    return json_response({"commit_id": made.commit_id}, 201)


@routes.on("DELETE", "/vm/{vm_id}", "delete")
async def delete(call: Call) -> Response:
    """Delete a VM. Unknown and foreign VMs are both forbidden."""
    skip = call.flag("skip_wait_boot")
    vm = call.machines.store.vms.get(call.path_params["vm_id"])
    if vm is None or vm.org != call.account.org:
        raise ApiError(403, "Forbidden")
    await call.machines.wait_until_running(vm, skip_wait=skip)
    # The caller may disconnect before the VM is deleted.
    await asyncio.shield(asyncio.ensure_future(call.machines.delete(vm)))
    return json_response({"vm_id": vm.vm_id})


@routes.on("PATCH", "/vm/{vm_id}/label", "label")
async def label(call: Call) -> Response:
    """Add labels; null changes nothing."""
    labels = call.json(labels="texts?").get("labels")
    vm = call.machines.vm(
        call.path_params["vm_id"], call.account, text="vm not found", capitalized=True
    )
    vm.labels.update(labels or {})
    return empty_response()


@routes.on("PUT", "/vm/{vm_id}/labels", "labels")
async def labels(call: Call) -> Response:
    """Replace all labels."""
    wanted = call.json(labels="texts")["labels"]
    vm = call.machines.vm(
        call.path_params["vm_id"], call.account, text="vm not found", capitalized=True
    )
    vm.labels = dict(wanted)
    return empty_response()


@routes.on("DELETE", "/vm/{vm_id}/label/{label_name}", "delete_label")
async def delete_label(call: Call) -> Response:
    """Remove one label."""
    vm = call.machines.vm(
        call.path_params["vm_id"], call.account, text="vm not found", capitalized=True
    )
    vm.labels.pop(call.path_params["label_name"], None)
    return empty_response()


# -- branching


async def branch_vm(call: Call, vm: Vm, count: int) -> Response:
    """Create copies of a running VM, through a new commit."""
    keep, skip = call.flag("keep_paused"), call.flag("skip_wait_boot")
    await call.machines.wait_until_running(vm, skip_wait=skip)
    try:
        saved = await call.machines.commit(call.account, vm, {}, keep_paused=keep)
    except ApiError as error:
        text = f"error committing vm: {error.error}"
        raise BranchError(error.status, text, []) from None
    return vms_response(call, await call.machines.branch(call.account, saved, count, plain=False))


def vms_response(call: Call, vms: list[Vm]) -> Response:
    """Return the response for new VMs, in the current or the earlier shape."""
    if call.machines.switches.branch_shape == "vm_id" and len(vms) == 1:
        return json_response({"vm_id": vms[0].vm_id}, 201)
    return json_response({"vms": [{"vm_id": vm.vm_id} for vm in vms]}, 201)


def parse_count(call: Call) -> int:
    """Return the parameter `count`, one byte."""
    return call.number("count", 1, 0, 255)


@routes.on("POST", "/vm/{vm_or_commit_id}/branch", "branch")
async def branch(call: Call) -> Response:
    """Branch a VM or an image; the id is looked up as a VM first."""
    count, wanted = parse_count(call), call.path_params["vm_or_commit_id"]
    vm = call.machines.store.vms.get(wanted)
    if vm is not None and vm.org == call.account.org:
        return await branch_vm(call, vm, count)
    found = call.machines.commit_of(wanted, call.account)
    return vms_response(call, await call.machines.branch(call.account, found, count, plain=True))


@routes.on("POST", "/vm/branch/by_vm/{vm_id}", "branch_by_vm")
async def branch_by_vm(call: Call) -> Response:
    """Create copies of a VM."""
    count = parse_count(call)
    vm = call.machines.store.vms.get(call.path_params["vm_id"])
    if vm is None:
        raise BranchError(404, "parent vm not found", [])
    if vm.org != call.account.org:
        raise BranchError(403, "Forbidden", [])
    return await branch_vm(call, vm, count)


@routes.on("POST", "/vm/branch/by_commit/{commit_id}", "branch_by_commit")
async def branch_by_commit(call: Call) -> Response:
    """Create copies of a commit."""
    count = parse_count(call)
    found = call.machines.commit_of(call.path_params["commit_id"], call.account)
    return vms_response(call, await call.machines.branch(call.account, found, count, plain=False))


@routes.on("POST", "/vm/branch/by_tag/{tag_name}", "branch_by_tag")
@routes.on("POST", "/vm/branch/by_ref/{repo_name}/{tag_name}", "branch_by_ref")
async def branch_by_name(call: Call) -> Response:
    """Create copies of the commit that a tag names."""
    count = parse_count(call)
    key = (call.account.org, call.path_params.get("repo_name", ""), call.path_params["tag_name"])
    tag = call.machines.store.tags.get(key)
    if tag is None:
        raise BranchError(404, "tag not found", [])
    found = call.machines.commit_of(tag.commit_id, call.account)
    return vms_response(call, await call.machines.branch(call.account, found, count, plain=False))
