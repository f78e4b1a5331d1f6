"""The command `reef` of an installed package, the counterpart of `manage.py`."""

from __future__ import annotations

import os
import sys

from reef_site.client import program
from reef_site.hardening import harden_process


def main() -> None:
    """Run one command, such as `reef up`; those of the client run without Django."""
    if sys.argv[1:] == ["--version"]:
        # Slow to load, and used here only.
        from importlib import metadata

        sys.stdout.write(f"reef {metadata.version('reef')}\n")
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
    harden_process()
    if program.handles(sys.argv[1:]):
        sys.exit(program.run(sys.argv[1:]))
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
