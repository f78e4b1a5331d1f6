"""Adjust running provisionings when the wall clock is set."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F

from bootloader.models import BootStep, Provisioning
from bootloader.states import StepState


def rebase(jump: timedelta) -> None:
    """Shift start times, next checks and leases by the jump."""
    steps = BootStep.objects.filter(state=StepState.RUNNING)
    steps.update(started_at=F("started_at") + jump)
    active = Provisioning.objects.active()
    active.update(look_at=F("look_at") + jump, leased_until=F("leased_until") + jump)
