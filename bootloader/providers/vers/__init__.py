"""A typed client of the Vers VM platform's HTTP interface."""

from __future__ import annotations

from bootloader.providers.vers.client import Client as Client
