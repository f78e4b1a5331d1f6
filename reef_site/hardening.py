"""Keeps other processes of the same user out of reef's own: memory, environment, new files.

Linux forgets the setting when a program is started, so each process asks for it by itself; a
program that does not know reef is started through this one: `python -m reef_site.hardening granian
…`. Standard library only.
"""

from __future__ import annotations

import ctypes
import logging
import os
import runpy
import sys

logger = logging.getLogger(__name__)

UMASK = 0o077
_PR_SET_DUMPABLE = 4


def harden_process() -> None:
    """Make files private by default, and /proc/<pid>/environ and memory unreadable for others.

    Root may still read them. A failure is logged: reef runs without it, too.
    """
    os.umask(UMASK)
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0
        problem = os.strerror(ctypes.get_errno()) if failed else ""
    except (OSError, AttributeError) as error:
        problem = str(error)
    if problem:
        logger.warning("This process stays readable for others of its user: %s", problem)


def main(argv: list[str]) -> None:
    """Harden this process and run a module in it, with all that follows as its arguments."""
    harden_process()
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
