"""Settings of the processes of a `Stack`: reef's own, but signing in costs no second of CPU."""

from __future__ import annotations

from reef_site.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
