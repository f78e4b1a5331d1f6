"""`reef vms run`"""

from __future__ import annotations

import sys
import time
from typing import Any

from reef_site.client import errors, output
from reef_site.client.commands import Group, Options, text_or_stdin, whole_number
from reef_site.client.completion import complete_vms
from reef_site.client.http import Api

Json = dict[str, Any]
ROOT = "/bootloader/commands"
POLL_SECONDS = 1.0


def add(group: Group) -> None:
    """Add the command."""
    parser = group.add("run", "run a shell command on a VM, and print its output", run)
    action = parser.add_argument("vm", metavar="VM", help="id of a VM; with --host an SSH host")
    action.completer = complete_vms  # type: ignore[attr-defined]
    parser.add_argument("command", help="run by sh, without input; - for stdin")
    parser.add_argument("--host", action="store_true", help="VM is the name of an SSH host")
    parser.add_argument("--limit", type=whole_number, default=30, help="seconds (%(default)s)")


def run(api: Api, options: Options) -> int:
    place = "sshHost" if options.host else "vmId"
    command = text_or_stdin(options.command)
    body = {place: options.vm, "command": command, "limitSeconds": options.limit}
    facts: Json = api.post(ROOT, body)["command"]
    try:
        while facts["isOpen"]:
            time.sleep(POLL_SECONDS)
            facts = api.get(f"{ROOT}/{facts['id']}")["command"]
    except KeyboardInterrupt:
        api.post(f"{ROOT}/{facts['id']}/cancel", {})
        raise
    _show(facts, options)
    is_good = facts["state"] == "done" and facts["exitStatus"] == 0
    return errors.OK if is_good else errors.FAILED


def _show(facts: Json, options: Options) -> None:
    if options.json:
        output.write_json(facts)
        return
    if facts["output"]:
        output.write(facts["output"])
    if facts["errors"]:
        output.write(facts["errors"], sys.stderr)
    if facts["state"] != "done" or facts["exitStatus"]:
        output.write(f"reef: {facts['note']}", sys.stderr)
