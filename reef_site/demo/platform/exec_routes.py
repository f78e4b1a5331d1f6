"""Routes for commands in VMs, their logs, and files."""

from __future__ import annotations

import asyncio
import base64
import binascii
import shlex

from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.machines import Machines
from reef_site.demo.platform.responses import (
    Response,
    TextError,
    empty_response,
    json_response,
    node_error,
)
from reef_site.demo.platform.runs import Command, Run
from reef_site.demo.platform.store import Vm

routes = Routes()
EXEC = {
    "command": "words",
    "env": "texts?",
    "stdin": "str?",
    "working_dir": "str?",
    "timeout_secs": "uint?",
    "exec_id": "uuid?",
}


async def vm_for_command(call: Call) -> Vm:
    """Return the VM if it can run commands. For a paused VM, wait until it continues."""
    vm = call.machines.vm(call.path_params["vm_id"], call.account)
    if vm.state in ("booting", "sleeping", "dead"):
        raise node_error(f"409: VM is {vm.state}: {vm.vm_id}")
    if vm.state == "paused":
        await _wait_while_paused(call.machines, vm)
    return vm


async def _wait_while_paused(machines: Machines, vm: Vm) -> None:
    """Wait while the VM is paused, until it continues or the proxy times out."""
    waited = 0.0
    while vm.state == "paused":
        if waited >= machines.switches.hang_s:
            raise TextError(503, "503 Service unavailable")
        await asyncio.sleep(0.05)
        waited += 0.05


async def start_command(call: Call) -> tuple[Vm, Run, Command]:
    """Start the command of the request."""
    facts = call.json(**EXEC)
    vm = await vm_for_command(call)
    command = Command.of(facts)
    if not command.argv:
        raise node_error("400: command is empty")
    runs = call.machines.runs_of(vm)
    return vm, await runs.start(call.machines.hosting, vm.vm_id, command), command


@routes.on("POST", "/vm/{vm_id}/exec", "exec")
async def execute(call: Call) -> Response:
    """Run a command to its end. Any exit code is a success."""
    _, run, command = await start_command(call)
    cap = call.machines.switches.exec_cap_s
    try:
        code = await asyncio.wait_for(run.wait_for_exit(), cap)
    except TimeoutError:
        raise node_error("network timeout") from None
    facts = {"exit_code": code, "stdout": run.output("stdout"), "stderr": run.output("stderr")}
    if command.exec_id:
        facts["exec_id"] = command.exec_id
    return json_response(facts)


@routes.on("POST", "/vm/{vm_id}/exec/stream", "exec_stream")
async def stream(call: Call) -> Response:
    """Run a command and stream its output."""
    _, run, _ = await start_command(call)
    return Response(200, kind="application/x-ndjson", stream=run.stream_events(0))


@routes.on("POST", "/vm/{vm_id}/exec/stream/attach", "attach")
async def attach(call: Call) -> Response:
    """Stream the output of a running or ended command."""
    facts = call.json(exec_id="uuid", cursor="uint?", from_latest="bool?")
    vm = await vm_for_command(call)
    run = call.machines.runs_of(vm).known.get(facts["exec_id"])
    if run is None:
        raise node_error("404: exec session not found")
    after = facts.get("cursor") or 0
    if facts.get("from_latest") and run.exit_code is None:
        after = len(run.events)
    return Response(200, kind="application/x-ndjson", stream=run.stream_events(after))


@routes.on("GET", "/vm/{vm_id}/logs", "logs")
async def logs(call: Call) -> Response:
    """Return the output of commands from a byte offset on."""
    offset, limit = call.number("offset", 0, 0, 1 << 53), call.number("max_entries", 100, 1, 10000)
    wanted = call.query.get("stream")
    if wanted not in (None, "stdout", "stderr"):
        raise TextError(400, "Failed to deserialize query string: stream: unknown variant")
    runs = call.machines.runs_of(await vm_for_command(call))
    later = [entry for entry in runs.log if entry["at"] >= offset]
    page = later[:limit]
    following = page[-1]["at"] + len(base64.b64decode(page[-1]["data_b64"])) if page else offset
    entries = [
        {key: value for key, value in entry.items() if key != "at"}
        for entry in page
        if wanted in (None, entry["stream"])
    ]
    eof = len(page) == len(later)
    return json_response({"entries": entries, "next_offset": following, "eof": eof})


@routes.on("GET", "/vm/{vm_id}/files", "read_file")
async def read_file(call: Call) -> Response:
    """Return the content of a file."""
    path = call.query.get("path")
    if path is None:
        raise TextError(400, "Failed to deserialize query string: missing field `path`")
    vm = await vm_for_command(call)
    place = call.machines.hosting.path(vm.vm_id, path)
    code, content, errors = await call.machines.run(vm, ["cat", "--", place])
    if code:
        raise node_error(f"500: {errors.decode(errors='replace').strip()}")
    return json_response({"content_b64": base64.b64encode(content).decode()})


@routes.on("PUT", "/vm/{vm_id}/files", "write_file")
async def write_file(call: Call) -> Response:
    """Write a file."""
    kinds = {"path": "str", "content_b64": "str", "mode": "uint?", "create_dirs": "bool?"}
    facts = call.json(**kinds)
    vm = await vm_for_command(call)
    try:
        content = base64.b64decode(facts["content_b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise node_error(f"400: invalid base64: {error}") from None
    place = shlex.quote(call.machines.hosting.path(vm.vm_id, facts["path"]))
    mode = 0o644 if facts.get("mode") is None else facts["mode"]
    folder = f'mkdir -p -- "$(dirname -- {place})" && ' if facts.get("create_dirs") else ""
    script = f"{folder}cat > {place} && chmod {mode:o} {place}"
    code, _, errors = await call.machines.run(vm, ["sh", "-c", script], content)
    if code:
        raise node_error(f"500: {errors.decode(errors='replace').strip()}")
    return empty_response()
