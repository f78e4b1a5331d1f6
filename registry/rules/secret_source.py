"""Webhook secrets as a source of `versconfig.screening`, which redacts them in texts."""

from __future__ import annotations

from functools import partial

from reef_site.common import webhook_secret
from registry.rules.models import Rule
from versconfig.screening import sources
from versconfig.screening.screen import Secret


def encrypted_secrets() -> tuple[str, ...]:
    """Return the encrypted secrets of all rules."""
    sealed = Rule.objects.exclude(sealed_secret="").order_by("pk")
    return tuple(sealed.values_list("sealed_secret", flat=True))


def decrypted_secrets() -> list[Secret]:
    """Return the readable secrets of all rules."""
    name = "webhook secret"
    return [
        Secret(name, sources.unseal(name, partial(webhook_secret.decrypt, each)))
        for each in encrypted_secrets()
    ]
