"""Pages' part of messages: their images."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET

from lieutenants.exceptions import TooLarge
from lieutenants.messages.image_response import image_response
from lieutenants.messages.images import MAX_BYTES, NewImage, detect_media_type
from lieutenants.models import Lieutenant


@login_required
@require_GET
def image(_request: HttpRequest, pk: str, message_id: str, number: int) -> HttpResponse:
    """Show an image that was sent with a message."""
    return image_response(get_object_or_404(Lieutenant, pk=pk), message_id, number)


def uploaded_images(request: HttpRequest) -> list[NewImage]:
    """Return the images of the composer; their contents tell their types. Raises TooLarge."""
    # A form without a chosen file has one without a name.
    files = [file for file in request.FILES.getlist("images") if file.name]
    size = sum(file.size or 0 for file in files)
    if size > MAX_BYTES:
        raise TooLarge(f"images: have {size} bytes, at most {MAX_BYTES} are taken", "images")
    return [_read(file) for file in files]


def _read(file: UploadedFile[bytes]) -> NewImage:
    data = file.read()
    return NewImage(detect_media_type(data), data)
