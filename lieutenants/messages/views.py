"""Pages' part of messages: their images."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET

from lieutenants.exceptions import TooLarge
from lieutenants.messages.image_response import image_response
from lieutenants.messages.images import FORMAT_NAMES, MAX_BYTES, NewImage, detect_media_type
from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from reef_site.common.text import clip

_MAX_NAME = 100


@login_required
@require_GET
def image(_request: HttpRequest, pk: str, message_id: str, number: int) -> HttpResponse:
    """Show an image that was sent with a message."""
    return image_response(get_object_or_404(Lieutenant, pk=pk), message_id, number)


def uploaded_images(request: HttpRequest) -> list[NewImage]:
    """Return the images of the composer; their contents tell their types.

    Raises BadInput, which names the file, and TooLarge.
    """
    # A form without a chosen file has one without a name.
    files = [file for file in request.FILES.getlist("images") if file.name]
    size = sum(file.size or 0 for file in files)
    if size > MAX_BYTES:
        raise TooLarge(f"images: have {size} bytes, at most {MAX_BYTES} are taken", "images")
    return [_read(file) for file in files]


def _read(file: UploadedFile[bytes]) -> NewImage:
    data = file.read()
    media_type = detect_media_type(data)
    if not media_type:
        name = clip(file.name or "image", _MAX_NAME)
        raise BadInput(f"{name}: must be {FORMAT_NAMES}", "images")
    return NewImage(media_type, data)
