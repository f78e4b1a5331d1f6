"""Encodings of user-data, and the size limits of clouds."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from types import MappingProxyType

from reef_site.common.errors import BadInput

# Bytes of user-data before base64 encoding; None means no limit.
LIMITS: Mapping[str, int | None] = MappingProxyType(
    {
        "ec2": 16 << 10,
        "hetzner": 32 << 10,
        "openstack": 49_149,
        "azure": 49_149,
        "digitalocean": 64 << 10,
        "gce": 256 << 10,
        "nocloud": None,
    }
)
# Lists of both parts are concatenated, so that no files or commands are lost.
MERGE = "list(append)+dict(recurse_list)+str()"
_KINDS = {
    "#cloud-config": "cloud-config",
    "#!": "x-shellscript",
    "#include": "x-include-url",
    "#cloud-boothook": "cloud-boothook",
    "#part-handler": "part-handler",
    "## template: jinja": "jinja2",
}


def gzipped(text: str) -> bytes:
    """Compress the text; cloud-init recognizes gzip by its magic bytes."""
    return gzip.compress(text.encode(), 9, mtime=0)


def multipart(config: str, own: str = "") -> str:
    """Build a MIME archive of our `#cloud-config`, followed by the operator's own part.

    Raise BadInput if cloud-init would not recognize the type of that part.
    """
    archive = MIMEMultipart(boundary="==reef-user-data==")
    archive.attach(_part(config, "cloud-config", "reef.cfg"))
    if own:
        archive.attach(_part(own, kind_of(own), "own"))
    return archive.as_string()


def kind_of(own: str) -> str:
    """Return the MIME subtype of a part from its first line. Raise BadInput."""
    for beginning, kind in _KINDS.items():
        if own.startswith(beginning):
            return kind
    raise BadInput(f"userData: must begin with one of {', '.join(_KINDS)}", "userData")


def check_fits(size: int, cloud: str) -> None:
    """Raise BadInput if the limit of the cloud, one of `LIMITS`, is below `size` bytes."""
    limit = LIMITS[cloud]
    if limit is not None and size > limit:
        text = f"for: {cloud} takes {limit} bytes of user-data, and this is {size}"
        raise BadInput(f"{text}; form=gzip makes it smaller", "for")


def limits_of(size: int) -> list[dict[str, object]]:
    """List each cloud with its limit, and whether user-data of this size fits."""
    return [
        {"cloud": cloud, "bytes": limit, "fits": limit is None or size <= limit}
        for cloud, limit in LIMITS.items()
    ]


def _part(text: str, kind: str, name: str) -> MIMEText:
    part = MIMEText(text, kind, "utf-8" if not text.isascii() else "us-ascii")
    part.add_header("Content-Disposition", f'attachment; filename="{name}"')
    part.add_header("X-Merge-Type", MERGE)
    return part
