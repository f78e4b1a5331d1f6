"""The emulator as a fixture: one for each test run, reset at the start of each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulator.handle import Emulator


@pytest.fixture(scope="session")
def emulator_of_the_run() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture
def emulator(emulator_of_the_run: Emulator) -> Iterator[Emulator]:
    """Provide a platform without VMs, and fail if a response did not match openapi.yaml."""
    emulator_of_the_run.reset()
    yield emulator_of_the_run
    problems = emulator_of_the_run.violations()
    emulator_of_the_run.reset()
    assert problems == []
