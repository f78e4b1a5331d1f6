"""Bar charts: the figures of each bar, and its place in an SVG picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from lieutenants.usage.models import slot_of
from lieutenants.usage.periods import HOUR, WEEK_DAYS, Periods

HEIGHT = 96
WIDTH = 576
GAP = 4
HOURS = 24
Slots = Sequence[tuple[datetime, Decimal]]


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its dollars, and its rectangle."""

    label: str
    dollars: Decimal
    x: float
    width: float
    height: float
    # Charts with many bars name some of them only.
    is_named: bool = True

    @property
    def y(self) -> float:
        """The upper edge; bars stand on the lower edge of the picture."""
        return round(HEIGHT - self.height, 1)

    @property
    def middle(self) -> float:
        return round(self.x + self.width / 2, 1)


@dataclass(frozen=True)
class Chart:
    """Bars from left to right, and the size of the picture without labels."""

    title: str
    bars: list[Bar]

    width = WIDTH
    height = HEIGHT

    @property
    def highest(self) -> Decimal:
        return max((bar.dollars for bar in self.bars), default=Decimal(0))


def days_chart(slots: Slots, periods: Periods) -> Chart:
    """Return the last seven days."""
    starts = [periods.start_of(ago) for ago in reversed(range(WEEK_DAYS))]
    labels = [start.strftime("%a %d") for start in starts]
    return Chart("Last 7 days", _bars(labels, _sums(slots, starts), every=1))


def hours_chart(slots: Slots, periods: Periods) -> Chart:
    """Return the last 24 hours; the last bar is the current hour."""
    local = periods.now.astimezone(periods.zone)
    # Clock hours of the zone, which may begin at any quarter of an hour of UTC.
    current = slot_of(periods.now) - timedelta(minutes=local.minute - local.minute % 15)
    starts = [current - HOUR * ago for ago in reversed(range(HOURS))]
    labels = [start.astimezone(periods.zone).strftime("%H:%M") for start in starts]
    return Chart("Last 24 hours", _bars(labels, _sums(slots, starts), every=6))


def _sums(slots: Slots, starts: Sequence[datetime]) -> list[Decimal]:
    """Return the dollars between each start and the next one."""
    sums = [Decimal(0)] * len(starts)
    place = -1
    for slot, dollars in slots:
        while place + 1 < len(starts) and slot >= starts[place + 1]:
            place += 1
        if place >= 0:
            sums[place] += dollars
    return sums


def _bars(labels: Iterable[str], sums: Sequence[Decimal], every: int) -> list[Bar]:
    highest, room = max([*sums, Decimal(0)]), WIDTH / len(sums)
    return [
        Bar(
            label,
            dollars,
            x=round(place * room + GAP / 2, 1),
            width=round(room - GAP, 1),
            # A bar that is there stays visible.
            height=max(2.0, round(float(dollars / highest) * HEIGHT, 1)) if dollars > 0 else 0,
            is_named=(len(sums) - 1 - place) % every == 0,
        )
        for place, (label, dollars) in enumerate(zip(labels, sums, strict=True))
    ]
