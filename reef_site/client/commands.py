"""Declaration of commands: groups of an argument parser, and functions that run them."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reef_site.client import errors, output
from reef_site.client.errors import UsageError
from reef_site.client.http import Api

Json = dict[str, Any]
Options = argparse.Namespace
Run = Callable[[Api, Options], int | None]
DEFAULT_WAIT = 600
STDIN = "-"


@dataclass(frozen=True)
class Group:
    """A group of commands, such as `reef vms`."""

    parsers: argparse._SubParsersAction[argparse.ArgumentParser]

    def add(self, name: str, about: str, run: Run) -> argparse.ArgumentParser:
        """Add a command; `run` returns its exit status, None for success."""
        return add_command(self.parsers, name, about, run)

    def add_tool(
        self, name: str, about: str, tool: str, arguments: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        """Add a command that calls a tool with the options of these names, and prints its text."""

        def run(api: Api, options: Options) -> None:
            show(api.call(tool, {each: getattr(options, each) for each in arguments}), options)

        return self.add(name, about, run)


def add_command(
    parsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, run: Run
) -> argparse.ArgumentParser:
    """Add a command with the options that all have."""
    parser = parsers.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=errors.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def add_group(
    parsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> Group:
    """Add a group of commands."""
    parser = parsers.add_parser(name, help=about, description=about, allow_abbrev=False)
    return Group(parser.add_subparsers(metavar="COMMAND", required=True))


def show(result: Json, options: Options, text: str | None = None) -> None:
    """Print a tool's result: its details with `--json`, else its text or the one given."""
    if options.json:
        output.write_json(result["details"])
    else:
        output.write(result["text"] if text is None else text)


def add_wait(parser: argparse.ArgumentParser, about: str) -> None:
    """Add `--wait`, with or without seconds."""
    parser.add_argument(
        "--wait",
        type=whole_number,
        nargs="?",
        const=DEFAULT_WAIT,
        metavar="SECONDS",
        help=f"{about}, for {DEFAULT_WAIT} seconds at most if none are given",
    )


def whole_number(text: str) -> int:
    """Return a whole number that is not negative. Raises ArgumentTypeError."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def text_or_stdin(text: str) -> str:
    """Return the text, or stdin if it is a dash."""
    return sys.stdin.read() if text == STDIN else text


def hidden_value(prompt: str) -> str:
    """Return a value from stdin, without its line end; on a terminal it is not shown."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{prompt}: ")
    return sys.stdin.read().removesuffix("\n")


def composition(organs: Sequence[str], capabilities: Sequence[str]) -> Json | None:
    """Return organs and capabilities as the API has them; None if there are none."""
    if not organs and not capabilities:
        return None
    return {"organs": list(organs), "capabilities": list(capabilities)}


def add_composition(parser: argparse.ArgumentParser) -> None:
    """Add the options of `composition`; each may be repeated."""
    for name in ("organ", "capability"):
        dest = {"organ": "organs", "capability": "capabilities"}[name]
        parser.add_argument(
            f"--{name}", dest=dest, action="append", default=[], metavar="NAME", help="repeatable"
        )


def usage_error(text: str) -> UsageError:
    """Return an error about the arguments."""
    return UsageError(f"{text} (see --help)")
