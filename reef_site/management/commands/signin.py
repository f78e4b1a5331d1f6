"""`manage.py signin`: another sign-in link for the operator."""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from reef_site import auth


class Command(BaseCommand):
    help = "Print a link that signs the operator in, once."
    requires_system_checks: list[str] = []

    def handle(self, *_: object, **__: Any) -> None:
        """The link alone on stdout, so that it can be piped; remarks on stderr."""
        self.stdout.write(auth.make_signin_link(self._base_url()))
        self.stderr.write(f"It works once and for {settings.SIGNIN_MINUTES} minutes.")

    def _base_url(self) -> str:
        try:
            facts = json.loads((settings.DATA_DIR / "up.json").read_text())
            return str(facts["url"])
        except (OSError, ValueError, KeyError, TypeError):
            self.stderr.write("reef is not up on this data folder; start it to use the link.")
            return f"http://127.0.0.1:{settings.PORT}"
