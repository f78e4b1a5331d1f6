"""The client commands of `reef` as one program."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from reef_site.client import completion, errors, output
from reef_site.client.commands import add_group
from reef_site.client.errors import ClientError
from reef_site.client.groups import (
    events,
    fleet,
    identity,
    lieutenants,
    questions,
    setup,
    tools,
    usage,
    waits,
)
from reef_site.client.http import Api
from reef_site.client.server import ADDRESS, TOKEN, find_server

GROUPS = {
    "lieutenants": ("create lieutenants, and talk to them", lieutenants.add),
    "questions": ("questions of agents to people", questions.add),
    "vms": ("list and register VMs, run commands on them", fleet.add_vms),
    "tree": ("show and extend the tree", fleet.add_tree),
    "config": ("show and store config values", setup.add_config),
    "boot": ("boot scripts and profiles", setup.add_boot),
    "tools": ("the tools of agents", tools.add),
}
SINGLE = ("wait", "events", "usage", "whoami", "completion")
# Commands of the server, which Django runs.
SERVER = {
    "up": "run all of reef on this machine",
    "signin": "print a link that signs the operator in",
}
NAME = "reef"
HELP = ("-h", "--help")
DESCRIPTION = f"""\
Control a fleet of agents. Commands use the reef at {ADDRESS} with the token in {TOKEN};
without an address, the one that `reef up` runs on this machine.
"""
EPILOG = f"""\
{errors.EXPLAINED}
`reef help` lists the other commands of the server.
"""


def without_name(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without a leading `reef`, so that `manage.py reef up` works, too."""
    return list(arguments[1:] if arguments[:1] == [NAME] else arguments)


def handles(arguments: Sequence[str]) -> bool:
    """Return whether this command line is one of the client."""
    first = arguments[0] if arguments else "--help"
    return completion.is_wanted() or first in GROUPS or first in SINGLE or first in HELP


def run(arguments: Sequence[str], name: str = "reef") -> int:
    """Run one command and return its exit status. Raises SystemExit for usage errors."""
    parser = make_parser(name)
    if completion.is_wanted():
        completion.complete(parser)
    options = parser.parse_args(list(arguments) or ["--help"])
    try:
        api = Api(find_server()) if getattr(options, "needs_server", True) else None
        status: int = options.run(api, options) or errors.OK
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _end_silently()
    except ClientError as error:
        output.write(f"reef: {error}", sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return errors.INTERRUPTED


def _end_silently() -> int:
    """Return the status of other commands in a pipe whose reader has gone.

    The signal is not used for this: it would also end the process, without a word, when a server
    hangs up.
    """
    # Nothing more is written when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def make_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=name,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parsers: Any = parser.add_subparsers(metavar="COMMAND", required=True)
    for group, (about, add) in GROUPS.items():
        add(add_group(parsers, group, about))
    waits.add(parsers)
    events.add(parsers)
    usage.add(parsers)
    identity.add(parsers)
    completion.add(parsers)
    for command, about in SERVER.items():
        parsers.add_parser(command, help=about, add_help=False)
    return parser
