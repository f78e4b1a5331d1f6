"""`manage.py rotate_config_key`: encrypt stored secrets with a new key."""

from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError

from versconfig import rotation, vault


class Command(BaseCommand):
    help = "Seal all stored secrets with a new key (or the first of REEF_CONFIG_KEYS)."

    def handle(self, *_: object, **__: object) -> None:
        """Print how many secrets were encrypted again and where the keys are. No key is printed."""
        done = rotation.rotate()
        self.stdout.write(f"{done.count} values were sealed anew.")
        if done.unreadable:
            for words in done.unreadable:
                self.stderr.write(f"cannot be read with any key: {words}")
            raise CommandError(
                "Give the missing key behind the first one of REEF_CONFIG_KEYS and run this again, "
                "or set these values anew."
            )
        if done.by_environment:
            self.stdout.write(
                "The first key of REEF_CONFIG_KEYS seals now; the others may be removed from it."
            )
        else:
            self.stdout.write(f"The only key is the new one in {vault.key_file()}.")
