"""Tables of the site itself."""

from reef_site.common.models import OutsideCall, Tick

__all__ = ["OutsideCall", "Tick"]
