"""`manage.py screen_transcripts`: cover secrets in rows from before the secrets were known."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from lieutenants.transcript.secret_cleanup import cover_old_rows


class Command(BaseCommand):
    help = "Show which stored rows hold secrets in clear; --apply covers them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--apply", action="store_true", help="cover them")

    def handle(self, *_: object, **options: Any) -> None:
        """Print one line for each table that contains secrets."""
        apply = bool(options["apply"])
        found = cover_old_rows(apply=apply)
        if not found.rows:
            self.stdout.write("No secrets were found in stored texts.")
            return
        for table, count in found.rows.items():
            self.stdout.write(f"{table}: {count} {'covered' if apply else 'to cover'}")
        self.stdout.write(f"Secrets: {', '.join(sorted(found.names))}")
        if apply:
            self.stdout.write("Snapshots and backups that were made before still hold them.")
        else:
            self.stdout.write("Dry run, nothing was changed; --apply covers them.")
