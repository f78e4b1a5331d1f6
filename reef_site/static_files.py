"""Styles and scripts, collected into `STATIC_ROOT` under names with fingerprints of their content.

Browsers may keep such files for good, and never mix those of two versions of reef.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.storage import HashedFilesMixin
from django.core.management import call_command
from whitenoise.storage import CompressedManifestStaticFilesStorage

from reef_site.common import locks

logger = logging.getLogger(__name__)

# Files of packages that no page uses; compressing them takes longer than all others.
_UNUSED = ["drf_spectacular_sidecar/redoc/*", "rest_framework/*", "django_htmx/*", "*.js.map"]
# In STATIC_ROOT: the digest of what was collected; written last.
_MARK = "collected"
_CSS, *_ = HashedFilesMixin.patterns
_, _IMPORTS = HashedFilesMixin._js_module_import_aggregation_patterns  # type: ignore[attr-defined]
_URL = r"""(?P<matched>new URL\(["'](?P<url>\./[^"']+)["'], import\.meta\.url\))"""


class FingerprintStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Django's storage with a manifest, which also replaces what our modules import.

    Packages' own scripts stay as they are: one with a broken reference must not stop reef.
    """

    patterns = (
        _CSS,
        ("reef/*.js", (*_IMPORTS, (_URL, """new URL("%(url)s", import.meta.url)"""))),
    )
    # A chain of imports takes a pass for each of its modules.
    max_post_process_passes = 30


def collect() -> None:
    """Run `collectstatic` unless the folder has just these files already.

    Raises OSError if the folder cannot be written.
    """
    digest = _digest_of_sources()
    if _collected() == digest:
        return
    with locks.held(Path(settings.STATIC_ROOT).with_suffix(".lock")):
        if _collected() == digest:
            return
        logger.info("collecting styles and scripts in %s", settings.STATIC_ROOT)
        # Files may be older than those collected before: a wheel has dates of its own.
        ignored = list(_UNUSED)  # the command adds to it
        call_command(
            "collectstatic", interactive=False, clear=True, verbosity=0, ignore_patterns=ignored
        )
        _mark().write_text(digest)


def _mark() -> Path:
    return Path(settings.STATIC_ROOT) / _MARK


def _collected() -> str:
    try:
        return _mark().read_text()
    except FileNotFoundError:
        return ""


def _digest_of_sources() -> str:
    """Return a digest of all static files that are collected, and of this module's patterns."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for finder in get_finders():
        for path, storage in finder.list(_UNUSED):
            digest.update(f"{path}\n".encode())
            with storage.open(path) as file:
                digest.update(file.read())
    return digest.hexdigest()
