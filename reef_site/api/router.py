"""The one DRF router."""

from __future__ import annotations

from rest_framework.routers import SimpleRouter

from lieutenants.api import LieutenantViewSet

router = SimpleRouter()
# A trailing slash is optional.
router.trailing_slash = "/?"
router.register("lieutenant/lieutenants", LieutenantViewSet, basename="lieutenant")
