"""Encryption of webhook secrets in the database, with a key derived from SECRET_KEY."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

from reef_site.common.errors import ReefError


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


def _fernet() -> Fernet:
    digest = hashlib.sha256(b"reef rules webhook\0" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
