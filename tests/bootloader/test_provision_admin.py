"""The admin shows all rows of provisioning, and asks services for what is done about them."""

from __future__ import annotations

import pytest
from django.test import Client

from bootloader.models import BootStep, Finding, LogLine, Machine, Provisioning
from bootloader.states import State, StepState
from reef_site.accounts.signin_links import make_operator
from tests.dispatching import drop_tasks

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    drop_tasks(monkeypatch, "bootloader.")


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(make_operator())
    return client


@pytest.fixture
def failed() -> Provisioning:
    machine = Machine.objects.create(provider="vers", machine_id="m", vm_id="m")
    row = Provisioning.objects.create(
        name="one", profile="full", provider="vers", actor="t", machine=machine, vm_id="m"
    )
    BootStep.objects.create(provisioning=row, position=2, name="ssh", state=StepState.FAILED)
    row.move(State.RUNNING)
    row.move(State.FAILED, "nobody answers")
    return row


def test_every_admin_page_renders(admin: Client, failed: Provisioning) -> None:
    finding = Finding.objects.create(
        kind="unknown", provider="vers", machine_id="m", text="t", proposal="adopt"
    )
    line = LogLine.objects.filter(provisioning=failed).first()
    assert line
    for name, key in (
        *(("provisioning", failed.pk), ("machine", failed.machine_id), ("finding", finding.pk)),
        *(("bootstep", failed.steps.get().pk), ("logline", line.pk)),
    ):
        for path in (f"/admin/bootloader/{name}/", f"/admin/bootloader/{name}/{key}/change/"):
            assert admin.get(path).status_code == 200, path


@pytest.mark.parametrize(
    ("action", "state"),
    [("retry", "queued"), ("cancel_keep", "cancelling"), ("cancel_delete", "cancelling")],
)
def test_admin_actions_change_provisionings(
    admin: Client, failed: Provisioning, action: str, state: str
) -> None:
    said = {"action": action, "_selected_action": [failed.pk]}
    answer = admin.post("/admin/bootloader/provisioning/", said, follow=True)
    failed.refresh_from_db()
    assert answer.status_code == 200
    assert failed.state == state


def test_node_admin_links_to_the_form(admin: Client) -> None:
    from vmtree import services as tree

    node = tree.create(tree.NewNode("ada", "agent_vm", "ada"), by="tests")
    said = {"action": "provision_below", "_selected_action": [node.pk]}
    answer = admin.post("/admin/vmtree/node/", said, follow=True)
    assert b'value="ada"' in answer.content
