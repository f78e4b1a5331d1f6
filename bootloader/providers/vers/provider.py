"""The Vers VM platform as a provider. Its HTTP client is `bootloader.providers.vers`.

The platform has no regions or size classes; a VM restored from a commit keeps its size.
"""

from __future__ import annotations

import builtins
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from bootloader.exceptions import (
    NoSuchMachine,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from bootloader.providers.base import (
    Ability,
    KeyVerdict,
    Login,
    Machine,
    MachineState,
    Spec,
)
from bootloader.providers.vers import Client, keyring, parsing
from bootloader.providers.vers.client import known_id
from reef_site.common.errors import ReefError
from versconfig import config
from vmtree.models import Node

logger = logging.getLogger(__name__)

# The platform stores no names: ours is a label.
NAME_LABEL = "reef-name"
# Tolerance between the platform's clock and ours.
_SKEW = timedelta(minutes=1)
# A state change is answered at once and becomes visible within this time.
_CHANGE_SECONDS = 10.0
_POLL_SECONDS = 0.5

_STATES = {
    "booting": MachineState.BOOTING,
    "running": MachineState.RUNNING,
    "paused": MachineState.PAUSED,
    # Like paused to users, but only the platform resumes it.
    "sleeping": MachineState.PAUSED,
    "dead": MachineState.STOPPED,
}


class Vers:
    """See `base.Provider`."""

    slug = "vers"
    abilities = frozenset(Ability)

    def __init__(self, client: Client | None = None) -> None:
        self.client = client or Client()

    # -- create and save -------------------------------------------------------------------------

    def create(self, spec: Spec) -> Machine:
        """Create a VM.

        From a commit it runs at once; from an image it boots, and disappears on failure.
        """
        labels = _labels(spec)
        if spec.commit is None:
            vm_id = self.client.new_root(_config(spec, labels))
            return Machine(vm_id, MachineState.BOOTING, name=spec.name, labels=labels)
        vm_id = self.client.from_commit(spec.commit)
        self._name(vm_id, labels)
        return Machine(
            vm_id, MachineState.RUNNING, name=spec.name, labels=labels, commit=spec.commit
        )

    def _name(self, vm_id: str, labels: dict[str, str]) -> None:
        """Label a restored VM, which has no labels yet.

        Failure is logged, since the VM exists anyway.
        """
        try:
            self.client.label(vm_id, labels)
        except ProviderError as error:
            logger.warning("VM %s stays without labels: %s", vm_id, error)

    def find_created(
        self, spec: Spec, since: datetime, known: frozenset[str]
    ) -> builtins.list[Machine]:
        """Find VMs by label, and restored VMs without labels by their commit.

        An unlabelled match may belong to a concurrent create, so callers must assign each VM once.
        """
        owner = self.client.account().owner
        fresh = [
            vm
            for vm in self.client.vms()
            if vm.vm_id not in known
            and vm.owner_id in ("", owner)
            and (vm.created_at is None or vm.created_at >= since - _SKEW)
        ]
        commit = self.client.commit_of(spec.commit) if spec.commit and fresh else None
        found = [vm for vm in fresh if self._may_be(vm, spec, commit)]
        found.sort(key=lambda vm: (vm.created_at is None, vm.created_at or since))
        return [_machine(vm, owner) for vm in found]

    def _may_be(self, vm: parsing.VM, spec: Spec, commit: str | None) -> bool:
        if vm.labels:
            return _labels(spec).items() <= vm.labels.items()
        if vm.labels is not None and commit is None:
            return False  # one made from an image has its labels from the start
        try:
            return self.client.metadata(vm.vm_id).parent_commit_id == commit
        except NoSuchMachine:
            return False

    def branch(self, machine_id: str, count: int = 1) -> builtins.list[Machine]:
        """Save the VM, restore the copies, and let the VM continue. Raise PartiallyCreated."""
        made = self.client.branch(machine_id, count)
        return [Machine(vm_id, MachineState.RUNNING, parent_id=machine_id) for vm_id in made]

    def commit(self, machine_id: str, name: str) -> str:
        """Save the VM.

        Run `sync` on it first, otherwise the newest files are empty in the commit.
        """
        return self.client.commit(machine_id, name)

    def find_commits(self, machine_id: str, name: str) -> builtins.list[str]:
        """Return commits of this machine with this name, for callers that lost the response to
        `commit`.

        A listed commit may still be being written.
        """
        vm_id = known_id(machine_id)
        return [
            commit.commit_id
            for commit in self.client.commits()
            if commit.parent_vm_id == vm_id and commit.name == name
        ]

    # -- change and delete -----------------------------------------------------------------------

    def pause(self, machine_id: str) -> None:
        """Freeze the VM. It still counts towards the account's limits."""
        if self.state(machine_id).state is MachineState.PAUSED:
            return
        self._change(machine_id, MachineState.PAUSED, partial(self._freeze, machine_id))

    def _freeze(self, machine_id: str) -> None:
        try:
            self.client.set_state(machine_id, "Paused")
        except ProviderRefused as error:
            # Some versions of the platform use another state name.
            if error.http_status != 422 or "Sleeping" not in str(error):
                raise
            self.client.set_state(machine_id, "Sleeping")

    def resume(self, machine_id: str) -> None:
        """Resume the VM. SSH answers some seconds later."""
        if self.state(machine_id).state is MachineState.RUNNING:
            return
        resume = partial(self.client.set_state, machine_id, "Running")
        self._change(machine_id, MachineState.RUNNING, resume)

    def _change(self, machine_id: str, wanted: MachineState, ask: Callable[[], None]) -> None:
        """Request a state change and wait for the state, since the response says nothing or is
        lost.
        """
        lost: OutcomeUnknown | None = None
        try:
            ask()
        except OutcomeUnknown as error:
            lost = error
        if _wait_for(lambda: self.state(machine_id).state is wanted):
            return
        raise lost or OutcomeUnknown(f"Vers said yes, but {machine_id} is not {wanted}")

    def delete(self, machine_id: str) -> None:
        """Delete the VM.

        The platform answers "not ours" for a missing VM, so its absence is verified.
        """
        lost: ProviderError | None = None
        try:
            self._remove(machine_id)
        except ProviderError as error:
            if error.http_status not in (403, 404) and not isinstance(error, OutcomeUnknown):
                raise
            lost = error
        if lost is not None and not _wait_for(
            lambda: self._gone(machine_id), 0 if lost.http_status == 403 else _CHANGE_SECONDS
        ):
            raise lost
        keyring.forget(known_id(machine_id))

    def _remove(self, machine_id: str) -> None:
        """Delete, resuming the VM first if the node refuses to delete a paused one."""
        try:
            self.client.delete(machine_id)
        except ProviderError as error:
            if error.http_status not in (400, 409, 500):
                raise
            if self.state(machine_id).state is not MachineState.PAUSED:
                raise
            self.resume(machine_id)
            self.client.delete(machine_id)

    def _gone(self, machine_id: str) -> bool:
        """Return whether the VM is neither known nor listed. A list alone may briefly miss a VM."""
        try:
            self.client.status(machine_id)
        except ProviderRefused as error:
            if error.http_status not in (403, 404):
                return False
            return known_id(machine_id) not in {vm.vm_id for vm in self.client.vms()}
        return False

    # -- read ------------------------------------------------------------------------------------

    def state(self, machine_id: str) -> Machine:
        """Return the current state. A VM whose boot failed no longer exists."""
        try:
            vm = self.client.status(machine_id)
        except ProviderRefused as error:
            if error.http_status == 409 and "sleeping" in str(error):
                return Machine(known_id(machine_id), MachineState.PAUSED)
            raise
        return _machine(vm, self.client.account().owner)

    def list(self) -> builtins.list[Machine]:
        """Return all VMs of the organisation."""
        owner = self.client.account().owner
        found = [_machine(vm, owner) for vm in self.client.vms()]
        keyring.sweep({machine.id for machine in found})
        return found

    def login(self, machine_id: str, *, fresh: bool = False) -> Login:
        """Return parameters for SSH inside TLS at the VM's own name.

        Raise ProviderRefused if paused.
        """
        vm_id = known_id(machine_id)
        name = self.address(vm_id)
        key = None if fresh else keyring.key_of(vm_id)
        if key is None:
            key = self._fetch_key(vm_id)
            keyring.keep_key(vm_id, key)
        try:
            return Login(
                host=config.text("REEF_SSH_GATEWAY") or name,
                port=config.integer("REEF_SSH_PORT") or 443,
                user=config.text("REEF_SSH_USER") or "root",
                private_key=key,
                tls_name=name,
                host_key=keyring.host_key_of(vm_id),
                trust=config.text("REEF_SSH_CA_FILE") or None,
                keep=partial(keyring.keep_host_key, vm_id),
            )
        except ReefError as error:
            raise ProviderRefused(str(error)) from None

    def _fetch_key(self, vm_id: str) -> str:
        try:
            return self.client.ssh_key(vm_id).private_key
        except ProviderUnavailable as error:
            # A 500 does not tell the cause; only a booting VM will have a key later.
            state = self.state(vm_id).state if error.http_status == 500 else None
            if state is MachineState.PAUSED:
                raise ProviderRefused(f"{vm_id} is paused: resume it to reach it") from None
            if state is MachineState.STOPPED:
                raise ProviderRefused(f"{vm_id} is dead") from None
            raise

    def address(self, machine_id: str) -> str:
        """Return the VM's public name."""
        try:
            domain = config.text("REEF_SSH_DOMAIN") or "vm.vers.sh"
        except ReefError as error:
            raise ProviderRefused(str(error)) from None
        return f"{known_id(machine_id)}.{domain.strip('.')}"

    def check(self) -> KeyVerdict:
        """Ask the platform to validate our key."""
        try:
            verdict = self.client.validate()
        except ProviderRefused as error:
            return KeyVerdict(False, str(error))
        return KeyVerdict(verdict.valid, verdict.message or ("good" if verdict.valid else "bad"))


def _labels(spec: Spec) -> dict[str, str]:
    return {**spec.labels, NAME_LABEL: spec.name}


def _config(spec: Spec, labels: dict[str, str]) -> dict[str, object]:
    return {
        "image_name": spec.image,
        "kernel_name": spec.kernel,
        "vcpu_count": spec.vcpus,
        "mem_size_mib": spec.memory_mib,
        "fs_size_mib": spec.disk_mib,
        "labels": labels,
    }


def _machine(vm: parsing.VM, owner: str) -> Machine:
    labels = dict(vm.labels or {})
    return Machine(
        id=vm.vm_id,
        state=_STATES.get(vm.state, MachineState.UNKNOWN),
        created_at=vm.created_at,
        name=labels.get(NAME_LABEL, ""),
        labels=labels,
        mine=vm.owner_id in ("", owner),
    )


def _wait_for(condition: Callable[[], bool], within: float = _CHANGE_SECONDS) -> bool:
    """Poll the condition; return whether it becomes true in time."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def check_key(node: Node | None) -> KeyVerdict:
    """Test VERS_API_KEY as resolved for this node. Raise ProviderUnavailable."""
    return Vers(Client(node)).check()


PROVIDER = Vers()
