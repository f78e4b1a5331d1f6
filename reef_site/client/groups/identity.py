"""`reef whoami`"""

from __future__ import annotations

import argparse
from typing import Any

from reef_site.client.commands import Options, add_command, show
from reef_site.client.http import Api

Json = dict[str, Any]


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    add_command(parsers, "whoami", "show who you are to reef, and what you may do", run)


def run(api: Api, options: Options) -> None:
    facts = api.get("/whoami")
    show({"details": facts}, options, f"{_text(facts)}\nReef: {api.server.url}")


def _text(facts: Json) -> str:
    lines = [f"{facts['name']} ({facts['kind']})"]
    if node := facts["node"]:
        lines.append(f"Node: {node['name']} {node['vmId']}")
    if subtree := facts["subtree"]:
        lines.append(f"Only below: {subtree['name']} {subtree['vmId']}")
    if facts["expiresAt"]:
        lines.append(f"Expires: {facts['expiresAt']}")
    lines.append("May:")
    lines += [f"  {each['action']}: {', '.join(each['to'])}" for each in facts["rights"]]
    return "\n".join(lines)
