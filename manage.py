#!/usr/bin/env python3
"""Django's command line. Where nothing is installed yet, it makes an environment first."""

import os
import sys


def main() -> None:
    """Run one command."""
    from reef_site.install import bootstrap

    bootstrap.ensure()
    from reef_site import hardening

    # The tests start programs of other users, which must be able to read what they are given.
    if sys.argv[1:2] != ["test"]:
        hardening.harden_process()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
