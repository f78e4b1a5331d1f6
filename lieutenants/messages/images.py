"""Images that are sent with a message: their limits, and how they are stored.

They are rows of their own, so that every host can show them, backups have them, and no query for
messages loads them. Journals and logs do not contain them: the keeper drops the data of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lieutenants.agents import dialect_of
from lieutenants.exceptions import TooLarge
from lieutenants.models import Lieutenant, Message, MessageImage
from reef_site.common.errors import BadInput

MAX_IMAGES = 8
# All images of a message. With base64 and a long text it is below the keeper's longest line.
MAX_BYTES = 5_000_000
PNG, JPEG, GIF, WEBP = MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
# The same for people.
FORMAT_NAMES = "PNG, JPEG, GIF or WebP"


@dataclass(frozen=True)
class NewImage:
    """An image of a message that is sent now."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """Return the hash by which a repeated request is recognised."""
        return hashlib.sha256(self.data).hexdigest()


class ImageFacts(NamedTuple):
    """A stored image without its data. `number` is its position in the message, from 0."""

    message_id: str
    number: int
    media_type: str
    size: int


def detect_media_type(data: bytes) -> str:
    """Return the media type by the first bytes; empty for anything but a supported image."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    is_webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    return WEBP if is_webp else ""


def check(images: Sequence[NewImage]) -> None:
    """Validate number, size and content. Raises BadInput, TooLarge."""
    if len(images) > MAX_IMAGES:
        raise BadInput(f"images: at most {MAX_IMAGES} are taken", "images")
    size = sum(len(image.data) for image in images)
    if size > MAX_BYTES:
        raise TooLarge(f"images: have {size} bytes, at most {MAX_BYTES} are taken", "images")
    for number, image in enumerate(images):
        found = detect_media_type(image.data)
        if not found or image.media_type not in MEDIA_TYPES:
            types = ", ".join(MEDIA_TYPES)
            raise BadInput(f"images[{number}].data: must be one of {types}", "images")
        if found != image.media_type:
            text = f"images[{number}].mediaType: the data is {found}, not {image.media_type}"
            raise BadInput(text, "images")


def check_accepted(lieutenant: Lieutenant) -> None:
    """Raise BadInput if the lieutenant's agent, or the model that it uses, takes no images."""
    dialect = dialect_of(lieutenant)
    if not dialect.features.images:
        raise BadInput(f"images: the agent '{dialect.name}' takes no images", "images")
    dialect.check_images(lieutenant)


def store(message: Message, images: Sequence[NewImage]) -> None:
    """Store the images of a new message."""
    MessageImage.objects.bulk_create(
        MessageImage(
            message=message,
            number=number,
            media_type=image.media_type,
            size=len(image.data),
            digest=image.digest,
            data=image.data,
        )
        for number, image in enumerate(images)
    )


def are_equal(message: Message, images: Sequence[NewImage]) -> bool:
    """Return whether a stored message has exactly these images."""
    stored = message.images.order_by("number").values_list("media_type", "digest")
    return list(stored) == [(image.media_type, image.digest) for image in images]


def load(message_id: str) -> list[NewImage]:
    """Return a message's images with their data."""
    rows = MessageImage.objects.filter(message=message_id).order_by("number")
    # PostgreSQL returns a memoryview.
    return [NewImage(kind, bytes(data)) for kind, data in rows.values_list("media_type", "data")]


def facts_by_message(message_ids: Iterable[str | None]) -> Mapping[str, list[ImageFacts]]:
    """Map messages to their images; those without images are left out."""
    wanted = {pk for pk in message_ids if pk}
    found: dict[str, list[ImageFacts]] = {}
    if wanted:
        rows = MessageImage.objects.filter(message__in=wanted).order_by("message", "number")
        for row in rows.values_list("message_id", "number", "media_type", "size"):
            found.setdefault(row[0], []).append(ImageFacts(*row))
    return found
