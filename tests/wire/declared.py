"""The committed schema of the API."""

from __future__ import annotations

from typing import Any

import yaml

from tests.stack import ROOT

SCHEMA: dict[str, Any] = yaml.load(
    (ROOT / "reef_site" / "api" / "schema.yaml").read_text(), yaml.CSafeLoader
)
# The media type of responses that the edge makes.
STREAM = "text/event-stream"
