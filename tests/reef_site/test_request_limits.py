"""Rate limits of tokens, ETags and compression of the API."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from django.test import Client

from reef_site.accounts import request_counts
from reef_site.accounts.models import RequestCount
from reef_site.accounts.signin_links import make_operator
from tests.conftest import Api
from tests.vmtree.conftest import NodeApi
from vmtree import services, tokens
from vmtree.services import NewNode

pytestmark = pytest.mark.django_db

VMS = "/vm-tree/vms"


@pytest.fixture(autouse=True)
def fresh_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test in the middle of a window without counts."""
    request_counts.forget()
    monkeypatch.setattr("reef_site.accounts.request_counts.time.time", lambda: 6_000_030.0)


@pytest.fixture
def ada() -> NodeApi:
    node = services.create(NewNode("ada", "agent_vm", "ada"), by="tests")
    return NodeApi(tokens.issue(node, made_by="tests"))


# -- rates -----------------------------------------------------------------------------------------


def test_a_token_beyond_its_limit_has_to_wait(
    ada: NodeApi, api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RATE_LIMIT = 3
    assert [ada.get(VMS).status_code for _ in range(5)] == [200] * 3 + [429] * 2

    refused = ada.get(VMS)
    assert refused["Retry-After"] == "30"
    assert refused.json() == {"error": "too many requests with this token; try again in 30 s"}
    assert api.get(VMS).status_code == 200, "other tokens have limits of their own"
    assert ada.post("/registry/vms/ada/heartbeat").status_code == 404, "heartbeats have none"
    monkeypatch.setattr("reef_site.accounts.request_counts.time.time", lambda: 6_000_061.0)
    assert ada.get(VMS).status_code == 200


def test_refused_requests_are_counted(ada: NodeApi, settings: Any) -> None:
    settings.RATE_LIMIT = 3

    statuses = [ada.post("/events/subscribers", {}).status_code for _ in range(5)]

    assert statuses == [403] * 3 + [429] * 2


def test_allowed_requests_are_counted_once(ada: NodeApi, settings: Any) -> None:
    settings.RATE_LIMIT = 4
    path = "/tools/reef_wait"

    statuses = [ada.post(path, {}).status_code for _ in range(2)]
    statuses += [ada.get(VMS).status_code for _ in range(3)]

    assert statuses == [200] * 4 + [429]


def test_web_processes_share_their_counts(ada: NodeApi, settings: Any) -> None:
    settings.RATE_LIMIT = 40
    for _ in range(20):
        ada.get(VMS)
    assert RequestCount.objects.get().count == 20

    # Another process knows only the shared row, and adds its own requests in steps of two.
    request_counts.forget()
    statuses = [ada.get(VMS).status_code for _ in range(30)]
    assert 18 <= statuses.count(200) <= 22
    assert RequestCount.objects.get().count <= 42


def test_few_requests_write_no_counts(ada: NodeApi) -> None:
    for _ in range(20):
        ada.get(VMS)
    assert not RequestCount.objects.exists()


def test_zero_and_sessions_have_no_limit(ada: NodeApi, api: Api, settings: Any) -> None:
    settings.RATE_LIMIT, settings.ROOT_RATE_LIMIT = 0, 2
    person = Client()
    person.force_login(make_operator())

    assert {ada.get(VMS).status_code for _ in range(10)} == {200}
    assert {person.get(VMS).status_code for _ in range(10)} == {200}
    assert [api.get(VMS).status_code for _ in range(3)] == [200, 200, 429]


def test_old_counts_are_deleted(ada: NodeApi, settings: Any) -> None:
    settings.RATE_LIMIT = 20
    ada.get(VMS)
    RequestCount.objects.create(key="old", window=5, count=1)

    request_counts.forget_old()

    assert [row.key for row in RequestCount.objects.all()] != ["old"]
    assert RequestCount.objects.count() == 1


# -- ETags and compression -------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VMS, "/vm-tree/tree", "/lieutenant/lieutenants"])
def test_an_unchanged_response_is_a_304(ada: NodeApi, path: str) -> None:
    etag = ada.get(path)["ETag"]
    same = ada.client.get(path, headers={"if-none-match": etag})
    assert (same.status_code, same.content, same["ETag"]) == (304, b"", etag)

    services.create(NewNode("bob", "agent_vm", "bob"), by="tests")
    changed = ada.client.get(path, headers={"if-none-match": etag})
    assert changed.status_code == (304 if "lieutenant" in path else 200)


def test_large_responses_to_tokens_are_compressed(ada: NodeApi) -> None:
    for number in range(40):
        services.create(NewNode(f"n{number}", "agent_vm", f"n{number}"), by="tests")
    plain = ada.get(VMS)
    assert "Content-Encoding" not in plain

    small = ada.client.get(VMS, headers={"accept-encoding": "br, gzip"})
    assert small["Content-Encoding"] == "gzip"
    assert small["Content-Length"] == str(len(small.content))
    assert len(small.content) < len(plain.content) / 3
    assert json.loads(gzip.decompress(small.content)) == plain.json()
    assert "Accept-Encoding" in small["Vary"]
    again = ada.client.get(VMS, headers={"accept-encoding": "gzip", "if-none-match": small["ETag"]})
    assert again.status_code == 304
    refused = ada.client.get(VMS, headers={"accept-encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused


def test_responses_of_the_api_to_sessions_are_not_compressed(ada: NodeApi) -> None:
    for number in range(40):
        services.create(NewNode(f"n{number}", "agent_vm", f"n{number}"), by="tests")
    person = Client(headers={"accept-encoding": "gzip"})
    person.force_login(make_operator())

    answer = person.get(VMS)
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer
    assert "ETag" not in person.get("/fleet/")
