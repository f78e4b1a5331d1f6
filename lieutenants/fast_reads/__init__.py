"""Reads of lieutenants that the edge answers itself, with the functions of the API's views.

One statement returns all rows that a response is made of (`JsonColumns`), and Python computes the
rest. Django answers what is refused or missing, lieutenants of hosts that do not respond, and very
long texts.
"""

from __future__ import annotations

from lieutenants.fast_reads import lieutenants, messages, transcripts
from reef_site.common.fast_routes import fast_routes


def register() -> None:
    """Add the routes of lieutenants to those of the edge."""
    for key, route in (lieutenants.ROUTES | transcripts.ROUTES | messages.ROUTES).items():
        fast_routes.register(route, key=key)
