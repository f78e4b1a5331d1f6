"""Fewer records: joined deltas, rare updates, limits for floods, and pauses in reading."""

from __future__ import annotations

from .events import ROW_KINDS
from .journal import now_ms
from .limits import (
    BURST,
    FIRST_SUMMARY_SECONDS,
    JOIN_CHARS,
    JOIN_SECONDS,
    MAX_CALLS,
    MAX_KINDS,
    MAX_SUMMARY_SECONDS,
    OTHERS_PER_MINUTE,
    ROWS_PER_MINUTE,
    STEADY_PER_SECOND,
    UPDATE_SECONDS,
)

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Coalescer:
    """Joins deltas of one block that arrive within JOIN_SECONDS of the first."""

    def __init__(self, write: Callable[[list[Any]], None]) -> None:
        self._write = write
        self._block = ("", 0)
        self._parts: list[str] = []
        self._chars = 0
        self.due: float | None = None

    def add(self, kind: str, index: int, text: str, now: float) -> None:
        full = self._chars > JOIN_CHARS
        if (kind, index) != self._block or full or (self.due is not None and now >= self.due):
            self.flush()
        if self.due is None:
            self._block, self.due = (kind, index), now + JOIN_SECONDS
        self._parts.append(text)
        self._chars += len(text)

    def flush(self) -> None:
        if self._parts:
            self._write([*self._block, "".join(self._parts)])
        self._parts, self._chars, self.due = [], 0, None

    def tick(self, now: float) -> None:
        if self.due is not None and now >= self.due:
            self.flush()


class ToolUpdates:
    """Passes one update per tool call and UPDATE_SECONDS; of the others it keeps the newest."""

    def __init__(
        self, write: Callable[[dict[str, Any]], None], admit: Callable[[str, int, float], bool]
    ) -> None:
        self._write = write
        self._admit = admit
        self._next: dict[str, float] = {}
        self._held: dict[str, dict[str, Any]] = {}
        self.due: float | None = None

    def add(self, event: dict[str, Any], now: float) -> None:
        call = str(event.get("toolCallId"))
        if call not in self._next:
            # Calls whose end is never reported must not fill the memory.
            if len(self._next) >= MAX_CALLS or not self._admit("tool_execution_update", 0, now):
                self.tick(now)
                return
            self._next[call] = now
        self._held[call] = event
        self.tick(now)

    def forget(self, call: str) -> None:
        """Drop the pending update of a call that has ended."""
        self._held.pop(call, None)
        self._next.pop(call, None)
        self._plan()

    def tick(self, now: float) -> None:
        for call in [call for call in self._held if self._next[call] <= now]:
            self._next[call] = now + UPDATE_SECONDS
            self._write(self._held.pop(call))
        self._plan()

    def _plan(self) -> None:
        self.due = min(self._next[call] for call in self._held) if self._held else None


class Bucket:
    """Rate limiter: admits a number of events per minute and counts the others exactly.

    Times are seconds of any clock that the caller chooses.
    """

    __slots__ = ("at", "bytes", "count", "due", "left", "limit", "pause")

    def __init__(self, limit: int) -> None:
        self.limit, self.left, self.at = limit, float(limit), 0.0
        self.count = self.bytes = 0
        self.pause = FIRST_SUMMARY_SECONDS
        self.due: float | None = None  # when to report how many were left out

    def admits(self, size: int, now: float) -> bool:
        refill = max(0.0, now - self.at) * self.limit / 60 if self.at else 0.0
        self.left, self.at = min(float(self.limit), self.left + refill), now
        if self.left >= 1:
            self.left -= 1
            return True
        self.count += 1
        self.bytes += size
        if self.due is None:
            self.due = now + self.pause
        return False

    def is_due(self, now: float) -> bool:
        """Return whether a report is due; also after the clock was set back."""
        return self.due is not None and not self.due - MAX_SUMMARY_SECONDS <= now < self.due

    def take(self, now: float) -> tuple[int, int]:
        """Return how many events were left out since the last call, and their bytes.

        The next report is due after a pause that grows each time. If none were left out, the flood
        is over.
        """
        taken = self.count, self.bytes
        if self.count:
            self.pause = min(2 * self.pause, MAX_SUMMARY_SECONDS)
            self.due = now + self.pause
        else:
            self.pause, self.due = FIRST_SUMMARY_SECONDS, None
        self.count = self.bytes = 0
        return taken


class Floods:
    """Limits the records of each kind of event: ["m", time, kind, number left out, bytes].

    ["q", time, kind] marks the end of a flood.
    """

    def __init__(self, write: Callable[[list[Any]], None]) -> None:
        self._write = write
        self._buckets: dict[str, Bucket] = {}

    @property
    def due(self) -> float | None:
        dues = [each.due for each in self._buckets.values() if each.due is not None]
        return min(dues) if dues else None

    def admit(self, kind: str, size: int, now: float) -> bool:
        """Return whether one more event of this kind may be recorded."""
        if kind not in self._buckets and len(self._buckets) >= MAX_KINDS:
            kind = "other"
        if kind not in self._buckets:
            limit = ROWS_PER_MINUTE if kind in ROW_KINDS else OTHERS_PER_MINUTE
            self._buckets[kind] = Bucket(limit)
        return self._buckets[kind].admits(size, now)

    def tick(self, now: float) -> None:
        for kind, bucket in self._buckets.items():
            if bucket.is_due(now):
                self._report(kind, bucket, now)

    def _report(self, kind: str, bucket: Bucket, now: float) -> None:
        count, size = bucket.take(now)
        if count:
            self._write(["m", now_ms(), kind, count, size])
        else:
            self._write(["q", now_ms(), kind])

    def flush(self, now: float) -> None:
        for kind, bucket in self._buckets.items():
            if bucket.count:
                self._report(kind, bucket, now)


class Throttle:
    """Throttles reading when too much must be recorded: more than `burst`, and `steady` a second.

    Unlike a flood's events, nothing of it is left out.
    """

    def __init__(self, burst: float = BURST, steady: float = STEADY_PER_SECOND) -> None:
        self._burst, self._steady = float(burst), float(steady)
        self._left, self._at = self._burst, 0.0

    def count(self, now: float, amount: float = 1.0) -> None:
        refill = (now - self._at) * self._steady
        self._left, self._at = min(self._burst, self._left + refill) - amount, now

    def wait(self, now: float) -> float:
        """Return for how many seconds reading should pause."""
        return max(0.0, -self._left / self._steady - (now - self._at))
