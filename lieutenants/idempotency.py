"""Idempotency keys of creations: a repeated request finds the lieutenant that the first created."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lieutenants.exceptions import KeyReused
from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable

MAX_KEY = 200


@dataclass(frozen=True)
class CreationKey:
    """Digests of a request's key, which is scoped to its caller, and of its contents."""

    key: str | None = None
    digest: str = ""

    def find(self) -> Lieutenant | None:
        """Return the lieutenant that an earlier request created. Raises KeyReused."""
        if self.key is None:
            return None
        known = Lieutenant.objects.filter(creation_key=self.key).first()
        if known and known.creation_digest != self.digest:
            raise KeyReused("Idempotency-Key: was used for another lieutenant")
        return known


def key_of(given: str, *, caller: object, facts: Mapping[str, Any]) -> CreationKey:
    """Return the key of a request with these contents. Without a given key it finds nothing."""
    if len(given) > MAX_KEY or not is_storable(given):
        raise BadInput(f"Idempotency-Key: at most {MAX_KEY} characters")
    if not given:
        return CreationKey()
    asked = json.dumps(facts, sort_keys=True, default=str)
    return CreationKey(_digest(f"{caller}\n{given}"), _digest(asked))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
