"""Starts the bridge from its sources, on the host of reef: `python3 start.py OPTIONS`.

Standalone. On VMs the bridge is one file, see `program`.
"""

from __future__ import annotations

import importlib
import os
import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(importlib.import_module("bridge.main").main(sys.argv[1:]))
