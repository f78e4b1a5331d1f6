"""The registry in the admin: looked at, filtered by liveness, changed by nobody."""

from __future__ import annotations

import pytest
from django.test import Client

from reef_site.auth import make_operator
from tests.registry.conftest import Register, age


@pytest.fixture
def operator(register: Register) -> Client:
    for vm_id in ("vm-live", "vm-late", "vm-silent"):
        register(vm_id)
    age("vm-late", minutes=3)
    age("vm-silent", minutes=9)
    client = Client()
    client.force_login(make_operator())
    return client


@pytest.mark.parametrize("word", ["live", "late", "silent"])
def test_vms_are_filtered_by_liveness(operator: Client, word: str) -> None:
    page = operator.get(f"/admin/registry/vm/?liveness={word}").content.decode()
    for other in ("live", "late", "silent"):
        assert (f">vm-{other}<" in page) == (other == word)


def test_facts_are_only_looked_at(operator: Client) -> None:
    for path in ("vm/", "vm/?q=late", "vm/vm-late/change/", "gap/", "watch/"):
        assert operator.get(f"/admin/registry/{path}").status_code == 200
    for path in ("vm/add/", "vm/vm-late/delete/"):
        assert operator.get(f"/admin/registry/{path}").status_code == 403
