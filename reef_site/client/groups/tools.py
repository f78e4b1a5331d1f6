"""`reef tools`"""

from __future__ import annotations

import json
import sys
from typing import Any

from reef_site.client import output, waiting
from reef_site.client.commands import STDIN, Group, Options, show, usage_error
from reef_site.client.completion import complete_tools
from reef_site.client.http import Api

Json = dict[str, Any]
WAIT = "reef_wait"
WAIT_SECONDS = 60


def add(group: Group) -> None:
    """Add the commands."""
    group.add("list", "list the tools that you may use", list_all)
    parser = group.add("call", "call a tool", call)
    parser.add_argument("tool").completer = complete_tools  # type: ignore[attr-defined]
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="NAME=VALUE",
        help="an argument as text, as JSON with NAME:=VALUE, or - for all of them as JSON on stdin",
    )


def list_all(api: Api, options: Options) -> None:
    found = api.get("/tools")
    rows = [(each["name"], each["description"]) for each in found["tools"]]
    show({"details": found}, options, output.table(("NAME", "PURPOSE"), rows))


def call(api: Api, options: Options) -> None:
    given = _arguments(options.arguments)
    if options.tool != WAIT:
        show(api.call(options.tool, given), options)
        return
    # It outlasts a request.
    seconds = given.pop("seconds", WAIT_SECONDS)
    if not isinstance(seconds, int | str) or not str(seconds).isdecimal():
        raise usage_error("seconds: must be a whole number")
    show(waiting.wait_for(api, given, seconds=int(seconds)), options)


def _arguments(words: list[str]) -> Json:
    """Return the arguments of a call. Raises UsageError."""
    if words == [STDIN]:
        return _object(sys.stdin.read())
    given: Json = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise usage_error(f"'{word}' is not NAME=VALUE")
        if name.endswith(":"):
            given[name[:-1]] = _json(name[:-1], value)
        else:
            given[name] = value
    return given


def _object(text: str) -> Json:
    found = _json("stdin", text)
    if not isinstance(found, dict):
        raise usage_error("stdin: must be a JSON object with the arguments")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise usage_error(f"{name}: is not JSON") from None
