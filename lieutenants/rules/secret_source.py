"""The secrets of webhooks, as a source of `versconfig.screening`: they are covered in texts."""

from __future__ import annotations

from functools import partial

from lieutenants.rules import secret
from lieutenants.rules.models import Rule
from versconfig.screening import sources
from versconfig.screening.screen import Secret


def encrypted_secrets() -> tuple[str, ...]:
    """Return the encrypted secrets of all rules."""
    sealed = Rule.objects.exclude(sealed_secret="").order_by("pk")
    return tuple(sealed.values_list("sealed_secret", flat=True))


def secrets() -> list[Secret]:
    """Return the readable secrets of all rules."""
    name = "webhook secret"
    return [
        Secret(name, sources.unseal(name, partial(secret.unseal, each)))
        for each in encrypted_secrets()
    ]
