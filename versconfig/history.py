"""Versions of settings."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, QuerySet

from versconfig.models import Version
from vmtree.models import Node


def versions(
    *, key: str = "", node: Node | None = None, before: int | None = None
) -> QuerySet[Version]:
    """Return versions, newest first, with `superseded` annotated.

    Filter by key, by node, or by versions older than the id `before`.
    """
    later = Version.objects.filter(previous=OuterRef("pk"))
    rows = Version.objects.select_related("node", "previous").order_by("-id")
    rows = rows.annotate(superseded=Exists(later))
    if key:
        rows = rows.filter(key=key)
    if node:
        rows = rows.filter(node=node)
    return rows.filter(pk__lt=before) if before is not None else rows
