"""The error page of the fleet's pages."""

from __future__ import annotations

from reef_site.common.error_responses import ErrorPage

render_errors = ErrorPage("fleet:tree", "Fleet")
