"""`manage.py import_config`: import the files of ~/.vers into the store."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from versconfig import file_import
from versconfig.file_import import NEW, OTHER, Plan


class Command(BaseCommand):
    help = "Show what ~/.vers/keys.json, config.json and agent-services.json would set; --apply it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--apply", action="store_true", help="do it")

    def handle(self, *_: object, **options: Any) -> None:
        """Print a line for each key in a file, with secrets masked."""
        plan = file_import.plan()
        self._tell(plan)
        if options["apply"]:
            count = file_import.apply(plan, by="import_config")
            self.stdout.write(f"{count} settings were stored.")
        elif any(step.what in (NEW, OTHER) for step in plan.steps):
            self.stdout.write("Nothing was changed; --apply does it.")
        if wrong := _wrong(plan):
            raise CommandError(f"{wrong}; see above.")

    def _tell(self, plan: Plan) -> None:
        for step in plan.steps:
            words = f"{step.what}: {step.problem}" if step.problem else step.what
            self.stdout.write(f"{step.key.name} = {step.shown}  ({step.place})  {words}")
        for name in plan.unknown_names:
            shown = name[:80].encode("unicode_escape").decode()
            self.stdout.write(f"{shown}  (~/.vers/keys.json)  left out: reef takes none there")
        for problem in plan.problems:
            self.stderr.write(problem)
        if not plan.steps:
            rest = " else" if plan.problems else ""
            self.stdout.write(f"The files hold nothing{rest} that reef knows.")


def _wrong(plan: Plan) -> str:
    """Describe what was not imported; empty if everything was."""
    words = []
    if plan.refused:
        words.append(f"Refused: {', '.join(step.key.name for step in plan.refused)}")
    if plan.problems:
        words.append(f"{'n' if words else 'N'}ot everything could be read")
    return ", and ".join(words)
