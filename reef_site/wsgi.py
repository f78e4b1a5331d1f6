"""The WSGI application that the web process serves."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")
application = get_wsgi_application()
# All modules are there before the first request, and no longer looked through for garbage.
_ = get_resolver().url_patterns
gc.collect()
gc.freeze()
