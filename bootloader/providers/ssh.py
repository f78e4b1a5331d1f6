"""Hosts of the operator's own, reached by SSH. They are not made or destroyed, but taken and
given back; what a platform could do to its VMs, nobody can do to them.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import NoReturn

from bootloader import hosts
from bootloader.exceptions import CannotDo
from bootloader.models import HostClaim, SshHost
from bootloader.providers.base import (
    Ability,
    KeyVerdict,
    Login,
    Machine,
    MachineState,
    Spec,
)


class SshHosts:
    """See `base.Provider`. To create is to take a host, to delete is to give it back."""

    slug = "ssh"
    abilities = frozenset({Ability.CREATE, Ability.DELETE})

    def create(self, spec: Spec) -> Machine:
        """Take a free host. What is on it is what it has: no image or commit gets there."""
        if spec.commit:
            _cannot("restore a commit")
        if spec.image or spec.kernel:
            _cannot("boot an image or kernel")
        return _machine(hosts.claim(spec))

    def find_created(
        self, spec: Spec, since: datetime, known: frozenset[str]
    ) -> builtins.list[Machine]:
        """What was taken under this name and these labels."""
        claims = HostClaim.objects.living().filter(name=spec.name, claimed_at__gte=since)
        found = [each for each in claims if dict(spec.labels).items() <= each.labels.items()]
        return [_machine(each) for each in found if str(each.pk) not in known]

    def branch(self, machine_id: str, count: int = 1) -> builtins.list[Machine]:
        """Nobody can."""
        _cannot("be branched")

    def commit(self, machine_id: str, name: str) -> str:
        """Nobody can."""
        _cannot("be saved as a commit")

    def pause(self, machine_id: str) -> None:
        """Nobody can."""
        _cannot("be paused")

    def resume(self, machine_id: str) -> None:
        """Nobody can."""
        _cannot("be resumed")

    def delete(self, machine_id: str) -> None:
        """Give it back. What was put on it stays on it."""
        hosts.release(machine_id)

    def state(self, machine_id: str) -> Machine:
        """Running if its SSH answers; if not, nobody can tell whether it is off or cut off."""
        claim = hosts.get(machine_id)
        return _machine(claim, hosts.answering([claim.host])[0])

    def list(self) -> builtins.list[Machine]:
        """Those that are in use."""
        claims = list(HostClaim.objects.living().select_related("host"))
        answers = hosts.answering([claim.host for claim in claims])
        return [_machine(claim, answer) for claim, answer in zip(claims, answers, strict=True)]

    def login(self, machine_id: str, *, fresh: bool = False) -> Login:
        """As its row says now."""
        return hosts.login(hosts.get(machine_id).host)

    def address(self, machine_id: str) -> str:
        """As in its row."""
        return hosts.get(machine_id).host.address

    def check(self) -> KeyVerdict:
        """Whether every host in service lets us in."""
        rows = list(SshHost.objects.filter(in_service=True))
        if not rows:
            return KeyVerdict(False, "There are no SSH hosts")
        found = zip(rows, hosts.try_logins(rows), strict=True)
        wrong = [f"{row}: {text}" for row, text in found if text]
        if wrong:
            return KeyVerdict(False, "; ".join(wrong)[:1000])
        return KeyVerdict(True, f"All {len(rows)} SSH hosts let us in")


def _machine(claim: HostClaim, answers: bool = True) -> Machine:
    return Machine(
        id=str(claim.pk),
        state=MachineState.RUNNING if answers else MachineState.UNKNOWN,
        created_at=claim.claimed_at,
        name=claim.name,
        labels=dict(claim.labels),
    )


def _cannot(what: str) -> NoReturn:
    raise CannotDo(f"A host of your own cannot {what}")


PROVIDER = SshHosts()
