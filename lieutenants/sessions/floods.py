"""Limits on the rows that one agent can cause, with a report on noisy agents.

The keeper already limits its records. Here are limits on rows that the follower creates itself, and
on records of older keepers. All times are those of journal records, so a follower that starts over
from its last commit counts the same again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from lieutenants.supervision.keeper import limits, pacing

# More than the keeper records, so that its omissions are not counted twice.
ROWS_PER_MINUTE = 3 * limits.ROWS_PER_MINUTE
# Longer texts of a notice are truncated.
MAX_TEXT = 20_000
# What the trouble of floods begins with; the last one is that of earlier versions.
TROUBLE_PREFIXES = ("Too much output: ", "It is loud: ")

_NAMES = {
    "extension_error": "errors of extensions",
    "notify": "notifications",
    "garbage": "lines that are not its protocol",
    "line": "lines that are too long",
    "dialog": "dialogs",
    "retry": "retries",
    "compaction": "notices about its context",
    "refusal": "refusals",
    "other": "other events",
}

# Fields of a `pacing.Bucket`: left, at, count, bytes, pause, due.
_State = list[float | None]


@dataclass
class Floods:
    """Rate limits of one process, stored in its memory as JSON."""

    buckets: dict[str, _State] = field(default_factory=dict)
    # Number of omitted rows of each flood in progress.
    loud: dict[str, int] = field(default_factory=dict)

    def admits(self, cause: str, at: datetime) -> bool:
        """Return whether one more row of this cause may be created."""
        bucket = self._bucket(cause)
        admitted = bucket.admits(0, at.timestamp())
        self._store(cause, bucket)
        return admitted

    def summaries(self, now: datetime, *, last: bool = False) -> list[str]:
        """Return reports on omitted rows that are due; with `last` all of them."""
        reports = []
        for cause in list(self.buckets):
            bucket = self._bucket(cause)
            if not (bucket.is_due(now.timestamp()) or (last and bucket.count)):
                continue
            count, _ = bucket.take(now.timestamp())
            self._store(cause, bucket)
            if count:
                reports.append(self.count_omitted(cause, count))
            else:
                self.mark_over(cause)
        return reports

    def is_due(self, now: datetime) -> bool:
        """Return whether `summaries` has something to report."""
        return any(self._bucket(cause).is_due(now.timestamp()) for cause in self.buckets)

    def count_omitted(self, cause: str, count: int, size: int = 0) -> str:
        """Count omitted rows of a flood; return the sentence that reports them."""
        self.loud[cause] = self.loud.get(cause, 0) + count
        sized = f" ({megabytes(size)})" if size >= 100_000 else ""
        return f"{count:,} further {kind_name(cause)} like this{sized} were left out."

    def mark_over(self, cause: str) -> None:
        """Mark a flood as over."""
        self.loud.pop(cause, None)

    def trouble(self, other: str) -> str:
        """Return the trouble to show: `other` first, else the floods in progress."""
        if other and not other.startswith(TROUBLE_PREFIXES):
            return other
        names = ", ".join(kind_name(cause) for cause in sorted(self.loud))
        # The counts are in the transcript: a text that changes each minute could not be marked as
        # seen.
        return (
            f"{TROUBLE_PREFIXES[0]}too many {names}. Some are kept, the others are counted."
            if names
            else ""
        )

    def _bucket(self, cause: str) -> pacing.Bucket:
        bucket = pacing.Bucket(ROWS_PER_MINUTE)
        if kept := self.buckets.get(cause):
            for name, value in zip(_FIELDS, kept, strict=True):
                setattr(bucket, name, value)
        return bucket

    def _store(self, cause: str, bucket: pacing.Bucket) -> None:
        self.buckets[cause] = [getattr(bucket, name) for name in _FIELDS]


_FIELDS = ("left", "at", "count", "bytes", "pause", "due")


def kind_name(cause: str) -> str:
    """Return the name of a kind of events, in the plural."""
    return _NAMES.get(cause, f"“{cause}” events")


def megabytes(size: int) -> str:
    """Format a size."""
    return f"{size / 1e6:.1f} MB"


def truncate(text: str) -> str:
    """Truncate the text of a notice if it is very long."""
    left_out = len(text) - MAX_TEXT
    return text if left_out <= 0 else f"{text[:MAX_TEXT]} … {left_out:,} characters left out"
