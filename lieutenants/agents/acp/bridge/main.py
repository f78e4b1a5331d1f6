"""Start of the bridge; see `options` for its arguments."""

from __future__ import annotations

import shutil
import sys

from .bridge import Bridge
from .options import Options

USAGE, CANNOT_RUN = 2, 127


def main(argv: list[str], _program: str = "") -> int:
    """Serve commands until the end; return the exit status."""
    try:
        options = Options(argv)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    name = options.command[0]
    if shutil.which(name) is None:
        sys.stderr.write(f"The program {name} is not there, or cannot be run.\n")
        return CANNOT_RUN
    try:
        bridge = Bridge(options)
    except OSError as trouble:
        sys.stderr.write(f"{name} cannot be run: {trouble.strerror}\n")
        return CANNOT_RUN
    try:
        return bridge.serve()
    except BrokenPipeError:
        return 1  # the keeper is gone
    finally:
        bridge.close()
