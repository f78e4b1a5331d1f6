"""The response with one image, for the API and for pages."""

from __future__ import annotations

from django.http import HttpResponse
from django.utils.http import content_disposition_header

from lieutenants.models import Lieutenant, MessageImage
from reef_site.common.errors import NotFound
from reef_site.common.text import is_storable

# Images come from people and agents: a browser that opens one shows it, and runs nothing.
POLICY = "default-src 'none'; sandbox"
MAX_AGE_SECONDS = 3600


def image_response(lieutenant: Lieutenant, message_id: str, number: int) -> HttpResponse:
    """Return the image of the lieutenant's message. Raises NotFound.

    The caller has checked that the transcript may be read.
    """
    rows = MessageImage.objects.filter(message__lieutenant=lieutenant, number=number)
    row = rows.filter(message=message_id).first() if is_storable(message_id) else None
    if row is None:
        raise NotFound("Image not found")
    name = f"{lieutenant.name}-{message_id}-{number}.{row.media_type.rpartition('/')[2]}"
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": content_disposition_header(False, name) or "inline",
        "Cache-Control": f"private, max-age={MAX_AGE_SECONDS}",
    }
    return HttpResponse(bytes(row.data), content_type=row.media_type, headers=headers)
