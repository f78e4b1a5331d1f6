"""The WSGI application of the web process, which serves the edge only."""

from __future__ import annotations

import gc
import os

import django
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from reef_site import static_files
from reef_site.edge.gateway import Gateway
from reef_site.hardening import harden_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
harden_process()
django.setup(set_prefix=False)
# Before the middleware that serves them looks at the folder.
static_files.collect()
_django = get_wsgi_application()


def _application() -> Gateway:
    from django.conf import settings

    return Gateway(_django, settings.EDGE_KEY)


application = _application()
# Load all modules before the first request, and exclude them from garbage collection.
_ = get_resolver().url_patterns
gc.collect()
gc.freeze()
