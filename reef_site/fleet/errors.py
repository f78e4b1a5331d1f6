"""How errors of the fleet's pages are shown."""

from __future__ import annotations

from reef_site.common.error_responses import ErrorPage

render_errors = ErrorPage("fleet:tree", "Fleet")
