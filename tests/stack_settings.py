"""Settings of the processes of a `Stack`: reef's own, but signing in costs no second of CPU.

The stacks of one run share their static files.
"""

from __future__ import annotations

import os
from pathlib import Path

from reef_site.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if "REEF_TEST_STATIC_ROOT" in os.environ:
    STATIC_ROOT = Path(os.environ["REEF_TEST_STATIC_ROOT"], "files")
