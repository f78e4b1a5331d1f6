"""Takers of hosts at the same time, on PostgreSQL: there they really run side by side."""

from __future__ import annotations

import threading

import pytest
from django.db import connections

from bootloader import providers
from bootloader.exceptions import NoHostFree
from bootloader.models import HostClaim, SshHost
from bootloader.providers.base import Spec

pytestmark = pytest.mark.postgres
ROUNDS = 20
TAKERS = 8


def test_many_takers_never_get_the_same_host(postgres: object) -> None:
    ssh = providers.get("ssh")
    for number in range(TAKERS // 2):
        SshHost(name=f"h{number}", address=f"h{number}.invalid").save()
    for _ in range(ROUNDS):
        start = threading.Barrier(TAKERS)
        got: list[str] = []
        refused: list[NoHostFree] = []

        def take(
            number: int,
            start: threading.Barrier = start,
            got: list[str] = got,
            refused: list[NoHostFree] = refused,
        ) -> None:
            start.wait(10)
            try:
                got.append(ssh.create(Spec(name=f"m{number}")).id)
            except NoHostFree as error:
                refused.append(error)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=take, args=(number,)) for number in range(TAKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        held = HostClaim.objects.active().values_list("host_id", flat=True)
        assert (len(set(got)), len(refused)) == (TAKERS // 2, TAKERS // 2)
        assert len(set(held)) == len(held) == TAKERS // 2
        for machine_id in got:
            ssh.delete(machine_id)
