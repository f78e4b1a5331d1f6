"""Connection tests, and the states of calls that go on after their request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bootloader.provisioning.serializers.fields import Json, OptionalLine
from bootloader.provisioning.serializers.inventory import (
    FailedFindingResponse,
    FindingResponse,
    MachineResponse,
)
from reef_site.common.api.fields import Choice, Flag, Number, Text, WholeNumber
from reef_site.common.api.serializers import Body, ResponseBody
from reef_site.common.errors import BadInput
from reef_site.common.models import CallState


class ConnectionStepResponse(ResponseBody):
    name = Text(help_text="Such as `address`, `tcp`, `host key`, `login`, `python` or `agent`.")
    seconds = Number()
    note = Text(help_text="What was found; may be empty.")
    problem = Text(help_text="What is wrong; empty if nothing is.")


class ConnectionTestResponse(ResponseBody):
    """The way to a machine, up to the step that failed."""

    name = Text()
    good = Flag()
    steps = ConnectionStepResponse(many=True)

    example = {
        "name": "builder",
        "good": False,
        "steps": [
            {"name": "address", "seconds": 0.002, "note": "192.0.2.7", "problem": ""},
            {"name": "tcp", "seconds": 0.03, "note": "", "problem": "Connection refused"},
        ],
    }


class ConnectionTestBody(Body):
    """The VM of a provider, or a registered SSH host."""

    vmId = OptionalLine(source="vm_id")
    sshHost = OptionalLine(source="ssh_host")

    example = {"sshHost": "builder"}

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Raise BadInput unless exactly one of the two is given."""
        if bool(data.get("vmId")) == bool(data.get("sshHost")):
            raise BadInput("vmId: say either vmId or sshHost", "vmId")
        return super().to_internal_value(data)


class CallResponse(ResponseBody):
    """The state of a call, and what the request would have been answered with."""

    id = Text()
    state = Choice([CallState.RUNNING, CallState.DONE, CallState.FAILED])
    error = Text(required=False)
    finding = FindingResponse(required=False)
    findings = FindingResponse(many=True, required=False)
    count = WholeNumber(required=False)
    failed = FailedFindingResponse(many=True, required=False)
    skipped = MachineResponse(many=True, required=False)
    note = Text(required=False)
    name = Text(required=False)
    good = Flag(required=False)
    steps = ConnectionStepResponse(many=True, required=False)

    example = {"id": "5f3a", "state": "running"}
