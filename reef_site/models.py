"""Tables of the site itself."""

from reef_site.common.models import Tick

__all__ = ["Tick"]
