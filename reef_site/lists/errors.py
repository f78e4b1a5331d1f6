"""Errors of the pages of lists."""

from reef_site.common.error_responses import ErrorPage

render_errors = ErrorPage("overview", "Home")
