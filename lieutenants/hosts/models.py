"""Data folders whose lieutenants are in this database."""

from __future__ import annotations

from django.conf import settings
from django.db import models


def this_folder() -> str:
    """Return the identity of this process's data folder."""
    return str(settings.DATA_FOLDER_ID)


class DataFolder(models.Model):
    """A data folder; `host` and `path` are those of its latest follower.

    `follower` and `seen_at` are the lease of that follower, in database time. `place` identifies
    the folder on a running machine, to tell the folder from a copy.
    """

    id = models.CharField(primary_key=True, max_length=26, editable=False)
    host = models.CharField(max_length=255)
    path = models.CharField(max_length=1024)
    place = models.CharField(max_length=100, blank=True)
    follower = models.CharField(max_length=26, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True)
    # Its agents on other machines are to be followed by others.
    is_draining = models.BooleanField(default=False)
    # Another data folder with the same identity that tried to be followed, and when.
    rival = models.CharField(max_length=1300, blank=True)
    rival_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "lieutenants"
        ordering = ["host", "id"]

    def __str__(self) -> str:
        return f"{self.host} ({self.path})"
