"""The admin of jobs: plans that ask, lists that stay quick; lists of rules as well."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from reef_site.common import clock
from registry.models import VM
from registry.rules.models import Firing, Rule
from tests.fleets import Pump, grow, plant
from tests.lieutenants.rows import page
from vmtree.models import Node
from vmtree.operations import services
from vmtree.operations.admin import add_node_actions, topmost_vms
from vmtree.operations.models import Job, Operation

pytestmark = pytest.mark.django_db

JOBS = "/admin/operations/job/"
RULES = "/admin/rules/rule/"
NODES = "/admin/vmtree/node/"
LISTS = ("operations/job", "operations/step", "rules/rule", "rules/firing")


def hidden(html: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(vm|count)" value="([^"]*)"', html):
        found.setdefault(name, []).append(value)
    return found


def messages(answer: Any) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]


@pytest.mark.django_db(transaction=True)
def test_plan_page_shows_the_plan_and_starts_it(operator: Client, pump: Pump) -> None:
    grow()
    VM.objects.filter(pk="leaf").update(status="paused", late_after=None, silent_after=None)
    html = page(operator, f"{JOBS}plan/pause/?vm=left&vm=leaf&vm=right")
    assert "leaves first" in html
    assert "nothing: is paused already" in html
    assert hidden(html) == {"vm": ["left", "right"], "count": ["2", "1"]}
    assert not Job.objects.exists()
    answer = operator.post(f"{JOBS}plan/pause/", hidden(html))
    assert answer.status_code == 302
    assert [text.split(": ")[0] for text in messages(answer)] == ["pause left", "pause right"]
    pump.work()
    assert set(Job.objects.values_list("state", "actor")) == {("done", "admin")}
    assert not VM.objects.filter(status="running").exclude(pk="root").exists()


def test_changed_plan_is_not_started(operator: Client, pump: Pump) -> None:
    grow()
    form = hidden(page(operator, f"{JOBS}plan/destroy/?vm=left"))
    plant("new", "left")
    answer = operator.post(f"{JOBS}plan/destroy/", form)
    assert messages(answer) == ["left: confirm: 4 VMs would be touched, not 3"]
    assert not Job.objects.exists()


def test_names_are_escaped_and_unknown_operations_are_a_404(operator: Client) -> None:
    plant("<script>")
    assert "<script>&" not in page(operator, f"{JOBS}plan/destroy/?vm=%3Cscript%3E")
    assert "&lt;script&gt;" in page(operator, f"{JOBS}plan/destroy/?vm=%3Cscript%3E")
    assert "Nothing to do" in page(operator, f"{JOBS}plan/destroy/?vm=nobody")
    page(operator, f"{JOBS}plan/explode/?vm=a", 404)
    page(operator, f"{RULES}999/dry-run/", 404)


def test_read_only_user_cannot_start_jobs(client: Client) -> None:
    looker = User.objects.create_user("looker", is_staff=True)
    names = ["view_job", "view_step", "view_rule", "view_firing", "view_node"]
    looker.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(looker)
    plant("a")
    assert client.get(f"{JOBS}plan/destroy/?vm=a").status_code == 403
    assert client.post(f"{JOBS}plan/destroy/", {"vm": "a", "count": "1"}).status_code == 403
    assert "Cancel selected" not in page(client, JOBS)
    assert "with everything below" not in page(client, NODES)
    assert not Job.objects.exists()
    rule = Rule.objects.create(name="r", event="vm-silent", action="note")
    page(client, f"{RULES}{rule.pk}/dry-run/")
    assert client.post(f"{RULES}{rule.pk}/change/", {"name": "x"}).status_code == 403


def test_jobs_can_be_cancelled_and_retried(operator: Client, pump: Pump) -> None:
    grow()
    job, _ = services.start(Operation.PAUSE, "root", by="tests")
    form = {"action": "cancel", "_selected_action": [job.pk]}
    assert messages(operator.post(JOBS, form)) == ["pause root: cancelled"]
    operator.get("/admin/")
    answer = operator.post(JOBS, {**form, "action": "retry"})
    assert messages(answer) == ["pause root: continued"]
    assert Job.objects.get().state == "open"


def test_node_admin_offers_the_operations(operator: Client) -> None:
    site = admin.AdminSite(name="admin")
    site.register(Node)
    add_node_actions(site)
    actions = site.get_model_admin(Node).actions or ()
    names = [action.__name__ for action in actions if callable(action)]
    assert names == ["pause_subtree", "resume_subtree", "destroy_subtree"]
    grow()
    assert topmost_vms(["leaf", "left", "right", "nobody"]) == ["left", "right", "nobody"]


def test_plan_page_uses_the_selected_nodes(operator: Client) -> None:
    grow()
    chosen = list(Node.objects.filter(vm_id__in=["left", "leaf"]).values_list("pk", flat=True))
    for verb in ("pause", "resume", "destroy"):
        assert f'value="{verb}_subtree"' in page(operator, NODES)
        form = {"action": f"{verb}_subtree", "_selected_action": chosen}
        answer = operator.post(NODES, form, follow=True)
        assert answer.redirect_chain[0][0].startswith(f"{JOBS}plan/{verb}/?vm=")
        assert "<h2>left</h2>" in answer.content.decode()
    assert not Job.objects.exists()


def test_vm_page_links_to_its_plans(operator: Client, client: Client) -> None:
    grow()
    node = Node.objects.get(vm_id="left")
    html = page(operator, f"/fleet/{node.pk}/")
    for verb in ("pause", "resume", "destroy"):
        assert f'href="{JOBS}plan/{verb}/?vm=left"' in html
    client.force_login(User.objects.create_user("looker"))
    assert "This VM and everything below it" not in page(client, f"/fleet/{node.pk}/")


@pytest.mark.django_db(transaction=True)
def test_jobs_and_steps_can_be_filtered_and_searched(operator: Client, pump: Pump) -> None:
    grow()
    job, _ = services.start(Operation.PAUSE, "left", by="tests")
    pump.work()
    services.start(Operation.DESTROY, "right", by="somebody")
    words = "?q=left&state__exact=done&verb__exact=pause"
    assert job.pk in page(operator, f"{JOBS}{words}")
    assert job.pk not in page(operator, f"{JOBS}?q=somebody")
    steps = "/admin/operations/step/"
    assert "mark it paused" in page(operator, f"{steps}?q=leaf&state__exact=done")
    assert "mark it paused" not in page(operator, f"{steps}?q={job.pk}&state__exact=failed")


@pytest.mark.parametrize("name", LISTS)
def test_lists_use_a_constant_number_of_queries(operator: Client, pump: Pump, name: str) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as seen:
            page(operator, f"/admin/{name}/?q=a")
            page(operator, f"/admin/{name}/")
        return len(seen)

    def fill(start: int, end: int) -> None:
        for number in range(start, end):
            vm_id = f"a{number}"
            plant(vm_id)
            services.start(Operation.PAUSE, vm_id, by="tests")
            rule = Rule.objects.create(name=vm_id, event="vm-silent", action="note")
            facts = {"rule_name": vm_id, "event": "vm-silent", "action": "note"}
            Firing.objects.create(rule=rule, subject=vm_id, cause_at=clock.now(), **facts)

    fill(0, 2)
    few = statements()
    fill(2, 30)
    assert statements() == few
