"""`manage.py drain [box1]`: let other workers follow the remote agents of a host."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from lieutenants.hosts import sharing
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Process


class Command(BaseCommand):
    help = "Let other workers follow the agents on VMs that the worker of a host follows."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("host", nargs="?", default="", help="default: this one")
        parser.add_argument("--end", action="store_true", help="let it take its share again")
        parser.add_argument("--wait", type=int, default=30, help="for how many seconds at most")

    def handle(self, *_: object, **options: Any) -> None:
        """Print what was given away. Raises CommandError if something is left."""
        folder = self._folder(options["host"])
        given = sharing.drain(folder, end=options["end"])
        if options["end"]:
            self.stdout.write(f"{folder.host} takes its share again")
            return
        end = time.monotonic() + options["wait"]
        while (left := self._left(folder)) and time.monotonic() < end:
            time.sleep(1)
            given += sharing.share_out(folder.pk)
        self.stdout.write(f"{folder.host}: {given} machines are followed by others now")
        here = Process.objects.live().filter(data_folder=folder.pk, transport="local").count()
        if here:
            self.stdout.write(f"{here} agents run on {folder.host} itself, and stay")
        if left:
            raise CommandError(
                f"{left} machines stay: no other worker answers, or starts there are under way"
            )

    @staticmethod
    def _folder(host: str) -> DataFolder:
        named = Q(host=host) | Q(pk=host) if host else Q(pk=settings.DATA_FOLDER_ID)
        found = list(DataFolder.objects.filter(named)[:2])
        if len(found) != 1:
            problem = "several data folders are on" if found else "no worker has followed on"
            raise CommandError(f"{problem} {host or 'this host'}")
        return found[0]

    @staticmethod
    def _left(folder: DataFolder) -> int:
        return sum(1 for owner, *_ in sharing.machines() if owner == folder.pk)
