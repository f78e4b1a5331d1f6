"""Changes and boot reports that the edge writes make the rows and responses that Django makes."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as of_site

from bootloader.join import reports
from bootloader.join.reports import StepReport
from bootloader.models import BootReport
from reef_site.common.eventlog.models import Event
from registry import fast_writes
from registry.models import VM
from registry.write_routes import PlainWrite, write_routes
from tests.both_writes import (
    Case,
    check_passed_on,
    check_plain,
    parse,
    rows,
    send_django,
    send_fast,
    tried,
)
from tests.registry.conftest import Register
from vmtree import operator_tokens, tokens
from vmtree import services as tree
from vmtree.models import Node, OperatorToken, Revision, Trait
from vmtree.services import NewNode

DNA = {"organs": ["störe", "store"], "capabilities": ["ssh"]}


def vm(token: str, vm_id: str, body: Any) -> Case:
    return Case(token, "PATCH", f"/registry/vms/{vm_id}", body)


def node(token: str, vm_id: str, body: Any) -> Case:
    return Case(token, "PATCH", f"/vm-tree/vms/{vm_id}", body)


def report(token: str, **body: Any) -> Case:
    sent = {"run": "r1", "step": "packages", "status": "ok", **body}
    return Case(token, "POST", "/bootloader/report", sent)


PLAIN = {
    "a sign of life": vm("root", "low", {}),
    "a stopped VM": vm("root", "low", {"status": "stopped"}),
    "a paused VM": vm("mid", "low", {"status": "paused", "name": "n"}),
    "a running VM": vm("root", "low", {"status": "running", "name": "low"}),
    "a VM that wakes": vm("root", "asleep", {"status": "running"}),
    "a VM that stays asleep": vm("root", "asleep", {"address": "elsewhere"}),
    "a VM by itself": vm("mid", "mid", {"services": [{"a": 1.5}], "metadata": {"ä": [None]}}),
    "metadata of null": vm("root", "low", {"metadata": None}),
    "DNA of a VM": vm("root", "low/", {"reefConfig": DNA}),
    "a VM without a node": vm("root", "loose", {"status": "stopped"}),
    "a name of a node": node("root", "low", {"name": "ö"}),
    "nothing of a node": node("root", "low", {}),
    "the same of a node": node("root", "low", {"name": "low", "category": "agent_vm"}),
    "DNA of a node": node("mid", "mid", {"reefConfig": DNA}),
    "no DNA": node("mid", "dna", {"reefConfig": {}}),
    "a name beside DNA": node("root", "dna", {"name": "other"}),
    "all of a node": node("root", "mid", {"name": "a", "category": "swarm_vm", "reefConfig": DNA}),
    "a category below": node("mid", "low", {"category": "lieutenant"}),
    "its own category": node("mid", "mid", {"category": "agent_vm", "name": "m"}),
    "a step that begins": report("mid", step="a", status="started"),
    "a step that ended": report("mid", step="a", durationMs=1500, exitStatus=0),
    "a step that failed": report("mid", status="failed", exitStatus=-1, output=""),
    "a step that is skipped": report("mid", status="skipped", durationMs=None, output=None),
    "a step that begins late": report("mid", status="started", durationMs=7),
    "another run": report("top", run="r2"),
}
REFUSED = {
    "a VM": vm("reef_nonsense", "low", {}),
    "a node": node("reef_nonsense", "low", {"name": "x"}),
    "no token of ours": node("nonsense", "low", {"name": "x"}),
}
PASSED_ON = {
    "no such VM": vm("root", "nobody", {}),
    "another VM": vm("mid", "top", {}),
    "a VM that moves": vm("root", "low", {"parentVmId": "top"}),
    "an ignored field": vm("root", "low", {"role": "infra"}),
    "an unknown field": vm("root", "low", {"nam": "x"}),
    "no name": vm("root", "low", {"name": ""}),
    "a null": vm("root", "low", {"name": None}),
    "a name with blanks": vm("root", "low", {"name": " x "}),
    "an invisible name": vm("root", "low", {"name": "a\u200bb"}),
    "a wrong status": vm("root", "low", {"status": "dead"}),
    "a list as status": vm("root", "low", {"status": []}),
    "wrong services": vm("root", "low", {"services": {}}),
    "wrong DNA": vm("root", "low", {"reefConfig": {"organ": []}}),
    "null as DNA": vm("root", "low", {"reefConfig": None}),
    "a large number": vm("root", "low", {"metadata": 1e300}),
    "no body": vm("root", "low", b""),
    "no object": vm("root", "low", b"[]"),
    "no JSON": vm("root", "low", b"{x"),
    "an alias": vm("root", "local-ada", {}),
    "an operator token": vm("operator", "low", {}),
    "no such node": node("root", "nobody", {}),
    "a removed node": node("root", "gone", {"name": "x"}),
    "another node": node("mid", "top", {"name": "x"}),
    "a category of its own": node("mid", "mid", {"category": "lieutenant"}),
    "a node that moves": node("root", "low", {"parentVmId": "top"}),
    "a wrong category": node("root", "low", {"category": "vm"}),
    "null as a node's DNA": node("root", "low", {"reefConfig": None}),
    "a node without a name": node("root", "low", {"name": ""}),
    "an output": report("mid", output="all is well"),
    "a report of nobody": report("root"),
    "a join token": report("reefjoin_nonsense"),
    "a revoked token": report("reef_nonsense"),
    "a wrong step": report("mid", step="A"),
    "no status": report("mid", status=None),
    "a flag as duration": report("mid", durationMs=True),
    "an unknown fact": report("mid", vmId="mid"),
}


@pytest.fixture
def shown(register: Register) -> dict[str, str]:
    """Create top → mid → low, dna in both tables, and VMs without nodes; return tokens."""
    made = {}
    for vm_id, parent in (("top", ""), ("mid", "top"), ("low", "mid"), ("gone", "top")):
        made[vm_id] = tree.create(NewNode(vm_id, "agent_vm", vm_id, parent), by="tests")
        register(vm_id, **({"parentVmId": parent} if parent else {}))
    tree.create(NewNode("dna", "agent_vm", "dna", "mid", DNA), by="tests")
    tree.remove("gone", by="tests")
    register("loose")
    register("asleep", metadata={"a": 1})
    VM.objects.filter(pk="asleep").update(status="paused", late_after=None, silent_after=None)
    reports.record("mid", StepReport("r1", "packages", "ok", 10, 0, "done"))
    operator = operator_tokens.PREFIX + "x" * 43
    OperatorToken.objects.create(
        name="x", scope="everything", digest=tokens.digest_of(operator), made_by="tests"
    )
    issued = {name: tokens.issue(made[name], made_by="tests") for name in ("top", "mid")}
    return {"root": of_site.ROOT_TOKEN, "operator": operator, **issued}


def test_plain_requests_make_the_same_rows_and_responses(shown: dict[str, str]) -> None:
    check_plain(PLAIN, shown)


def test_all_others_are_passed_on_without_a_trace(shown: dict[str, str]) -> None:
    check_passed_on(PASSED_ON, shown)


def test_invalid_tokens_are_refused_alike(shown: dict[str, str]) -> None:
    before = rows()
    for name, case in REFUSED.items():
        fast = send_fast(case, shown)
        assert rows() == before, name
        assert fast
        assert fast == tried(lambda: send_django(case, shown))[0], name  # noqa: B023
        assert fast.status == 401, name


def test_each_registered_route_is_compared(shown: dict[str, str]) -> None:
    parsed = [parse(case, shown) for case in PLAIN.values()]
    compared = {each.route for each in parsed if isinstance(each, PlainWrite)}
    assert compared == set(write_routes)


def test_a_change_leaves_its_traces(shown: dict[str, str]) -> None:
    before = rows()
    _, after = tried(lambda: send_django(vm("root", "low", {"status": "stopped"}), shown))
    assert [each["kind"] for each in after["Event"][len(before["Event"]) :]] == ["vm.stopped"]
    requests = [
        parse(vm("mid", "low", {"status": "stopped"}), shown),
        parse(node("mid", "low", {"name": "new", "reefConfig": DNA}), shown),
        parse(report("mid", status="failed"), shown),
    ]
    published: list[set[str]] = []
    responses = fast_writes.write(published.append, requests)
    assert [each and each.status for each in responses] == [200, 200, 200]
    assert published == [{"low"}, {"low"}, {"mid"}]
    assert list(Event.objects.values_list("kind", "actor")[:2]) == [
        ("tree.changed", "node mid"),
        ("vm.stopped", "node mid"),
    ]
    assert Revision.objects.filter(node__vm_id="low").last() is not None
    assert Trait.objects.filter(node__vm_id="low").count() == 3
    assert BootReport.objects.get().status == "failed"


def test_changes_of_one_row_in_a_batch_are_left_to_django(shown: dict[str, str]) -> None:
    cases = [
        *(vm("root", "low", {"status": "stopped"}), vm("mid", "low", {"name": "x"})),
        *(vm("root", "mid", {"name": "x"}), node("root", "low", {"name": "x"})),
        *(node("root", "low", {"name": "y"}), node("root", "mid", {"name": "y"})),
        *(report("mid", status="failed"), report("mid"), report("mid", step="b")),
    ]
    responses = fast_writes.write(lambda _: None, [parse(case, shown) for case in cases])
    statuses = [each and each.status for each in responses]
    assert statuses == [None, None, 200, None, None, 200, None, None, 200]
    assert Node.objects.get(vm_id="low").name == "low"


def test_old_boot_reports_go_when_new_ones_come(
    shown: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 2)
    for step in ("a", "b", "c"):
        fast_writes.write(lambda _: None, [parse(report("mid", step=step), shown)])
    assert set(BootReport.objects.values_list("step", flat=True)) == {"b", "c"}
