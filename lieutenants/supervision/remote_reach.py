"""Reaching the machine of a remote lieutenant, in recorded steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from bootloader.inventory import machines
from bootloader.inventory.vm_handler import ProviderHandler
from bootloader.providers.base import MachineState
from lieutenants.exceptions import NotConnected, NotNow
from lieutenants.models import Process
from lieutenants.states import Status
from lieutenants.supervision import machine_locks
from lieutenants.supervision.starts import renew_start
from lieutenants.supervision.transports.ssh.session import RelaySession
from lieutenants.supervision.transports.ssh.transport import SshTransport, links
from reef_site.common import events
from reef_site.common.text import clip_words

# A VM that was paused needs a moment until its SSH answers.
WAKE_SECONDS = 25.0
# Another worker may be pausing the VM.
PAUSING_SECONDS = 30.0
# Each step renews the time limit of a start, until it took this long in all.
MAX_START = timedelta(minutes=10)
_RETRY_SECONDS = 0.5


class Steps:
    """The steps of one start, kept in the row of its process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._began = timezone.now()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Record a step with its time, and its problem if it fails.

        Raises NotNow if the start was given up, or took too long in all.
        """
        began = time.monotonic()
        entry: dict[str, Any] = {"name": name, "at": timezone.now().isoformat()}
        self._process.steps = [*self._process.steps, entry]
        self._save()
        try:
            self._renew()
            yield entry
        except Exception as error:
            entry["problem"] = clip_words(str(error), 500)
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 3)
            self._save()

    def _renew(self) -> None:
        if self._process.is_frozen:
            return
        if timezone.now() - self._began > MAX_START:
            minutes = MAX_START.total_seconds() / 60
            raise NotNow(f"its start took longer than {minutes:g} minutes")
        if not renew_start(self._process):
            raise NotNow("its start was given up meanwhile")

    def _save(self) -> None:
        Process.objects.held_by(self._process).update(steps=self._process.steps)
        events.publish_lieutenant(self._process.lieutenant_id)


def reach(transport: SshTransport, steps: Steps) -> RelaySession:
    """Wake the machine and connect. Raises ReefError, NotConnected."""
    with steps.step("vm") as entry:
        was_paused = bool(transport.place.vm_id) and wake(transport)
        if was_paused:
            entry["note"] = "it was paused, and wakes up"
    with steps.step("ssh") as entry:
        known = transport.link.session
        session = _connect(transport, WAKE_SECONDS if was_paused else 0.0)
        entry["note"] = (
            "the connection was open"
            if session is known
            else (f"login {session.login_seconds:.2f} s, relay {session.relay_seconds:.2f} s")
        )
    with steps.step("identity") as entry:
        facts = session.facts
        name = facts.get("vm_id") or facts.get("hostname")
        entry["note"] = f"{name}, Python {facts.get('version')}, user id {facts.get('uid')}"
    return session


def wake(transport: SshTransport) -> bool:
    """Resume a paused VM of a provider; return whether it was paused. Raises ReefError."""
    machine = transport.place.machine()
    _await_pause(machine.vm_id)
    seen = machines.refresh(machine)
    if seen is None or seen.state is not MachineState.PAUSED:
        return False
    # If those that wait there do not go on, the VM is to be paused again.
    Process.objects.frozen_on(machine.vm_id).update(vm_paused_at=None)
    ProviderHandler().resume(machine.vm_id, "reef")
    # A connection from before may hang.
    links.drop(transport.place)
    return True


def _await_pause(vm_id: str) -> None:
    """Wait while another worker pauses the VM, so that it is not paused after it was woken."""
    pausing = Process.objects.frozen_on(vm_id).filter(
        lieutenant__status=Status.PAUSED, vm_paused_at__isnull=True
    )
    with transaction.atomic():
        # Whoever is about to pause it has seen that somebody begins here, or has left the mark.
        machine_locks.lock(vm_id)
    end = time.monotonic() + PAUSING_SECONDS
    while pausing.exists() and time.monotonic() < end:
        time.sleep(_RETRY_SECONDS)


def _connect(transport: SshTransport, patience: float) -> RelaySession:
    end = time.monotonic() + patience
    while True:
        try:
            return transport.link.wait_until_open(force=True)
        except NotConnected:
            if time.monotonic() >= end:
                raise
            time.sleep(_RETRY_SECONDS)
