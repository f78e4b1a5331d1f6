"""The state of a remote lieutenant's machine, apart from that of its agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from lieutenants.machine_state import FRESH, Contact, MachineState
from lieutenants.models import Lieutenant

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Row:
    status: str = "working"
    in_reach: bool | None = True
    reach_since: datetime | None = LONG_AGO
    heard_at: datetime | None = None


def test_machine_answers_while_signs_of_life_are_fresh() -> None:
    heard = timezone.now() - timedelta(seconds=12)
    assert MachineState.of(Row(heard_at=heard)) == MachineState(Contact.ANSWERS, LONG_AGO, heard)


@pytest.mark.parametrize(
    "row",
    [
        Row(heard_at=None),
        # Its follower has died.
        Row(heard_at=timezone.now() - FRESH),
        # Its agent waits in a paused VM.
        Row(status="paused", heard_at=timezone.now()),
        Row(in_reach=None, heard_at=timezone.now()),
    ],
)
def test_state_is_unknown_while_nobody_follows(row: Row) -> None:
    assert MachineState.of(row) == MachineState(Contact.UNKNOWN, None, row.heard_at)


def test_machine_is_out_of_reach_however_fresh_the_last_sign_is() -> None:
    heard = timezone.now()
    found = MachineState.of(Row(in_reach=False, heard_at=heard))
    assert found == MachineState(Contact.UNREACHABLE, LONG_AGO, heard)


def test_local_lieutenant_has_no_machine_of_its_own() -> None:
    assert Lieutenant(transport="local", in_reach=True).machine is None
    assert Lieutenant(transport="ssh", in_reach=False).machine is not None
