"""`reef wait`"""

from __future__ import annotations

import argparse
from typing import Any

from reef_site.client import errors, waiting
from reef_site.client.commands import (
    DEFAULT_WAIT,
    Options,
    add_command,
    show,
    usage_error,
    whole_number,
)
from reef_site.client.completion import complete_lieutenants, complete_questions, complete_vms
from reef_site.client.groups.lieutenants import has_failed
from reef_site.client.http import Api

Json = dict[str, Any]
# Argument of the tool: option, what is awaited, and its completion.
SUBJECTS: dict[str, tuple[str, str, Any]] = {
    "lieutenants": ("lieutenant", "until it is idle, or stopped", complete_lieutenants),
    "vms": ("vm", "until it is live", complete_vms),
    "provisionings": ("provisioning", "until it is done, or has failed", None),
    "messages": ("message", "until it has an outcome", None),
    "calls": ("call", "until this call to a provider is done", None),
    "questions": ("question", "until it is decided", complete_questions),
}
FILTERS = {
    "subject": "about this VM, lieutenant, question or config key",
    "subtree": "about this VM or lieutenant, or one below it",
    "actor": "by this caller",
    "since": "from this time on; by default from now on",
}


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    about = "wait until all of some conditions hold, or any of them"
    parser = add_command(parsers, "wait", about, run)
    for name, (option, help_text, completer) in SUBJECTS.items():
        action = parser.add_argument(
            f"--{option}",
            dest=name,
            action="append",
            default=[],
            metavar="NAME" if name == "lieutenants" else "ID",
            help=f"{help_text}; repeatable",
        )
        if completer:
            action.completer = completer  # type: ignore[attr-defined]
    group = parser.add_argument_group("an event", "the first one to which all of these apply")
    group.add_argument(
        "--event",
        dest="kind",
        action="append",
        metavar="KIND",
        help="such as vm.late, or vm; if repeated, one of them",
    )
    for name, help_text in FILTERS.items():
        group.add_argument(f"--{name}", help=help_text)
    group.add_argument("--cursor", type=whole_number, metavar="NUMBER", help="behind this event")
    parser.add_argument("--any", action="store_true", help="one of the conditions is enough")
    parser.add_argument(
        "--seconds", type=whole_number, default=DEFAULT_WAIT, help="at most (%(default)s)"
    )


def run(api: Api, options: Options) -> int:
    """Wait, and print the states in which it ended."""
    given: Json = {name: getattr(options, name) for name in SUBJECTS}
    conditions = {name: each for name, each in given.items() if each}
    event = {name: getattr(options, name) for name in ("kind", *FILTERS, "cursor")}
    if found := {name: value for name, value in event.items() if value is not None}:
        conditions["event"] = found
    if not conditions:
        raise usage_error("say what to wait for")
    conditions["until"] = "any" if options.any else "all"
    result = waiting.wait_for(api, conditions, seconds=options.seconds)
    show(result, options)
    return errors.FAILED if has_failed(result) else errors.OK
