"""The operator's own hosts, reached by SSH.

They are claimed and released, not created or destroyed, and cannot be paused, saved or branched.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import NoReturn

from bootloader.exceptions import UnsupportedOperation
from bootloader.models import HostClaim, SshHost
from bootloader.providers.base import (
    Ability,
    KeyVerdict,
    Login,
    Machine,
    MachineState,
    Spec,
)
from bootloader.providers.ssh import hosts as ssh_hosts


class SshHosts:
    """See `base.Provider`. Creating claims a host, deleting releases it."""

    slug = "ssh"
    abilities = frozenset({Ability.CREATE, Ability.DELETE})

    def create(self, spec: Spec) -> Machine:
        """Claim a free host.

        It keeps its installed system: images and commits are not supported.
        """
        if spec.commit:
            _unsupported("restore a commit")
        if spec.image or spec.kernel:
            _unsupported("boot an image or kernel")
        return _machine(ssh_hosts.claim(spec))

    def find_created(
        self, spec: Spec, since: datetime, known: frozenset[str]
    ) -> builtins.list[Machine]:
        """Return active claims with this name and these labels."""
        claims = HostClaim.objects.active().filter(name=spec.name, claimed_at__gte=since)
        found = [each for each in claims if dict(spec.labels).items() <= each.labels.items()]
        return [_machine(each) for each in found if str(each.pk) not in known]

    def branch(self, machine_id: str, count: int = 1) -> builtins.list[Machine]:
        """Raise UnsupportedOperation."""
        _unsupported("be branched")

    def commit(self, machine_id: str, name: str) -> str:
        """Raise UnsupportedOperation."""
        _unsupported("be saved as a commit")

    def pause(self, machine_id: str) -> None:
        """Raise UnsupportedOperation."""
        _unsupported("be paused")

    def resume(self, machine_id: str) -> None:
        """Raise UnsupportedOperation."""
        _unsupported("be resumed")

    def delete(self, machine_id: str) -> None:
        """Release the host. Installed files stay on it."""
        ssh_hosts.release(machine_id)

    def state(self, machine_id: str) -> Machine:
        """Report RUNNING if SSH answers, otherwise UNKNOWN: it may be off or unreachable."""
        claim = ssh_hosts.get(machine_id)
        return _machine(claim, ssh_hosts.probe_ssh([claim.host])[0])

    def list(self) -> builtins.list[Machine]:
        """Return the hosts in use."""
        claims = list(HostClaim.objects.active().select_related("host"))
        answers = ssh_hosts.probe_ssh([claim.host for claim in claims])
        return [_machine(claim, answer) for claim, answer in zip(claims, answers, strict=True)]

    def login(self, machine_id: str, *, fresh: bool = False) -> Login:
        """Return SSH parameters from the host's row."""
        return ssh_hosts.login(ssh_hosts.get(machine_id).host)

    def address(self, machine_id: str) -> str:
        """Return the address from the host's row."""
        return ssh_hosts.get(machine_id).host.address

    def check(self) -> KeyVerdict:
        """Try to log in on every host in service."""
        rows = list(SshHost.objects.filter(in_service=True))
        if not rows:
            return KeyVerdict(False, "There are no SSH hosts")
        found = zip(rows, ssh_hosts.try_logins(rows), strict=True)
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


def _unsupported(what: str) -> NoReturn:
    raise UnsupportedOperation(f"A host of your own cannot {what}")


PROVIDER = SshHosts()
