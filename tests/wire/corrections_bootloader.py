"""Differences of the bootloader API from `golden.json`, with reasons."""

from __future__ import annotations

from tests.wire.corrections import JSON_405, NOT_JSON, Correction, error

TEXT = "bad input is a 400 that names the field: ids and names are texts"
LIST = "bad input is a 400 that names the field: extras are lists of text"
REQUIRED = error("vmId, name, and type are required")
BAD_BODY = "a body without the three is a 400, whatever else it is"
LEAK = "profile answers never grow by earlier requests"
NO_PROTOTYPE = "a name that is no profile's is unknown, whatever it is to the old server's language"
UNKNOWN = error("Unknown VM type: constructor")

CORRECTIONS = {
    "generate null body": Correction(BAD_BODY, 400, REQUIRED),
    "generate malformed": Correction(BAD_BODY, 400, NOT_JSON),
    "generate empty body": Correction(BAD_BODY, 400, REQUIRED),
    "generate number id": Correction(TEXT, 400, error("vmId: must be a string")),
    "profile leaked extras": Correction(LEAK, changes={"organs": ["store"], "capabilities": []}),
    "generate extras string": Correction(LIST, 400, error("extraOrgans: must be a list of text")),
    "generate extras number": Correction(LIST, 400, error("extraOrgans: must be a list of text")),
    "profile prototype name": Correction(NO_PROTOTYPE, 404, UNKNOWN),
    "script prototype name": Correction(NO_PROTOTYPE, 404, UNKNOWN),
    "generate prototype name": Correction(
        NO_PROTOTYPE,
        400,
        error("Unknown VM type: constructor. Valid: full, swarm, lightweight, infra"),
    ),
    "post profiles": Correction(JSON_405, 405, error("method not allowed")),
}
