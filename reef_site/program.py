"""The command `reef` of an installed reef: what `manage.py` is in a checkout."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one command, such as `reef up`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
