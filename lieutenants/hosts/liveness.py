"""Hosts that do not respond, and the effect on their lieutenants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Q, QuerySet

from lieutenants.hosts import services
from lieutenants.hosts.models import DataFolder
from lieutenants.models import Lieutenant, Process
from lieutenants.states import RUNNING, Status
from reef_site.common import clock

# Identity of a data folder, and a host name. The name is empty unless the identity is: rows of
# earlier versions have none until a follower claims them.
Key = tuple[str, str]


@dataclass(frozen=True)
class Host:
    """A data folder with its host, for pages and `/health`."""

    id: str
    name: str
    path: str
    seen_at: datetime | None
    answers: bool
    # Active lieutenants, and agents of destroyed ones that may still run there.
    lieutenants: int = 0
    leftovers: int = 0
    rival: str = ""
    is_draining: bool = False

    @property
    def is_here(self) -> bool:
        """Return whether this is the data folder of this process."""
        return self.id == settings.DATA_FOLDER_ID

    @property
    def rows(self) -> Q:
        """Return the filter for its lieutenants, which fits its processes too."""
        return Q(data_folder=self.id) if self.id else Q(data_folder="", host=self.name)

    @property
    def needs_attention(self) -> bool:
        """Return whether it does not respond although it has lieutenants or agents."""
        return not self.answers and bool(self.lieutenants or self.leftovers)

    @property
    def trouble(self) -> str:
        """Return why nothing happens there, for its lieutenants; empty if it responds."""
        if self.answers:
            return ""
        if self.seen_at is None:
            return f"host {self.name} was never heard of"
        return f"host {self.name} does not answer since {self.seen_at:%Y-%m-%d %H:%M:%S} UTC"

    @property
    def pending_note(self) -> str:
        """Return the note for a request that only this host can carry out; empty if it responds."""
        return "" if self.answers else f"asked; host {self.name} does not answer"

    @property
    def summary(self) -> str:
        """Return a sentence with the trouble and the number of affected lieutenants."""
        parts = []
        if self.lieutenants:
            parts.append(f"{self.lieutenants} lieutenant{'s' if self.lieutenants > 1 else ''}")
        if self.leftovers:
            parts.append(f"{self.leftovers} agent{'s' if self.leftovers > 1 else ''} to be ended")
        belong = "belongs" if self.lieutenants + self.leftovers == 1 else "belong"
        return f"{' and '.join(parts)} {belong} to it: {self.trouble}"


def list_hosts() -> list[Host]:
    """Return all data folders that are registered or have lieutenants, by host name."""
    now = clock.database_now()
    rows = {_key(row.pk, row.host): row for row in DataFolder.objects.all()}
    living = _count(Lieutenant.objects.active())
    unknown = living.keys() - rows.keys() - {_key(settings.DATA_FOLDER_ID, "")}
    leftovers: dict[Key, int] = {}
    if unknown or not all(services.is_responding(row, now) for row in rows.values()):
        leftovers = _count(Process.objects.live().filter(lieutenant__status=Status.DESTROYED))
    # Rows without an identity, and of folders that are not registered yet.
    for pk, name in (living.keys() | leftovers.keys()) - rows.keys():
        if pk:
            same = Lieutenant.objects.filter(data_folder=pk)
            known = same.values_list("host", flat=True).first() or "?"
        else:
            known = name
        rows[pk, name] = DataFolder(pk=pk, host=known, path="")
    found = [
        _host(row, now, living.get(key, 0), leftovers.get(key, 0)) for key, row in rows.items()
    ]
    return sorted(found, key=lambda host: (host.name, host.id))


def _key(data_folder: str, host: str) -> Key:
    return (data_folder, "" if data_folder else host)


def _count(rows: QuerySet[Any]) -> dict[Key, int]:
    found: Counter[Key] = Counter()
    places = rows.order_by().values_list("data_folder", "host")
    for data_folder, host, count in places.annotate(count=Count("pk")):
        found[_key(data_folder, host)] += count
    return found


def _host(row: DataFolder, now: datetime, living: int = 0, leftovers: int = 0) -> Host:
    # Our own folder counts as responding until there is evidence that it does not.
    unknown = row.pk == settings.DATA_FOLDER_ID and row.seen_at is None
    has_rival = bool(row.rival_at and now - services.SILENT_AFTER < row.rival_at)
    return Host(
        id=row.pk,
        name=row.host,
        path=row.path,
        seen_at=row.seen_at,
        answers=unknown or services.is_responding(row, now),
        lieutenants=living,
        leftovers=leftovers,
        rival=row.rival if has_rival else "",
        is_draining=row.is_draining,
    )


def silent_hosts() -> dict[Key, Host]:
    """Return the data folders that do not respond."""
    now = clock.database_now()
    late = Q(seen_at__lte=now - services.SILENT_AFTER) | Q(seen_at__gt=now + services.TOLERANCE)
    late |= Q(seen_at__isnull=True) & ~Q(pk=settings.DATA_FOLDER_ID)
    rows = DataFolder.objects.filter(late)
    found = {_key(row.pk, row.host): _host(row, now) for row in rows}
    known = DataFolder.objects.values("pk")
    unknown = Lieutenant.objects.active().exclude(data_folder__in=known)
    unknown = unknown.exclude(data_folder=settings.DATA_FOLDER_ID)
    for pk, name in unknown.order_by().values_list("data_folder", "host").distinct():
        found[_key(pk, name)] = _host(DataFolder(pk=pk, host=name, path=""), now)
    return found


def silent_host_of(lieutenant: Lieutenant) -> Host | None:
    """Return the host of the lieutenant if it does not respond, else None."""
    row = DataFolder.objects.filter(pk=lieutenant.data_folder).first()
    row = row or DataFolder(pk=lieutenant.data_folder, host=lieutenant.host, path="")
    host = _host(row, clock.database_now())
    return None if host.answers else host


def pending_note(lieutenant: Lieutenant) -> str:
    """Return the note for a request that waits for a silent host; empty if none is needed.

    A lieutenant that neither has nor wants a process needs no host.
    """
    wants_host = lieutenant.status in RUNNING or lieutenant.live_process() is not None
    host = silent_host_of(lieutenant) if wants_host else None
    if host:
        return host.pending_note
    if wants_host and lieutenant.is_out_of_reach and not lieutenant.is_local:
        return f"asked; {lieutenant.host} cannot be reached"
    return ""


def annotate_trouble(rows: Iterable[Lieutenant]) -> None:
    """Set `trouble` on rows whose host does not respond. For display, never saved."""
    found = silent_hosts()
    concerned = [row for row in rows if _key(row.data_folder, row.host) in found]
    if not concerned:
        return
    live = Process.objects.live().filter(lieutenant__in=[row.pk for row in concerned])
    with_process = set(live.values_list("lieutenant_id", flat=True))
    for row in concerned:
        text = found[_key(row.data_folder, row.host)].trouble
        if row.status == Status.DESTROYED and row.pk not in with_process:
            continue
        if row.pk in with_process and row.status not in RUNNING:
            text += f". It is {row.status}, but its agent may still run there until it answers"
        row.trouble = f"{text}; before: {row.trouble}" if row.trouble else text
