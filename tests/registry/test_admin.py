"""The registry in the admin: looked at, filtered by liveness, changed by nobody."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from reef_site.accounts.signin_links import make_operator
from tests.conftest import Api
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


def test_stopped_vm_is_not_shown_as_live(operator: Client, api: Api, register: Register) -> None:
    register("vm-gone")
    api.post("/registry/vms/vm-gone/heartbeat", {"status": "stopped"})

    page = operator.get("/admin/registry/vm/?q=vm-gone").content.decode()
    assert 'class="field-liveness_now"' in page
    cell = page.partition('class="field-liveness_now"')[2].partition("</td>")[0]
    assert cell.endswith(">stopped")
    assert ">vm-gone<" not in operator.get("/admin/registry/vm/?liveness=live").content.decode()
    panel = api.get("/registry/_panel").content.decode()
    assert re.search(
        r"<td>vm-gone</td>\s*<td>worker</td>\s*<td>stopped</td>\s*<td>stopped</td>", panel
    )
    # In the API, `live` means that no heartbeat is overdue.
    vm = api.get("/registry/vms/vm-gone").json()
    assert (vm["status"], vm["liveness"]) == ("stopped", "live")


def test_admin_of_the_registry_is_read_only(operator: Client) -> None:
    for path in ("vm/", "vm/?q=late", "vm/vm-late/change/", "gap/", "watch/"):
        assert operator.get(f"/admin/registry/{path}").status_code == 200
    for path in ("vm/add/", "vm/vm-late/delete/"):
        assert operator.get(f"/admin/registry/{path}").status_code == 403
