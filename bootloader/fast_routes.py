"""Reads of profiles that the edge answers itself: SQL for what `boot.api` answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from bootloader.boot.catalog import BUILT_IN
from bootloader.boot.plan import Profile
from bootloader.boot.serializers import profile_json
from bootloader.models import OwnProfile, ProfileFile
from reef_site.common import json_sql
from reef_site.common.fast_routes import KEY, FastRoute, fast_routes
from reef_site.common.json_columns import JsonColumns
from reef_site.common.json_format import dumps

_PROFILES = JsonColumns(OwnProfile)
_FILES = JsonColumns(ProfileFile)


def _rows(condition: str) -> str:
    """Return custom profiles and their files."""
    profiles = f"bootloader_ownprofile p WHERE {condition}"
    files = f"bootloader_profilefile f WHERE f.profile_id IN (SELECT p.id FROM {profiles})"
    return json_sql.together(
        json_sql.list_of(f"SELECT {_PROFILES.select('p')} AS json FROM {profiles} ORDER BY p.type"),
        json_sql.list_of(f"SELECT {_FILES.select('f')} AS json FROM {files} ORDER BY f.path"),
    )


def _own(found: bytes) -> dict[str, Profile]:
    """Return the custom profiles by type."""
    rows: Sequence[list[Any]]
    rows, file_rows = orjson.loads(found)
    files: dict[int, list[ProfileFile]] = {}
    for file in map(_FILES.read, file_rows):
        files.setdefault(file.profile_id, []).append(file)
    made = map(_PROFILES.read, rows)
    return {each.type: each.with_files(files.get(each.pk, ())) for each in made}


def _finish_all(found: bytes, _: str) -> bytes:
    profiles = BUILT_IN | _own(found)
    return dumps({"profiles": {name: profile_json(each) for name, each in profiles.items()}})


def _finish_one(found: bytes, name: str) -> bytes | None:
    profile = BUILT_IN.get(name) or _own(found).get(name)
    return dumps(profile_json(profile)) if profile else None


ROUTES = {
    "bootloader.profiles": FastRoute(
        r"/bootloader/profiles/?", lambda: _rows("TRUE"), finish=_finish_all, long_texts=True
    ),
    "bootloader.profile": FastRoute(
        rf"/bootloader/profiles/{KEY}/?",
        lambda: _rows("p.type = q.value"),
        finish=_finish_one,
        long_texts=True,
    ),
}


def register() -> None:
    """Add these routes to those of the edge."""
    for key, route in ROUTES.items():
        fast_routes.register(route, key=key)
