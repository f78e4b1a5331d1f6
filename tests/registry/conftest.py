"""Fixtures of the registry's tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from reef_site.common import clock
from registry import heartbeats, liveness
from registry.models import VM
from tests.conftest import Api

Register = Callable[..., dict[str, Any]]


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ]
)
def database(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases."""
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    return str(request.param)


@pytest.fixture(autouse=True)
def _reset_fleet_size() -> None:
    heartbeats.fleet.forget()


@pytest.fixture
def register(api: Api, database: str) -> Register:
    """Return a function that registers a VM through the API and returns its JSON."""

    def register(vm_id: str, **fields: object) -> dict[str, Any]:
        body = {
            "id": vm_id,
            "name": vm_id,
            "role": "worker",
            "address": f"{vm_id}.example",
            "registeredBy": "tests",
            **fields,
        }
        answer = api.post("/registry/vms", body)
        assert answer.status_code == 201, answer.content
        found: dict[str, Any] = answer.json()
        return found

    return register


def age(vm_id: str, **ago: float) -> None:
    """Set the time of a VM's last heartbeat to this long ago."""
    vm = VM.objects.get(pk=vm_id)
    seen = clock.now() - timedelta(**ago)
    late, silent = liveness.deadlines(seen, vm.interval_ms)
    running = vm.status == "running"
    VM.objects.filter(pk=vm_id).update(
        last_seen=seen,
        late_after=late if running else None,
        silent_after=silent if running else None,
    )
