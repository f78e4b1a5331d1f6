"""Routes of VMs."""

from __future__ import annotations

import asyncio
from typing import Any

from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.responses import (
    ASLEEP,
    Answer,
    BranchRefusal,
    Refusal,
    bad_body,
    empty,
    json_answer,
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


def shown(call: Call, vm: Vm) -> dict[str, Any]:
    """A VM as the list and the status call tell it."""
    facts: dict[str, Any] = {
        "vm_id": vm.vm_id,
        "owner_id": vm.owner_id,
        "created_at": vm.created_at,
        "state": vm.state,
    }
    if call.machines.switches.labels_in_vm:
        facts["labels"] = vm.labels
    return facts


def only_awake(vm: Vm) -> None:
    """Refuse what a sleeping VM cannot be asked."""
    if vm.state == "sleeping":
        raise Refusal(409, ASLEEP)


@routes.on("GET", "/vms", "list")
@routes.on("GET", "/vm", "list_alias")
async def list_vms(call: Call) -> Answer:
    """All of the organisation; one may be missing for a moment."""
    vms = [vm for vm in call.machines.store.vms.values() if vm.org == call.who.org]
    switches = call.machines.switches
    if switches.list_gap > 0 and vms:
        switches.list_gap -= 1
        missing = switches.list_gap_vm or vms[-1].vm_id
        vms = [vm for vm in vms if vm.vm_id != missing]
    return json_answer([shown(call, vm) for vm in vms])


@routes.on("POST", "/vm/new_root", "new_root")
async def new_root(call: Call) -> Answer:
    """A VM from an image."""
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
    vm = await call.machines.create(call.who, config, wait=wait)
    return json_answer({"vm_id": vm.vm_id}, 201)


@routes.on("POST", "/vm/from_commit", "from_commit")
async def from_commit(call: Call) -> Answer:
    """A VM from a commit, named by id, by an old tag or as repository:tag."""
    facts = call.json()
    names = [name for name in ("commit_id", "tag_name", "ref") if facts.get(name) is not None]
    if len(names) != 1:
        raise bad_body("expected exactly one of commit_id, tag_name, ref")
    commit = named_commit(call, names[0], facts[names[0]])
    vm = await call.machines.restore(call.who, commit)
    return json_answer({"vm_id": vm.vm_id}, 201)


def named_commit(call: Call, kind: str, name: Any) -> Commit:
    """The commit that one of the three kinds of name stands for."""
    machines, store = call.machines, call.machines.store
    if not isinstance(name, str):
        raise wrong_type(f"{kind}: invalid type, expected a string")
    if kind == "commit_id":
        return machines.commit_of(name, call.who)
    repo, colon, tag = name.partition(":") if kind == "ref" else ("", ":", name)
    if not colon or not tag or (kind == "ref" and not repo):
        raise Refusal(400, "Invalid ref format. Expected 'repo_name:tag_name'")
    found = store.tags.get((call.who.org, repo, tag))
    if found is None:
        raise Refusal(404, "tag not found")
    return machines.commit_of(found.commit_id, call.who)


@routes.on("GET", "/vm/{vm_id}/status", "status")
async def status(call: Call) -> Answer:
    """Return one VM."""
    vm = call.machines.vm(call.words["vm_id"], call.who)
    return json_answer(shown(call, vm))


@routes.on("GET", "/vm/{vm_id}/metadata", "metadata")
async def metadata(call: Call) -> Answer:
    """Return one VM with its address and origin."""
    vm = call.machines.vm(call.words["vm_id"], call.who)
    only_awake(vm)
    facts = shown(call, vm)
    facts.pop("labels", None)
    facts |= {
        "ip": call.machines.hosting.ip(vm),
        "parent_commit_id": vm.parent_commit_id,
        "grandparent_vm_id": vm.grandparent_vm_id,
        "deleted_at": None,
    }
    return json_answer(facts)


@routes.on("GET", "/vm/{vm_id}/ssh_key", "ssh_key")
async def ssh_key(call: Call) -> Answer:
    """The VM's own key."""
    vm = call.machines.vm(call.words["vm_id"], call.who)
    only_awake(vm)
    if vm.state != "running":
        raise node_error(f"409: VM is {vm.state}: {vm.vm_id}")
    return json_answer({"ssh_private_key": vm.private_key, "ssh_port": FIRST_PORT + vm.number})


@routes.on("PATCH", "/vm/{vm_id}/state", "state")
async def change_state(call: Call) -> Answer:
    """Pause or resume."""
    skip = call.flag("skip_wait_boot")
    wanted = call.json(state="str")["state"]
    allowed = WRITE_STATES[call.machines.switches.state_write_enum]
    if wanted not in allowed:
        words = " or ".join(f"`{word}`" for word in allowed)
        raise wrong_type(f"state: unknown variant `{wanted}`, expected {words}")
    vm = call.machines.vm(call.words["vm_id"], call.who, text="vm not found")
    if vm.state != "sleeping":
        await call.machines.awake(vm, skip_wait=skip)
    await call.machines.change_state(vm, wanted)
    return empty()


@routes.on("PATCH", "/vm/{vm_id}/disk", "disk")
async def grow_disk(call: Call) -> Answer:
    """A larger disk, never a smaller one."""
    skip = call.flag("skip_wait_boot")
    wanted: int = call.json(fs_size_mib="uint")["fs_size_mib"]
    vm = call.machines.vm(call.words["vm_id"], call.who, text="vm not found")
    await call.machines.awake(vm, skip_wait=skip)
    if wanted <= vm.disk_mib:
        size = f"New disk size ({wanted} MiB) must be strictly greater than"
        text = f"{size} current size ({vm.disk_mib} MiB). Shrinking is not supported."
        if call.machines.switches.disk_error_status == 400:
            raise Refusal(400, text)
        raise node_error(f"NonSuccessStatusCode(400, {text!r})")
    vm.disk_mib = wanted
    return empty()


@routes.on("POST", "/vm/{vm_id}/commit", "commit")
async def commit(call: Call) -> Answer:
    """Save a VM."""
    keep, skip = call.flag("keep_paused"), call.flag("skip_wait_boot")
    fields = {"name": "str?", "description": "str?", "commit_id": "uuid?"}
    wanted = call.json(**fields) if call.body.strip() else {}
    vm = call.machines.vm(call.words["vm_id"], call.who, text="vm not found", shout=True)
    await call.machines.awake(vm, skip_wait=skip)
    made = await call.machines.commit(call.who, vm, wanted, keep_paused=keep)
    return json_answer({"commit_id": made.commit_id}, 201)


@routes.on("DELETE", "/vm/{vm_id}", "delete")
async def delete(call: Call) -> Answer:
    """Remove a VM. An unknown one is as forbidden as a foreign one."""
    skip = call.flag("skip_wait_boot")
    vm = call.machines.store.vms.get(call.words["vm_id"])
    if vm is None or vm.org != call.who.org:
        raise Refusal(403, "Forbidden")
    await call.machines.awake(vm, skip_wait=skip)
    # Whoever asked may be gone before it is done.
    await asyncio.shield(asyncio.ensure_future(call.machines.delete(vm)))
    return json_answer({"vm_id": vm.vm_id})


@routes.on("PATCH", "/vm/{vm_id}/label", "label")
async def label(call: Call) -> Answer:
    """Add labels; null changes nothing."""
    labels = call.json(labels="texts?").get("labels")
    vm = call.machines.vm(call.words["vm_id"], call.who, text="vm not found", shout=True)
    vm.labels.update(labels or {})
    return empty()


@routes.on("PUT", "/vm/{vm_id}/labels", "labels")
async def labels(call: Call) -> Answer:
    """Replace all labels."""
    wanted = call.json(labels="texts")["labels"]
    vm = call.machines.vm(call.words["vm_id"], call.who, text="vm not found", shout=True)
    vm.labels = dict(wanted)
    return empty()


@routes.on("DELETE", "/vm/{vm_id}/label/{label_name}", "delete_label")
async def delete_label(call: Call) -> Answer:
    """Remove one label."""
    vm = call.machines.vm(call.words["vm_id"], call.who, text="vm not found", shout=True)
    vm.labels.pop(call.words["label_name"], None)
    return empty()


# -- branching


async def branch_vm(call: Call, vm: Vm, count: int) -> Answer:
    """Copies of a living VM, through a commit of it."""
    keep, skip = call.flag("keep_paused"), call.flag("skip_wait_boot")
    await call.machines.awake(vm, skip_wait=skip)
    try:
        saved = await call.machines.commit(call.who, vm, {}, keep_paused=keep)
    except Refusal as error:
        text = f"error committing vm: {error.error}"
        raise BranchRefusal(error.status, text, []) from None
    return made(call, await call.machines.branch(call.who, saved, count, plain=False))


def made(call: Call, vms: list[Vm]) -> Answer:
    """New VMs, in the shape of today or of yesterday."""
    if call.machines.switches.branch_shape == "vm_id" and len(vms) == 1:
        return json_answer({"vm_id": vms[0].vm_id}, 201)
    return json_answer({"vms": [{"vm_id": vm.vm_id} for vm in vms]}, 201)


def how_many(call: Call) -> int:
    """The parameter `count`, one byte."""
    return call.number("count", 1, 0, 255)


@routes.on("POST", "/vm/{vm_or_commit_id}/branch", "branch")
async def branch(call: Call) -> Answer:
    """Branch a VM or an image; the id is looked up as a VM first."""
    count, wanted = how_many(call), call.words["vm_or_commit_id"]
    vm = call.machines.store.vms.get(wanted)
    if vm is not None and vm.org == call.who.org:
        return await branch_vm(call, vm, count)
    found = call.machines.commit_of(wanted, call.who)
    return made(call, await call.machines.branch(call.who, found, count, plain=True))


@routes.on("POST", "/vm/branch/by_vm/{vm_id}", "branch_by_vm")
async def branch_by_vm(call: Call) -> Answer:
    """Copies of a VM."""
    count = how_many(call)
    vm = call.machines.store.vms.get(call.words["vm_id"])
    if vm is None:
        raise BranchRefusal(404, "parent vm not found", [])
    if vm.org != call.who.org:
        raise BranchRefusal(403, "Forbidden", [])
    return await branch_vm(call, vm, count)


@routes.on("POST", "/vm/branch/by_commit/{commit_id}", "branch_by_commit")
async def branch_by_commit(call: Call) -> Answer:
    """Copies of a commit."""
    count = how_many(call)
    found = call.machines.commit_of(call.words["commit_id"], call.who)
    return made(call, await call.machines.branch(call.who, found, count, plain=False))


@routes.on("POST", "/vm/branch/by_tag/{tag_name}", "branch_by_tag")
@routes.on("POST", "/vm/branch/by_ref/{repo_name}/{tag_name}", "branch_by_ref")
async def branch_by_name(call: Call) -> Answer:
    """Copies of what a tag names."""
    count = how_many(call)
    key = (call.who.org, call.words.get("repo_name", ""), call.words["tag_name"])
    tag = call.machines.store.tags.get(key)
    if tag is None:
        raise BranchRefusal(404, "tag not found", [])
    found = call.machines.commit_of(tag.commit_id, call.who)
    return made(call, await call.machines.branch(call.who, found, count, plain=False))
