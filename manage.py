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
    from reef_site.client import program

    is_reef = sys.argv[1:2] == [program.NAME]
    sys.argv[1:] = program.without_name(sys.argv[1:])
    # Without a command, Django lists its own.
    is_command = is_reef or sys.argv[1:2] not in ([], ["-h"], ["--help"])
    if is_command and program.handles(sys.argv[1:]):
        sys.exit(program.run(sys.argv[1:], "manage.py reef" if is_reef else "manage.py"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
