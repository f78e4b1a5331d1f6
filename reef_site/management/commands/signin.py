"""`manage.py signin`: another sign-in link for the operator."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from reef_site.accounts import signin_links


class Command(BaseCommand):
    help = "Print a link that signs the operator in, once."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--url", help="where reef is reached, if `up` does not run it")

    def handle(self, *_: object, **options: Any) -> None:
        """Print the link alone to stdout, so that it can be piped, and remarks to stderr."""
        address = options["url"] or settings.PUBLIC_URL or signin_links.page_url(self._base_url())
        self.stdout.write(signin_links.make_signin_link(address))
        self.stderr.write(f"It works once and for {settings.SIGNIN_MINUTES} minutes.")

    def _base_url(self) -> str:
        try:
            facts = json.loads((settings.DATA_DIR / "up.json").read_text())
            return str(facts["url"])
        except (OSError, ValueError, KeyError, TypeError):
            self.stderr.write("`up` does not run on this data folder; --url says where reef is.")
            return f"http://127.0.0.1:{settings.PORT}"
