"""Completion of command lines in bash, zsh and fish, by argcomplete."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from typing import Any

from reef_site.client import output
from reef_site.client.commands import Options
from reef_site.client.errors import ClientError
from reef_site.client.http import Api
from reef_site.client.server import find_server

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ARGCOMPLETE"
# A slow answer is worse than none.
SECONDS = 1.5


def is_wanted() -> bool:
    """Return whether the shell asks for completions, not for the command."""
    return VARIABLE in os.environ


def complete(parser: argparse.ArgumentParser) -> None:
    """Print completions for the shell, and exit."""
    import argcomplete

    argcomplete.autocomplete(parser)


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command that prints a shell's script."""
    about = "Print the script that completes `reef` in a shell"
    parser = parsers.add_parser("completion", help=about, description=f"{about}.", epilog=USE)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=print_script, needs_server=False)


def print_script(_api: Api | None, options: Options) -> None:
    from argcomplete.shell_integration import shellcode

    output.write(shellcode(["reef"], shell=options.shell))


def complete_lieutenants(**_: Any) -> Iterable[str]:
    """Return the names of lieutenants."""
    query = {"brief": "true"}
    return _ask(
        lambda api: [
            each["name"]
            for each in api.get("/lieutenant/lieutenants", query, seconds=SECONDS)["lieutenants"]
        ]
    )


def complete_vms(**_: Any) -> Iterable[str]:
    """Return the ids of VMs in the tree."""
    return _ask(
        lambda api: [each["vmId"] for each in api.get("/vm-tree/vms", seconds=SECONDS)["vms"]]
    )


def complete_tools(**_: Any) -> Iterable[str]:
    """Return the names of tools."""
    return _ask(lambda api: [each["name"] for each in api.get("/tools", seconds=SECONDS)["tools"]])


def complete_questions(**_: Any) -> Iterable[str]:
    """Return the ids of open questions."""
    query = {"state": "open"}
    return _ask(
        lambda api: [
            each["id"]
            for each in api.get("/lieutenant/questions", query, seconds=SECONDS)["questions"]
        ]
    )


def _ask(find: Callable[[Api], list[str]]) -> list[str]:
    """Return what reef offers; nothing if it does not answer, since a shell cannot show why."""
    try:
        return find(Api(find_server()))
    except ClientError:
        return []


USE = """\
bash:  eval "$(reef completion bash)"         in ~/.bashrc
zsh:   eval "$(reef completion zsh)"          in ~/.zshrc
fish:  reef completion fish | source          in ~/.config/fish/config.fish
"""
