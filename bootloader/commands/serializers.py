"""Requests and responses about commands, in the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bootloader.commands.output import MAX_KEPT
from bootloader.commands.services import DEFAULT_SECONDS, MAX_COMMAND, MAX_SECONDS
from bootloader.models import MachineCommand
from bootloader.states import CommandState
from reef_site.common.api.fields import Choice, Flag, Number, Text, Timestamp, WholeNumber
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody
from reef_site.common.errors import BadInput
from vmtree.fields import VMAlias

Json = dict[str, Any]
MAX_ROWS, DEFAULT_ROWS = 200, 50
_KEPT = f"At most {MAX_KEPT} characters: if there were more, the beginning and the end."


class CommandResponse(ResponseBody):
    """A command on a machine. Secrets that reef knows are masked in all of it."""

    id = Text()
    vmId = Text(source="vm_id", allow_null=True)
    sshHost = Text(allow_null=True)
    machine = Text(source="place", help_text="The machine's name.")
    actor = Text()
    command = Text()
    limitSeconds = WholeNumber(source="limit_seconds")
    state = Choice(CommandState.values)
    exitStatus = WholeNumber(
        source="exit_status", allow_null=True, help_text="128 and more: ended by a signal."
    )
    note = Text(help_text="How it ended, in words; empty while it has not.")
    output = Text(help_text=_KEPT)
    errors = Text(help_text=f"What it printed on stderr. {_KEPT}")  # type: ignore[assignment]
    outputSize = WholeNumber(source="output_size", help_text="All of it, in characters.")
    errorsSize = WholeNumber(source="errors_size")
    cancelledBy = Text(source="cancelled_by", allow_null=True)
    seconds = Number(allow_null=True, help_text="How long it ran.")
    askedAt = Timestamp(source="asked_at")
    beganAt = Timestamp(source="began_at", allow_null=True)
    endedAt = Timestamp(source="ended_at", allow_null=True)
    isOpen = Flag(source="is_open", help_text="It waits or runs: ask again.")

    example = {
        "id": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "vmId": "vm-7",
        "sshHost": None,
        "machine": "builder (vers)",
        "actor": "operator",
        "command": "uptime",
        "limitSeconds": 30,
        "state": "done",
        "exitStatus": 0,
        "note": "ended with status 0",
        "output": " 09:41:02 up 12 days\n",
        "errors": "",
        "outputSize": 21,
        "errorsSize": 0,
        "cancelledBy": None,
        "seconds": 0.041,
        "askedAt": "2026-11-22T06:21:09.098Z",
        "beganAt": "2026-11-22T06:21:09.410Z",
        "endedAt": "2026-11-22T06:21:09.451Z",
        "isOpen": False,
    }


class OneCommandResponse(ResponseBody):
    command = CommandResponse()


class CommandsQuery(Query):
    """Without `vmId` and `sshHost`: the commands on all machines."""

    vmId = VMAlias(strip=False, source="vm_id")
    sshHost = Text(source="ssh_host")
    limit = WholeNumber(least=1, most=MAX_ROWS, default=DEFAULT_ROWS)
    cursor = Text(strip=False)


class CommandBody(Body):
    """A command for the VM of a provider, or for a registered SSH host."""

    vmId = VMAlias(source="vm_id", default="")
    sshHost = Text(source="ssh_host", default="")
    command = Text(
        length=MAX_COMMAND,
        strip=False,
        blank=False,
        help_text="Run by sh in the home folder of the user that reef logs in as, without input.",
    )
    limitSeconds = WholeNumber(
        least=1, most=MAX_SECONDS, default=DEFAULT_SECONDS, source="limit_seconds"
    )

    example = {"vmId": "vm-7", "command": "uptime", "limitSeconds": 30}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Raise BadInput unless exactly one machine is given."""
        if bool(data.get("vmId")) == bool(data.get("sshHost")):
            raise BadInput("vmId: say either vmId or sshHost", "vmId")
        return super().to_internal_value(data)


_read = object_reader(CommandResponse, "sshHost", "seconds", blank_as_null=True)


def command_json(row: MachineCommand) -> Json:
    """Return a command as JSON."""
    host = row.ssh_host.name if row.ssh_host else None
    return {**_read(row), "sshHost": host, "seconds": row.seconds}
