"""The machines on which lieutenants can run, and what is seen on each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from bootloader.models import Machine, SshHost
from bootloader.providers.base import MachineState
from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, LieutenantQuerySet
from lieutenants.supervision import machine_locks, remote_notes, remote_start
from lieutenants.supervision.transports.base import Handle
from lieutenants.supervision.transports.ssh.answers import text_of
from lieutenants.supervision.transports.ssh.older import ID, OlderAgent, parse_older
from lieutenants.supervision.transports.ssh.places import Place, place_of
from lieutenants.supervision.transports.ssh.transport import SshTransport
from reef_site.common.errors import ReefError

logger = logging.getLogger(__name__)

# Longer than a login may take, so that its own problem is known.
PATIENCE_SECONDS = 15.0
MAX_PLACES = 1000
# So many runs of a machine whose lieutenants are not known are asked about.
MAX_DESCRIBED = 100


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

    def assign(self, lieutenant: Lieutenant) -> None:
        """Make an unsaved lieutenant run there."""
        lieutenant.transport, lieutenant.host = "ssh", self.name
        lieutenant.on_vm = self.place.vm_id
        if self.place.ssh_host:
            lieutenant.ssh_host_id = UUID(self.place.ssh_host)

    def lock(self) -> None:
        """Lock the machine until the end of the transaction."""
        if self.place.vm_id:
            machine_locks.lock(self.place.vm_id)
        else:
            hosts = SshHost.objects.filter(pk=self.place.ssh_host).select_for_update()
            list(hosts.values_list("pk"))

    def has(self, lieutenant: Lieutenant) -> bool:
        """Return whether this very machine is that of the lieutenant."""
        return lieutenant.transport == "ssh" and place_of(lieutenant) == self.place


@dataclass(frozen=True)
class SeenRun:
    """A running keeper on a machine.

    The note on the machine, the session's newest file and the generation of its newest follower
    are known only of a run whose lieutenant is not.
    """

    lieutenant_id: str
    run: str
    handle: Handle
    note: Mapping[str, Any] = field(default_factory=dict)
    session: str = ""
    generation: int = 0

    @property
    def directory(self) -> str:
        """Return the run's folder on the machine."""
        return f"{remote_start.home_text(self.lieutenant_id)}/runs/{self.run}"

    @property
    def is_ours(self) -> bool:
        """Return whether reef can have started it: its ids are such as reef makes."""
        return bool(ID.fullmatch(self.lieutenant_id) and ID.fullmatch(self.run))


@dataclass(frozen=True)
class Seen:
    """Result of looking at a machine; `problem` says why it could not be looked at."""

    problem: str = ""
    is_paused: bool = False
    runs: Sequence[SeenRun] = ()
    older: OlderAgent | None = None


def all_places() -> list[NamedPlace]:
    """Return all machines on which lieutenants can run, those with lieutenants first."""
    here = Lieutenant.objects.active().filter(transport="ssh")
    used = {place_of(row) for row in here.only("ssh_host", "on_vm")}
    hosts = SshHost.objects.filter(in_service=True) | SshHost.objects.filter(
        pk__in=here.filter(ssh_host__isnull=False).values("ssh_host")
    )
    machines = Machine.objects.active().exclude(vm_id="")
    found = [NamedPlace(Place(ssh_host=str(host.pk)), host.name) for host in hosts]
    found += [NamedPlace(Place(vm_id=each.vm_id), each.name or each.vm_id) for each in machines]
    return sorted(found, key=lambda each: each.place not in used)


def look(place: NamedPlace) -> Seen:
    """Ask a machine what runs there; whatever goes wrong is its problem alone."""
    transport = SshTransport(place.place)
    try:
        if place.is_paused():
            return Seen(is_paused=True)
        transport.link.wait_until_open(PATIENCE_SECONDS, force=True, is_probe=True)
        answer = transport.list_agents()
        runs = _describe_unknown(transport, _parse_runs(answer["runs"]))
        return Seen(runs=runs, older=parse_older(answer.get("older")))
    except (TransportError, ReefError) as error:
        return Seen(str(error))
    except Exception as error:
        # Such as an answer of the machine in a form that nobody expects.
        logger.exception("%s cannot be looked at", place.name)
        return Seen(f"its answer has a form that reef does not know ({type(error).__name__})")


def _parse_runs(runs: Any) -> list[SeenRun]:
    """Return the running keepers. Raises KeyError, TypeError, ValueError for a damaged answer."""
    return [
        SeenRun(text_of(each["lieutenant"]), text_of(each["run"]), _parse_handle(each["handle"]))
        for each in runs
        if each["alive"] is True
    ]


def _describe_unknown(transport: SshTransport, runs: Sequence[SeenRun]) -> list[SeenRun]:
    """Return the runs, with what the machine tells of those whose lieutenants are not known."""
    ours = {each.lieutenant_id for each in runs if each.is_ours}
    known = set(Lieutenant.objects.filter(pk__in=ours).values_list("pk", flat=True))
    unknown = [each for each in runs if each.is_ours and each.lieutenant_id not in known]
    unknown = unknown[:MAX_DESCRIBED]
    if not unknown:
        return list(runs)
    told = transport.describe([each.directory for each in unknown], note=remote_notes.NAME)
    described = {
        each.directory: replace(
            each,
            note=dict(facts["note"]),
            session=text_of(facts["session"]),
            generation=int(facts["generation"]),
        )
        for each, facts in zip(unknown, told, strict=True)
    }
    return [described.get(each.directory, each) for each in runs]


def _parse_handle(handle: Any) -> Handle:
    numbers = ("keeper_pid", "keeper_started", "agent_pid", "agent_started")
    if not all(handle[name] is None or type(handle[name]) is int for name in numbers):
        raise ValueError("a handle without numbers")
    return {
        **{name: handle[name] for name in numbers},
        "own_user": handle.get("own_user") if type(handle.get("own_user")) is int else 0,
        **{name: text_of(handle.get(name) or "") or None for name in ("boot_id", "isolation")},
    }
