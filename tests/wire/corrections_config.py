"""Differences of the configuration API from `golden.json`, with reasons."""

from __future__ import annotations

from tests.wire.corrections import BAD_INPUT, JSON_404, NOT_JSON, Correction, error
from versconfig import keys

MASK = "a mask shows at most a quarter of a secret"
UNSET = "what is unset comes from nowhere, not from a file"
ALL_SOURCES = "`sources` has all keys"
MORE_KEYS = "there are more keys, and the text names all of them"
INVALID = error(f"Invalid config key: NOPE. Valid: {', '.join(keys.ALL)}")
VALUE = error("value must be a string")


def sources(**stored: str) -> dict[str, str]:
    names = ("apiKey", "infraUrl", "authToken", "baseUrl", "agentName", "vmId", "agentRole")
    known = {"infraUrl": "env", "authToken": "env", **stored}
    return {name: known.get(name, "unset") for name in names}


def overview(**stored: str) -> Correction:
    shown = {"authToken": "tes...", "sources": sources(**stored)}
    if "apiKey" in stored:
        shown["apiKey"] = "sk-0..."
    return Correction(f"{MASK}; {ALL_SOURCES}; {UNSET}", changes=shown)


CORRECTIONS = {
    "get root with slash (tool)": overview(),
    "get root without slash": overview(),
    "get after puts": overview(apiKey="store", baseUrl="store", agentName="store", vmId="store"),
    "get after deletes": overview(agentName="store", vmId="store"),
    "resolve unset": Correction(UNSET, changes={"source": "unset"}),
    "resolve empty string": Correction(UNSET, changes={"source": "unset"}),
    "get single key without resolve": Correction(JSON_404, 404, error("not found")),
    "put invalid key": Correction(MORE_KEYS, 400, INVALID),
    "put invalid key with malformed body": Correction(MORE_KEYS, 400, INVALID),
    "put null body": Correction(BAD_INPUT, 400, VALUE),
    "put malformed": Correction(BAD_INPUT, 400, NOT_JSON),
}
