"""The command `reef` of an installed package, the counterpart of `manage.py`."""

from __future__ import annotations

import os
import sys
from importlib import metadata

from reef_site.hardening import harden_process


def main() -> None:
    """Run one command, such as `reef up`."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"reef {metadata.version('reef')}\n")
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
    harden_process()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
