"""`manage.py test`: install what the tests need, then run pytest."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand

from reef_site.install import testing_tools

# Settings of the person's own reef, which tests must not see.
OWN = (
    *("PORT", "PI_PATH", "REDIS_URL", "VERS_AUTH_TOKEN", "VERS_AGENT_NAME"),
    # Tests have a settings module of their own, which pyproject.toml names.
    "DJANGO_SETTINGS_MODULE",
)


class Command(BaseCommand):
    help = "Run the tests; what follows goes to pytest."

    def run_from_argv(self, argv: list[str]) -> None:
        """Pass all arguments through to pytest, and its exit code back."""
        if argv[2:3] in (["-h"], ["--help"]):
            super().run_from_argv(argv)
            return
        self.become_pytest(argv[2:])

    def handle(self, *args: str, **_: object) -> None:
        """Run pytest for `call_command("test", …)`."""
        self.become_pytest(list(args))

    def become_pytest(self, arguments: list[str]) -> NoReturn:
        """Install missing tools, then replace this process by pytest."""
        tools = testing_tools.prepare(lambda line: self.stderr.write(f"reef: {line}"))
        os.chdir(settings.BASE_DIR)
        argv = [sys.executable, "-m", "pytest", *arguments]
        os.execve(argv[0], argv, {**inherited(), **tools.environment()})  # noqa: S606


def inherited() -> dict[str, str]:
    """Return our environment without reef's settings, except DATABASE_URL."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in OWN and (not name.startswith("REEF_") or name.startswith("REEF_TEST"))
    }
