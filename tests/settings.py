"""Settings of the test suite, with a temporary data folder."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# One folder for each test process, inherited by the processes that it starts.
mine = f"REEF_TESTS_DATA_{os.environ.get('PYTEST_XDIST_WORKER', '')}"
if mine not in os.environ:
    folder = tempfile.mkdtemp(prefix="reef-tests-")
    os.environ[mine] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
os.environ["REEF_DATA_DIR"] = os.environ[mine]
for name in (
    *("DATABASE_URL", "REDIS_URL", "VERS_AUTH_TOKEN", "PI_PATH", "REEF_DEMO", "PORT"),
    *("REEF_CONFIG_KEYS", "REEF_VMS_EMULATED"),
):
    if name not in os.environ.get("REEF_TESTS_KEEP", "").split(","):
        os.environ.pop(name, None)

from reef_site.settings import *  # noqa: E402, F403

# The default hasher takes 0.7 s of CPU for each account.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# There is no edge, so each agent would look for it for two seconds.
AGENT_TOOLS = False
# Receivers of tests listen on the loopback.
LOCAL_WEBHOOKS = True
# Without collected files, pages refer to the files of the checkout.
STATIC_ROOT = None  # type: ignore[assignment]
WHITENOISE_USE_FINDERS = True
# Otherwise each client of a test lists all of them.
WHITENOISE_AUTOREFRESH = True
STORAGES["staticfiles"] = {  # noqa: F405
    "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
}
