"""Downloads of snapshot files, sent by reef itself or by the server in front of it."""

from __future__ import annotations

from urllib.parse import quote

from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header

from vmtree import snapshots
from vmtree.snapshot_models import Snapshot

CONTENT_TYPE = "application/vnd.sqlite3"
# If a request has the first header, the response may name the file to send in the second one.
ACCEPTS_FILES_HEADER, FILE_HEADER = "reef-takes-files", "reef-file"


def download(request: HttpRequest, snapshot: Snapshot) -> HttpResponseBase:
    """Return a response with the file, after verifying it. Raises SnapshotDamaged, Conflict."""
    path, name = snapshots.ensure_intact(snapshot), snapshot.file
    if ACCEPTS_FILES_HEADER not in request.headers:
        return FileResponse(
            path.open("rb"), as_attachment=True, filename=name, content_type=CONTENT_TYPE
        )
    response = HttpResponse(content_type=CONTENT_TYPE)
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response[FILE_HEADER] = quote(name)
    return response
