"""Fixtures that tests of rules share."""

from __future__ import annotations

from tests.fleets import database, pump
from tests.lieutenants.conftest import operator

__all__ = ["database", "operator", "pump"]
