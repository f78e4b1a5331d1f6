"""Tools for boot scripts and profiles."""

from __future__ import annotations

from typing import Any

from bootloader.boot import generation, profiles
from bootloader.boot.serializers import ScriptBody, profile_json
from reef_site.common.api.fields import ListOf, Text
from reef_site.common.api.serializers import Body
from reef_site.common.tools import NoArguments, Tool, ToolResult
from vmtree.permissions import Action
from vmtree.placement import below_caller

Json = dict[str, Any]
MAX_NAMES = 200


class GenerateArguments(Body):
    vmId = Text(blank=False, help_text="Id of the VM.")
    name = Text(blank=False, help_text="Name of the VM.")
    type = Text(
        blank=False, help_text="Profile: full, swarm, lightweight, infra, or one of your own."
    )
    parentVmId = Text(required=False, help_text="Its parent.")
    extraOrgans = ListOf(Text(), most=MAX_NAMES, required=False)


def generate(caller: object, arguments: Json) -> ToolResult:
    result = generation.generate(ScriptBody.parse_data(below_caller(caller, arguments)), by=caller)
    profile, address = result["profile"], f"root@{result['vmId']}.vm.vers.sh"
    lines = [
        f'Boot script generated for "{result["name"]}" ({result["type"]})',
        f"Organs: {', '.join(profile['organs'])}",
        f"Capabilities: {', '.join(profile['capabilities']) or 'none'}",
        f"Pi-vers: {'yes' if profile['installPiVers'] else 'no'}",
        f"Script length: {len(result['script'])} chars",
        "",
        f"scp boot.sh {address}:/tmp/boot.sh",
        f"ssh {address} bash /tmp/boot.sh",
    ]
    return ToolResult("\n".join(lines), {"result": result})


def list_profiles(_caller: object, _arguments: Json) -> ToolResult:
    found = {each.type: profile_json(each) for each in profiles.all().values()}
    blocks = [
        "\n".join(
            [
                f"{kind}:",
                f"  {each['description']}",
                f"  Organs: {', '.join(each['organs'])}",
                f"  Capabilities: {', '.join(each['capabilities']) or 'none'}",
                f"  Pi-vers: {'yes' if each['installPiVers'] else 'no'}",
            ]
        )
        for kind, each in found.items()
    ]
    return ToolResult("\n\n".join(blocks), {"profiles": found})


TOOLS = (
    Tool(
        "reef_boot_generate",
        "Generate the script that makes a machine a VM of the fleet. The script is in the details "
        "of the result, since it holds a join token.",
        GenerateArguments,
        generate,
        shows_secret=True,
        action=Action.WRITE,
    ),
    Tool(
        "reef_boot_profiles",
        "List the profiles: what kinds of VMs there are and what each has.",
        NoArguments,
        list_profiles,
        read_only=True,
    ),
)
