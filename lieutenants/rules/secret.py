"""Encryption of webhook secrets in the database, with a key derived from SECRET_KEY."""

from __future__ import annotations

import base64
import hashlib
from functools import partial

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

from reef_site.common.errors import ReefError
from versconfig.screening import sources
from versconfig.screening.screen import Secret


class Unreadable(ReefError):
    """The secret was encrypted with another SECRET_KEY."""

    status = 500


def encrypt(text: str) -> str:
    """Return the text, encrypted."""
    return _fernet().encrypt(text.encode()).decode()


def decrypt(sealed: str) -> str:
    """Return the decrypted text. Raises Unreadable."""
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Unreadable("the webhook's secret cannot be read any more: set it anew") from None


def encrypted_secrets() -> tuple[str, ...]:
    """Return the encrypted secrets of all rules."""
    from lieutenants.rules.models import Rule

    sealed = Rule.objects.exclude(sealed_secret="").order_by("pk")
    return tuple(sealed.values_list("sealed_secret", flat=True))


def decrypted_secrets() -> list[Secret]:
    """Return the decrypted secrets of all rules; texts are screened for them."""
    name = "webhook secret"
    return [
        Secret(name, sources.unseal(name, partial(decrypt, each))) for each in encrypted_secrets()
    ]


def _fernet() -> Fernet:
    digest = hashlib.sha256(b"reef rules webhook\0" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
