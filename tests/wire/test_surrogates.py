"""Lone surrogates in a request never cause a server error."""

from __future__ import annotations

from typing import Any

import pytest

from bootloader.models.joining import BootReport
from reef_site.common.json_format import dumps
from tests.bootloader.join_clients import BearerClient, issue_join_token
from tests.conftest import Api
from tests.wire.api_client import LIEUTENANTS, create_row
from vmtree import services
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db
BAD = "\ud800"

REQUESTS: list[tuple[str, str, Any, str]] = [
    ("post", "/vm-tree/vms", {"name": "x", "category": BAD}, "category"),
    ("patch", "/vm-tree/vms/one", {"category": BAD}, "category"),
    ("post", "/registry/heartbeats", {"beats": [{"id": BAD}]}, "beats[0].id"),
    ("post", "/vm-tree/vms/one/pause", {BAD: 1}, "a name in the body"),
    ("post", "/bootloader/provision", {BAD: 1}, "a name in the body"),
    ("post", "/registry/rules", {BAD: 1}, "a name in the body"),
    ("post", LIEUTENANTS, {"name": "x", "role": BAD}, "role"),
    ("post", f"{LIEUTENANTS}/ada/send", {"message": BAD}, "message"),
    ("put", "/vers-config/REEF_VM_LABELS", {"value": BAD}, "value"),
    ("post", "/registry/vms", {"metadata": {"deep": [{"er": BAD}]}}, "metadata.deep[0].er"),
    ("post", "/vm-tree/vms", [BAD], "body[0]"),
]


@pytest.mark.parametrize(("method", "path", "body", "place"), REQUESTS)
def test_lone_surrogate_is_rejected_with_its_path(
    api: Api, method: str, path: str, body: Any, place: str
) -> None:
    create_row("ada")
    services.create(NewNode("one", "agent_vm", "one"), by="tests")
    call = getattr(api.client, method)
    answer = call(path, body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"] == f"{place}: has characters that are no text"


def test_surrogate_pair_is_accepted(api: Api) -> None:
    made = api.client.post(
        "/vm-tree/vms",
        b'{"name": "\\ud83d\\ude00", "category": "agent_vm"}',
        content_type="application/json",
    )
    assert (made.status_code, made.json()["name"]) == (201, "\U0001f600")


def test_lone_surrogate_in_program_output_is_replaced() -> None:
    BearerClient(issue_join_token()).report(output=f"half {BAD} a pair")
    assert BootReport.objects.get().output == "half ? a pair"


def test_lone_surrogate_in_a_response_is_replaced() -> None:
    data = {f"key{BAD}": [BAD, {"deep": f"x{BAD}"}], "pair": "\U0001f600"}
    assert dumps(data).decode() == '{"key?":["?",{"deep":"x?"}],"pair":"\U0001f600"}'
