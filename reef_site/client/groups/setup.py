"""`reef config` and `reef boot`"""

from __future__ import annotations

import os
import sys
from typing import Any

from reef_site.client import output
from reef_site.client.commands import Group, Options, hidden_value, show
from reef_site.client.errors import ClientError
from reef_site.client.http import Api

Json = dict[str, Any]
OWNER_ONLY = 0o600


def add_config(group: Group) -> None:
    """Add the commands about config."""
    group.add_tool("get", "show the configuration", "vers_config_get")
    parser = group.add("set", "store a value; an empty one removes it", set_value)
    parser.add_argument("key")
    parser.add_argument(
        "value", nargs="?", help="without it, read from stdin: use this for secrets"
    )


def add_boot(group: Group) -> None:
    """Add the commands about boot scripts."""
    parser = group.add("generate", "print the script that makes a machine a VM", generate)
    parser.add_argument("vmId", metavar="VM", help="id of the VM")
    parser.add_argument("name")
    parser.add_argument("type", help="profile, such as full or swarm")
    parser.add_argument("--parent", dest="parentVmId", help="id of its parent")
    parser.add_argument(
        "--organ", dest="extraOrgans", action="append", metavar="NAME", help="one more; repeatable"
    )
    parser.add_argument("--output", metavar="FILE", help="write the script to a new file, mode 600")
    group.add_tool("profiles", "list the profiles", "reef_boot_profiles")


def set_value(api: Api, options: Options) -> None:
    value = hidden_value(options.key) if options.value is None else options.value
    show(api.call("vers_config_set", {"key": options.key, "value": value}), options)


def generate(api: Api, options: Options) -> None:
    """Print the script alone to stdout, since it is piped; it holds a join token."""
    names = ("vmId", "name", "type", "parentVmId", "extraOrgans")
    result = api.call("reef_boot_generate", {each: getattr(options, each) for each in names})
    found = result["details"]["result"]
    if options.json:
        output.write_json(found)
        return
    output.write(result["text"].split("\n\n")[0], sys.stderr)
    if options.output is None:
        output.write(found["script"])
        return
    try:
        file = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(file, "w", encoding="utf-8") as target:
            target.write(found["script"])
    except OSError as error:
        raise ClientError(f"{options.output}: {error.strerror}") from None
