"""`reef events`"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from reef_site.client import output
from reef_site.client.commands import Options, add_command, whole_number
from reef_site.client.errors import Refused, Unreachable
from reef_site.client.http import Api, encode

# The server sends a ping more often than this.
SILENCE_SECONDS = 60
RETRY_SECONDS = 2.0
# Statuses of a server that is restarting or busy.
PASSING = frozenset({429, 502, 503, 504})
LOG = "log"
FILTERS = ("kind", "subtree", "subject", "actor")
Json = dict[str, Any]


class Event(NamedTuple):
    """A server-sent event."""

    id: str
    name: str
    data: str


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = add_command(parsers, "events", "follow what happens in the fleet", run)
    parser.add_argument("--kind", action="append", help="such as vm.late, or vm; repeatable")
    parser.add_argument("--subtree", metavar="VM", help="only about this VM and those below it")
    parser.add_argument("--subject", help="only about this VM, lieutenant, key or snapshot")
    parser.add_argument("--actor", help="only what this caller did")
    parser.add_argument(
        "--newest", type=whole_number, metavar="COUNT", help="print so many, and do not follow"
    )
    parser.add_argument("--seconds", type=whole_number, help="follow for so many seconds")


def run(api: Api, options: Options) -> None:
    """Print the newest events, or follow."""
    query = {name: getattr(options, name) for name in FILTERS}
    if options.newest is None:
        # From here on, so that a connection that breaks at once misses nothing.
        start = api.get("/events", {"limit": 1, "order": "newest"})["last"]
        stream = encode({**query, "log": "true", "cursor": start})
        follow(api, options, f"/events?{stream}")
        return
    page = api.get("/events", {**query, "order": "newest", "limit": max(1, options.newest)})
    for facts in reversed(page["events"]):
        output.write(_line(facts, is_json=options.json))


def follow(api: Api, options: Options, path: str) -> None:
    """Print events as they come, one a line; a broken stream is continued."""
    end = math.inf if options.seconds is None else time.monotonic() + options.seconds
    last_id, was_open = "", False
    while time.monotonic() < end:
        try:
            for event in _stream(api, path, last_id, end):
                was_open, last_id = True, event.id or last_id
                if event.name == LOG:
                    output.write(_line(json.loads(event.data), is_json=options.json))
                if time.monotonic() >= end:
                    return
        except (Refused, Unreachable) as error:
            passes = not isinstance(error, Refused) or error.code in PASSING
            if time.monotonic() < end and not (was_open and passes):
                raise
        time.sleep(min(RETRY_SECONDS, max(0.0, end - time.monotonic())))


def _stream(api: Api, path: str, last_id: str, end: float) -> Iterator[Event]:
    """Yield the events after the last one, until the stream breaks or the time is over."""
    headers = {"Accept": "text/event-stream"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    seconds = min(SILENCE_SECONDS, max(0.1, end - time.monotonic()))
    return parse(api.lines(path, headers, seconds=seconds))


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events of a stream."""
    fields: dict[str, list[str]] = {}
    for line in lines:
        if not line:
            if data := fields.get("data"):
                last = {name: values[-1] for name, values in fields.items()}
                yield Event(last.get("id", ""), last.get("event", "message"), "\n".join(data))
            fields = {}
            continue
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))


def _line(facts: Json, *, is_json: bool) -> str:
    if is_json:
        return json.dumps(facts)
    detail = facts["detail"] or {}
    name = detail.get("name")
    about = f"{name} ({facts['subject']})" if name else facts["subject"]
    return f"{facts['at']}  {facts['kind']}  {about}  by {facts['actor']}"
