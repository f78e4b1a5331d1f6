"""Looking for running keepers on all machines on which lieutenants can run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from django.db import connections

from bootloader.models import Machine, SshHost
from bootloader.providers.base import MachineState
from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, LieutenantQuerySet
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.transport import SshTransport

AT_ONCE = 8
PATIENCE_SECONDS = 10.0
MAX_PLACES = 1000
Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class NamedPlace:
    """A machine, with its name for people."""

    place: Place
    name: str

    def lieutenants(self) -> LieutenantQuerySet:
        """Return the active lieutenants that run there."""
        here = Lieutenant.objects.active().filter(transport="ssh")
        if self.place.vm_id:
            return here.filter(on_vm=self.place.vm_id)
        return here.filter(ssh_host__pk=self.place.ssh_host)

    def is_paused(self) -> bool:
        """Return whether it is a VM that was paused: nothing runs there now."""
        row = Machine.objects.active().filter(vm_id=self.place.vm_id).first()
        return bool(self.place.vm_id) and row is not None and row.state == MachineState.PAUSED

    def has(self, lieutenant: Lieutenant) -> bool:
        """Return whether the lieutenant runs there, or did before it was destroyed."""
        if self.place.vm_id:
            return lieutenant.on_vm == self.place.vm_id
        return lieutenant.ssh_host_id is None or str(lieutenant.ssh_host_id) == self.place.ssh_host


def look_everywhere() -> Iterator[tuple[NamedPlace, Runs | str]]:
    """Yield each machine with its running keepers, or why it cannot be reached.

    Only machines with lieutenants that should be there are named as unreachable.
    """
    places = _places()
    if not places:
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(places)), "reef-discover") as pool:
        for place, found in zip(places, pool.map(_look, places), strict=True):
            if not isinstance(found, str) or place.lieutenants().exists():
                yield place, found


def _places() -> list[NamedPlace]:
    hosts = SshHost.objects.filter(in_service=True) | SshHost.objects.filter(
        pk__in=Lieutenant.objects.active().filter(ssh_host__isnull=False).values("ssh_host")
    )
    machines = Machine.objects.active().exclude(vm_id="")
    found = [NamedPlace(Place(ssh_host=str(host.pk)), host.name) for host in hosts]
    found += [NamedPlace(Place(vm_id=each.vm_id), each.name or each.vm_id) for each in machines]
    return found[:MAX_PLACES]


def _look(place: NamedPlace) -> Runs | str:
    transport = SshTransport(place.place)
    try:
        if place.is_paused():
            return []
        transport.link.wait_until_open(PATIENCE_SECONDS, force=True)
        return [each for each in transport.list_runs() if each["alive"]]
    except TransportError as error:
        return str(error)
    finally:
        connections.close_all()
