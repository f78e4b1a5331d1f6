"""API client and rows for the wire tests."""

from __future__ import annotations

import re
from typing import Any

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from tests.conftest import Api

LIEUTENANTS = "/lieutenant/lieutenants"
FOLLOW_UP_NOTE = "auto-queued as follow-up since lieutenant is working"
STARTING_NOTE = "queued until the lieutenant is ready"
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def send(api: Api, name: str, text: str, mode: str | None = None, key: str = "") -> Any:
    body = {"message": text, **({"mode": mode} if mode else {})}
    headers = {"idempotency-key": key} if key else {}
    return api.post(f"{LIEUTENANTS}/{name}/send", body, **headers)


def create_row(name: str, **fields: Any) -> Lieutenant:
    """Create a lieutenant row without a process."""
    fields = {"status": Status.IDLE, "role": "tests", "host": "elsewhere", **fields}
    return Lieutenant.objects.create(name=name, **fields)
