"""Webhook secrets of subscribers as a source of `versconfig.screening`, which covers them."""

from __future__ import annotations

from functools import partial

from reef_site.activity.models import Subscriber
from reef_site.common import webhook_secret
from versconfig.screening import sources
from versconfig.screening.screen import Secret


def encrypted_secrets() -> tuple[str, ...]:
    """Return the encrypted secrets of all subscribers."""
    sealed = Subscriber.objects.exclude(sealed_secret="").order_by("pk")
    return tuple(sealed.values_list("sealed_secret", flat=True))


def decrypted_secrets() -> list[Secret]:
    """Return the readable secrets of all subscribers."""
    name = "webhook secret"
    return [
        Secret(name, sources.unseal(name, partial(webhook_secret.decrypt, each)))
        for each in encrypted_secrets()
    ]
