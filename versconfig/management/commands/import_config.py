"""`manage.py import_config`: from the files of ~/.vers into the store."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from versconfig import importing
from versconfig.importing import BAD, Plan


class Command(BaseCommand):
    help = "Show what ~/.vers/keys.json, config.json and agent-services.json would set; --apply it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Dry unless asked otherwise."""
        parser.add_argument("--apply", action="store_true", help="do it")

    def handle(self, *_: object, **options: Any) -> None:
        """A line for each key that a file holds; secrets are masked."""
        plan = importing.plan()
        self._tell(plan)
        if options["apply"]:
            count = importing.apply(plan, by="import_config")
            self.stdout.write(f"{count} settings were stored.")
        elif plan.steps:
            self.stdout.write("Nothing was changed; --apply does it.")
        if plan.problems or any(step.what == BAD for step in plan.steps):
            raise CommandError("Not everything could be read; see above.")

    def _tell(self, plan: Plan) -> None:
        for step in plan.steps:
            words = f"{step.what}: {step.problem}" if step.problem else step.what
            self.stdout.write(f"{step.key.name} = {step.shown}  ({step.place})  {words}")
        for problem in plan.problems:
            self.stderr.write(problem)
        if not plan.steps:
            self.stdout.write("The files hold nothing that reef knows.")
