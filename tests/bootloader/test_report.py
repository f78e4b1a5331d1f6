"""Reports of boot scripts: steps with times and ends, about the VM that the token belongs to."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings

from bootloader.join import reports
from bootloader.models import BootReport
from reef_site.common import clock
from tests.bootloader.join_clients import BearerClient, issue_join_token
from tests.conftest import Api

pytestmark = pytest.mark.django_db


def rows() -> list[tuple[str, str, str]]:
    return list(BootReport.objects.order_by("id").values_list("vm_id", "step", "status"))


def test_reports_of_a_step_are_merged_into_one_row() -> None:
    client = BearerClient(issue_join_token())

    client.report(step="packages", status="started")
    answer = client.report(
        step="packages", status="failed", durationMs=1500, exitStatus=100, output="E: no space\n"
    )

    assert (answer.status_code, answer.json()) == (
        200,
        {"vmId": "vm-1", "run": "r1", "step": "packages", "status": "failed"},
    )
    row = BootReport.objects.get()
    assert (row.status, row.duration_ms, row.exit_status) == ("failed", 1500, 100)
    assert row.output == "E: no space\n"


def test_repeated_report_is_one_row_and_late_start_changes_nothing() -> None:
    client = BearerClient(issue_join_token())
    client.report(durationMs=10)
    client.report(durationMs=10)
    client.report(status="started")

    row = BootReport.objects.get()
    assert (row.status, row.duration_ms) == ("ok", 10)


def test_node_token_and_recent_join_token_may_report() -> None:
    token = issue_join_token()
    own = BearerClient(token).join().json()["token"]

    assert BearerClient(own).report(step="service").status_code == 200
    assert BearerClient(token).report(step="join").status_code == 200
    assert rows() == [("vm-1", "service", "ok"), ("vm-1", "join", "ok")]


def test_node_reports_only_about_itself() -> None:
    own = BearerClient(issue_join_token()).join().json()["token"]

    refused = BearerClient(own).report(vmId="vm-2")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("vmId: not known; ")

    BearerClient(own).report()
    assert rows() == [("vm-1", "dns", "ok")]


def test_caller_without_vm_cannot_report() -> None:
    answer = BearerClient(settings.ROOT_TOKEN).report()

    assert answer.status_code == 403
    assert "needs the token of the VM" in answer.json()["error"]
    assert BearerClient(None).report().status_code == 401
    assert not BootReport.objects.exists()


def test_end_of_a_long_output_is_kept() -> None:
    BearerClient(issue_join_token()).report(output="ä" * 20_000 + "the end")

    output = BootReport.objects.get().output
    assert output.endswith("the end")
    assert len(output.encode()) <= reports.MAX_OUTPUT


def test_stored_secrets_are_masked_also_in_base64(api: Api) -> None:
    key = "sk-ant-test-0123456789abcdef"
    url = "/vers-config/ANTHROPIC_API_KEY"
    api.client.put(url, {"value": key}, content_type="application/json")
    coded = base64.b64encode(f"K={key}\n".encode()).decode()
    output = reports.masked_tail("vm-1", f"{key} {coded}")
    assert output.startswith("[ANTHROPIC_API_KEY] ")
    assert output.count("[ANTHROPIC_API_KEY]") == 2


def test_tokens_are_not_stored() -> None:
    token = issue_join_token()
    own = BearerClient(token).join().json()["token"]

    BearerClient(own).report(
        output=f"+ curl -H 'Authorization: Bearer {own}'\nthen {token}\n\0\ud800"
    )

    output = BootReport.objects.get().output
    assert own not in output
    assert token not in output
    assert output.count("(secret)") == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"status": "done"}, "status: must be one of started, ok, failed, skipped"),
        ({"run": ""}, "run is required"),
        ({"run": "a b"}, "run: has characters"),
        ({"step": "../x"}, "step: has characters"),
        ({"step": 5}, "step: has characters"),
        ({"durationMs": -1}, "durationMs: must be"),
        ({"durationMs": 1.5}, "durationMs: must be"),
        ({"exitStatus": True}, "exitStatus: must be"),
        ({"exitStatus": 1 << 31}, f"exitStatus: must be a whole number from {-1 << 31} to "),
        ({"exitStatus": (-1 << 31) - 1}, "exitStatus: must be"),
        ({"output": ["x"]}, "output: must be a string"),
    ],
)
def test_invalid_values_are_rejected_with_their_field(body: dict[str, Any], error: str) -> None:
    answer = BearerClient(issue_join_token()).report(**body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


@pytest.mark.parametrize("status", [(1 << 31) - 1, -1 << 31])
def test_every_exit_status_of_32_bits_is_stored(api: Api, status: int) -> None:
    client = BearerClient(issue_join_token())
    assert client.report(status="failed", exitStatus=status).status_code == 200

    [report] = api.get("/bootloader/reports/vm-1").json()["reports"]
    assert report["exitStatus"] == status


def test_latest_boot_is_returned_in_order(api: Api) -> None:
    client = BearerClient(issue_join_token())
    client.report(run="first", step="dns")
    BootReport.objects.update(began_at=clock.now() - timedelta(hours=1))
    for step in ("dns", "identity", "packages"):
        client.report(run="second", step=step)

    said = api.get("/bootloader/reports/vm-1").json()
    assert [each["step"] for each in said["reports"]] == ["dns", "identity", "packages"]
    assert said["reports"][0].keys() >= {"vmId", "run", "durationMs", "exitStatus", "beganAt"}
    older = api.get("/bootloader/reports/vm-1?run=first").json()
    assert older["count"] == 1


def test_number_of_reports_of_a_vm_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 5)
    client = BearerClient(issue_join_token())
    for number in range(12):
        client.report(run=f"r{number}")

    assert BootReport.objects.count() == 5
    assert BootReport.objects.filter(run="r11").exists()


def test_reports_of_vms_that_never_joined_are_deleted_after_a_month() -> None:
    BearerClient(issue_join_token("gone")).report()
    joined = BearerClient(issue_join_token("here")).join().json()["token"]
    BearerClient(joined).report()
    BootReport.objects.update(at=clock.now() - timedelta(days=settings.BOOT_DAYS + 1))

    reports.sweep()

    assert rows() == [("here", "dns", "ok")]
