"""The WSGI application that the web process serves, to the edge only."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from reef_site.gateway import Gateway
from reef_site.hardening import harden_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
harden_process()
_django = get_wsgi_application()


def _application() -> Gateway:
    from django.conf import settings

    return Gateway(_django, settings.EDGE_KEY)


application = _application()
# All modules are there before the first request, and no longer looked through for garbage.
_ = get_resolver().url_patterns
gc.collect()
gc.freeze()
