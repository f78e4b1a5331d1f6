"""Protect reef's processes from others of the same user: memory, environment, new files.

Linux resets the setting when a program is started, so each process sets it itself; other programs
are started through this module: `python -m reef_site.hardening granian …`. Standard library only.
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
    """Make new files private, and memory and /proc/<pid>/environ unreadable for others.

    Root can still read them. A failure is logged only, since reef runs without it, too.
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
    """Harden this process and run the module argv[0] in it, with the rest as its arguments."""
    harden_process()
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
