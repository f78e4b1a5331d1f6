"""What webhooks are signed with: sealed in the database with a key made from reef's own."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

from reef_site.common.errors import ReefError


class Unreadable(ReefError):
    """The secret was sealed with another key of reef's."""

    status = 500


def seal(text: str) -> str:
    """The text, readable only with reef's secret key."""
    return _box().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """The text again. Raises Unreadable."""
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Unreadable("the webhook's secret cannot be read any more: set it anew") from None


def _box() -> Fernet:
    digest = hashlib.sha256(b"reef rules webhook\0" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
