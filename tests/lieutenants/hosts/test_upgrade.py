"""Rows of a version that knew no identities."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT

SCRIPT = """
import django
django.setup()
from django.core.management import call_command
from django.conf import settings
from django.db import connection
from django.utils import timezone

call_command("migrate", verbosity=0)
call_command("migrate", "lieutenants", "0008", verbosity=0)
now = timezone.now().isoformat()
with connection.cursor() as cursor:
    cursor.execute("SELECT name FROM pragma_table_info('lieutenants_lieutenant')")
    columns = [name for (name,) in cursor.fetchall()]
    assert "data_folder" not in columns
    known = {"id": "A" * 26, "name": "old", "host": "another-name", "status": "idle",
             "transport": "local", "folder": f"/srv/old/lieutenants/{'A' * 26}/workspace",
             "restart_policy": "never", "created_at": now, "status_since": now,
             "last_activity_at": now, "task_count": 0, "rev": 0, "restarts": 0,
             "stall_limit_seconds": 600}
    empty = ("restart_at", "abort_asked_at", "leased_until", "idle_limit_minutes")
    values = [known.get(name, None if name in empty else "") for name in columns]
    marks = ", ".join(["%s"] * len(columns))
    cursor.execute(
        f"INSERT INTO lieutenants_lieutenant ({', '.join(columns)}) VALUES ({marks})", values
    )
call_command("migrate", verbosity=0)
from lieutenants.hosts import services
from lieutenants.models import Lieutenant
row = Lieutenant.objects.get()
assert row.data_folder == settings.DATA_FOLDER_ID, row.data_folder
services.register_folder()
row.refresh_from_db()
print(row.host == settings.HOST, row.folder == f"{settings.LIEUTENANTS_DIR}/{row.pk}/workspace")
"""


@pytest.mark.timeout(240)
def test_lieutenants_of_an_older_version_are_taken_over(tmp_path: Path) -> None:
    """Also where host and folder were called something else when they were made."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={
            **keep,
            "REEF_DATA_DIR": str(tmp_path / "data"),
            "DJANGO_SETTINGS_MODULE": "reef_site.settings",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True True"
    kept = (tmp_path / "data" / "identity").read_text()
    assert len(kept.strip()) == 26
