"""Responses of reef that differ from `golden.json`, and the reasons.

`golden.json` holds exchanges with the server that agents in the field were built for, in replay
order. Differences are listed by case, with the reason. The replay fails for a difference without
an entry, and for an entry without a difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HasValues:
    """Matches an object that has at least these values."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Correction:
    """The expected difference of our response: status, whole body, or some values."""

    why: str
    status: int | None = None
    response: Any = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Return whether the whole body differs."""
        return self.response is not None


# Additional keys of our responses, by a key that identifies the kind of object.
ADDED = {
    "registeredBy": {"liveness", "vitals"},
    "outputHistory": {
        *("statusSince", "stalled", "host", "folder", "restartPolicy", "restarts", "usage", "rev"),
        *("stallLimitSeconds", "idleLimitMinutes", "error", "trouble", "waitingFor", "restartAt"),
        # The recorded agents did not report their model; ours do when they are ready.
        "modelInUse",
        "isolation",
        *("toolLimitSeconds", "waitingSince", "contextUsage", "agent", "command"),
        *("waitingKind", "waitingUntil", "limitAt", "limitAction"),
        *("signPeriodSeconds", "signGraceSeconds", "nextSign"),
        "dialogLimitSeconds",
    },
    "sent": {"messageId", "state"},
    "uptime": {"parts", "isolation", "unknownAgents"},
    # Response to a heartbeat.
    "lastSeen": {"nextBeatInMs"},
    # Configuration: the overview, and the response to a PUT.
    "apiKey": {"problems"},
    "deleted": {"did", "scope", "vmId", "version", "impact"},
    "set": {"effective", "did", "note", "scope", "vmId", "version", "impact"},
    "prunedOldSnapshots": {"id"},
    # A profile, and a boot script with the values it was rendered from.
    "installPiVers": {"category", "role", "agent", "ownReef", "packages", "builtIn"},
    "script": {"joinToken"},
}


# Conditions to wait for before an exchange where the recorder just slept.
FIRST = {
    "send steer when idle": "idle",
    "pause local": "idle",
    "discover after destroy re-creates": "all ended",
}


def error(text: str | re.Pattern[str]) -> dict[str, Any]:
    return {"error": text}


def listing(*names: str) -> dict[str, Any]:
    return {"lieutenants": [HasValues({"name": name}) for name in names], "count": len(names)}


NOT_JSON = error(re.compile(r"body: is not JSON \(.+\)"))
WHOLE = f"must be a whole number from 0 to {1 << 53}"
PROMPT_NOTE = "sent as prompt since lieutenant is idle"
NO_PROVIDER = re.compile(
    r"local: (say where else it runs|VMs cannot be made, as VERS_API_KEY has no value).+"
)
NAME_RULE = "name: 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first"
FINISHED = (
    *("echo: hello world", "echo: SLOW 2.5 long job\n\necho: steered"),
    *("echo: second", "echo: third", "echo: fourth"),
)

# -- shared reasons
BAD_INPUT = "bad input is a 400 that names the field"
JSON_404 = "an unknown path is 404 as JSON"
JSON_405 = "a wrong method is 405 as JSON"
AT_ONCE = "create answers at once, while the agent is starting"
LATER = "a remote lieutenant needs a machine that is there: 400 that says how to name one"
NEVER_MADE = f"this one was not made: {LATER}"
DISCOVER = "discover reattaches what runs here; of others it says so, and makes no rows of them"
TAIL = "tail and history must be whole numbers from 0 on"
IDLE_READ = "read of an idle lieutenant gives the newest finished answer"
IDLE_SEND = "steer and followUp to an idle lieutenant are sent as prompt, and a note says so"
LOCAL_PAUSE = "pause and resume work for local lieutenants, too"
DESTROYED_PAUSE = "pausing a destroyed one is a 404; it does not come back"
COUNTED = "the two messages to the idle lieutenant were sent as prompts, so they count as tasks"

CORE = {
    "health needs no auth": Correction(
        "the services are those that this reef has",
        changes={
            "services": ["ui", "lieutenant", "registry", "vm-tree", "vers-config", "bootloader"]
        },
    ),
    "health with wrong method": Correction(JSON_405, 405, error("method not allowed")),
    "health sub path": Correction(JSON_404, 404, error("not found")),
    "root path": Correction("the root is the operators' page: they are asked to sign in", 302, ""),
    "unknown path in service": Correction(JSON_404, 404, error("not found")),
    "service root without root route": Correction(JSON_404, 404, error("not found")),
    "service root with slash": Correction(JSON_404, 404, error("not found")),
    "wrong method on known path": Correction(JSON_405, 405, error("method not allowed")),
    "trailing slash on known path": Correction(
        "a trailing slash works like none", 200, {"vms": [], "count": 0}
    ),
    "OPTIONS": Correction(JSON_405, 405, error("method not allowed")),
}

CREATE = {
    "create null body": Correction(BAD_INPUT, 400, error("name is required")),
    "create malformed": Correction(BAD_INPUT, 400, NOT_JSON),
    "create empty body": Correction(BAD_INPUT, 400, error("name is required")),
    "create local": Correction(AT_ONCE, changes={"status": "starting"}),
    "create local with model": Correction(AT_ONCE, changes={"status": "starting"}),
    "re-create destroyed name": Correction(AT_ONCE, changes={"status": "starting"}),
    "create remote (local absent)": Correction(LATER, 400, error(NO_PROVIDER)),
    "create remote (local false)": Correction(LATER, 400, error(NO_PROVIDER)),
    "create local=string is truthy": Correction(
        "a local of text is a 400", 400, error("local: must be true or false")
    ),
    "name with slash and space": Correction("names have a rule", 400, error(NAME_RULE)),
    "get name with slash": Correction("there is no such name", 404, error("not found")),
    "name with padding": Correction(
        "without local and without a VM's option it is local; its agent starts like any other's",
        201,
        HasValues(
            {"name": "padded", "isLocal": True, "vmId": "local-padded", "status": "starting"}
        ),
    ),
    "name with padding trimmed exists": Correction(
        "without local and without a VM's option it is local; its agent starts like any other's",
        changes={"vmId": "local-padded", "isLocal": True, "status": "idle"},
    ),
    "name with padding again": Correction(
        "it was made the first time",
        409,
        error("Lieutenant 'padded' already exists. Destroy it first or use a different name."),
    ),
    "create with object model": Correction(BAD_INPUT, 400, error("model: must be a string")),
}

SEND_AND_READ = {
    "send malformed": Correction(BAD_INPUT, 400, NOT_JSON),
    "get after task 2": Correction(
        "a follow-up is an answer of its own: it can be changed until the agent begins it",
        changes={"outputHistory": list(FINISHED)},
    ),
    "read after task 1": Correction(
        IDLE_READ, changes={"outputLength": 17, "output": "echo: hello world"}
    ),
    "read after task 1 with history": Correction(
        IDLE_READ,
        changes={"outputLength": 17},
    ),
    "read tail negative": Correction(TAIL, 400, error(f"tail: {WHOLE}")),
    "read tail not a number": Correction(TAIL, 400, error(f"tail: {WHOLE}")),
    "read tail with junk suffix": Correction(TAIL, 400, error(f"tail: {WHOLE}")),
    "read history negative": Correction(TAIL, 400, error(f"history: {WHOLE}")),
    "send bogus mode": Correction(
        "an unknown mode is a 400 that says the valid ones",
        400,
        error("mode: must be one of prompt, steer, followUp"),
    ),
    "read history 2": Correction(
        IDLE_READ,
        changes={
            "outputLength": len(FINISHED[-1]),
            "historyCount": len(FINISHED),
            "output": "=== Response 4 ===\necho: third\n\n=== Response 5 ===\necho: fourth\n\n"
            "=== Current (idle) ===\n(no output yet)",
        },
    ),
    "send followUp when idle": Correction(
        IDLE_SEND,
        response=HasValues({"sent": True, "mode": "prompt", "note": PROMPT_NOTE}),
    ),
    "send steer when idle": Correction(
        IDLE_SEND,
        response=HasValues({"sent": True, "mode": "prompt", "note": PROMPT_NOTE}),
    ),
}

PAUSE_AND_END = {
    "pause local": Correction(LOCAL_PAUSE, 200, {"paused": True}),
    "resume local": Correction(LOCAL_PAUSE, 200, {"resumed": True}),
    "destroy local": Correction(
        COUNTED, changes={"detail": "alpha: destroyed (local, 4 tasks completed)"}
    ),
    "destroy destroyed": Correction(
        COUNTED, changes={"detail": "alpha: destroyed (local, 4 tasks completed)"}
    ),
    "pause destroyed local": Correction(
        DESTROYED_PAUSE, 404, error("Lieutenant 'alpha' not found")
    ),
    "list before destroy-all": Correction(NEVER_MADE, response=listing("padded", "alpha", "beta")),
    "destroy-all": Correction(
        NEVER_MADE,
        changes={
            "results": [
                f"{name}: destroyed (local, 0 tasks completed)"
                for name in ("beta", "alpha", "padded")
            ]
        },
    ),
    "destroy-all final": Correction(NEVER_MADE, changes={"results": []}),
}

TRACKED = [f"{name}: already tracked" for name in ("beta", "alpha", "padded")]
LEFT_ALONE = [
    f"{name}: left alone, its agent does not run on this host (VM {vm}, {status})"
    for name, vm, status in (
        ("disc3", "vm-disc3", "stopped"),
        ("disc2", "vm-disc2", "paused"),
        ("disc-agent", "vm-disc-0123", "running"),
    )
]

REMOTE = {
    "send remote": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "resume not paused": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "pause remote": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "pause remote again": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "get paused": Correction(NEVER_MADE, 404, error("Lieutenant not found")),
    "send paused": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "resume remote": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "destroy remote": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "resume destroyed remote": Correction(NEVER_MADE, 404, error("Lieutenant 'remote1' not found")),
    "pause destroyed remote": Correction(
        DESTROYED_PAUSE, 404, error("Lieutenant 'remote1' not found")
    ),
    "get destroyed then paused": Correction(DESTROYED_PAUSE, 404, error("Lieutenant not found")),
    "discover": Correction(DISCOVER, changes={"results": TRACKED}),
    "discover finds": Correction(DISCOVER, changes={"results": [*TRACKED, *LEFT_ALONE]}),
    "discover again": Correction(DISCOVER, changes={"results": [*TRACKED, *LEFT_ALONE]}),
    "get discovered": Correction(DISCOVER, 404, error("Lieutenant not found")),
    "get discovered stopped": Correction(DISCOVER, 404, error("Lieutenant not found")),
    "send discovered": Correction(DISCOVER, 404, error("Lieutenant 'disc-agent' not found")),
    "discover after destroy re-creates": Correction(
        "discover never brings a destroyed one back",
        changes={"results": LEFT_ALONE},
    ),
}

LIEUTENANT = {**CREATE, **SEND_AND_READ, **PAUSE_AND_END, **REMOTE}
