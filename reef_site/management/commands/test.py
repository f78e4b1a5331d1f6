"""`manage.py test`: pytest, after fetching what the tests need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

from django.core.management.base import BaseCommand

from reef_site import testbed

# Settings of the person's own reef, which tests must not meet.
OWN = ("PORT", "PI_PATH", "REDIS_URL", "VERS_AUTH_TOKEN", "VERS_AGENT_NAME")


class Command(BaseCommand):
    help = "Run the tests; what follows goes to pytest."

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass all arguments on, as they are, and pytest's exit code back."""
        if argv[2:3] in (["-h"], ["--help"]):
            super().run_from_argv(argv)
            return
        sys.exit(self.run_pytest(argv[2:]))

    def handle(self, *args: str, **_: object) -> None:
        """The same for `call_command("test", …)`."""
        sys.exit(self.run_pytest(list(args)))

    def run_pytest(self, arguments: list[str]) -> int:
        """Run pytest on a data folder of its own, which is removed afterwards."""
        bed = testbed.prepare(lambda line: self.stderr.write(f"reef: {line}"))
        # A short path: Unix sockets lie in there.
        with tempfile.TemporaryDirectory(prefix="reef-test-", ignore_cleanup_errors=True) as data:
            env = {**inherited(), **bed.environment(), "REEF_DATA_DIR": data}
            pytest = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], env=env)
            # Ctrl-C reaches pytest as well: it ends, and we after it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda *_: pytest.terminate())
            return pytest.wait()


def inherited() -> dict[str, str]:
    """Our environment without the settings of a reef; DATABASE_URL stays, for a run on another."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in OWN and (not name.startswith("REEF_") or name.startswith("REEF_TEST_"))
    }
