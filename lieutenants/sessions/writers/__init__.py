"""Writers of the recorder, by subject: each module lists its own in `WRITERS`, by effect."""

from __future__ import annotations
