"""`manage.py adopt box1`: take over the lieutenants of a host that does not answer."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from lieutenants.hosts.adoption import adopt
from reef_site.common.errors import ReefError


class Command(BaseCommand):
    help = "Take the lieutenants of a host that does not answer over to this data folder."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """A host, and whether it counts that it answers."""
        parser.add_argument("host", help="its name, or the identity of its data folder")
        parser.add_argument("--force", action="store_true", help="even though it answers")

    def handle(self, *_: object, **options: Any) -> None:
        """Print a line for each lieutenant."""
        try:
            lines = adopt(options["host"], actor="manage.py adopt", force=options["force"])
        except ReefError as error:
            raise CommandError(str(error)) from None
        for line in lines:
            self.stdout.write(line)
