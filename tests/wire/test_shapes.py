"""Accepted and rejected requests, error texts, and shapes of responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings

from lieutenants.models import Lieutenant, Message
from lieutenants.states import Status
from tests.conftest import Api
from tests.wire.api_client import DATE, LIEUTENANTS, ULID, create_row, send


@pytest.mark.django_db
def test_keys_are_absent_when_unset(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    plain = api.post(LIEUTENANTS, {"name": "plain", "role": "r", "local": True}).json()
    settings.AGENT_NAME = "parent"
    full = api.post(
        LIEUTENANTS,
        {"name": "full", "role": "r", "model": "a/b", "idleLimitMinutes": 5, "commitId": None},
    ).json()

    optional = {"model", "parentAgent", "error", "trouble", "restartAt", "idleLimitMinutes"}
    assert not optional & plain.keys()
    assert None not in plain.values()
    assert (full["model"], full["parentAgent"], full["idleLimitMinutes"]) == ("a/b", "parent", 5)
    assert list(full)[:14] == [
        *("id", "name", "role", "vmId", "isLocal", "status", "lastOutput", "outputHistory"),
        *("taskCount", "createdAt", "lastActivityAt", "systemPrompt", "model", "parentAgent"),
    ]
    assert ULID.fullmatch(full["id"])
    assert DATE.fullmatch(full["createdAt"])


@pytest.mark.django_db
def test_body_is_parsed_as_json_for_any_content_type(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
    for number, kind in enumerate(types):
        body = json.dumps({"name": f"n{number}", "role": "r é", "local": True})
        answer = api.client.generic("POST", LIEUTENANTS, body.encode(), content_type=kind)
        assert (answer.status_code, answer.json()["role"]) == (201, "r é")
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "body",
    [
        b"{bad",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name":"a","role":"r","local":NaN}x',
        b'{"message":"\\ud800","name":"a","role":"\\ud800"}',
        b'{"name":"a\\u0000b","role":"r","message":"a\\u0000b"}',
        b'{"name":1e999,"role":[],"message":{}}',
        b'"text"',
        b"[1]",
        b"null",
        b"5",
        b"true",
    ],
)
def test_malformed_requests_are_not_a_500(api: Api, body: bytes) -> None:
    create_row("target")
    for path in (LIEUTENANTS, f"{LIEUTENANTS}/target/send"):
        answer = api.client.generic("POST", path, body, content_type="application/json")
        assert answer.status_code == 400, answer.content
        assert list(answer.json()) == ["error"]
        assert len(answer.content) < 500


BAD_FIELDS: dict[str, list[object]] = {
    "name": ["../x", "a/b", "a\nb", "-a", ".a", "ä", "a" * 65, "a" * 10_000],
    "role": ["r" * 4001],
    "local": ["false", 0, "", []],
    "model": [5, ["x"], "-x", "m" * 201],
    "directive": [5, "d" * 20_001],
    "folder": ["relative", "/no/such/folder", "/dev/null", 5, "/\0"],
    "restartPolicy": ["always", 5],
    "idleLimitMinutes": [0, -1, "5", 1.5, True, 10**12],
    "stallLimitSeconds": [-1, "5", 10**12],
}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in BAD_FIELDS for value in BAD_FIELDS[field]]
)
def test_invalid_fields_are_rejected_by_name(api: Api, field: str, value: object) -> None:
    body = {"name": "good", "role": "r", "local": True, field: value}

    refused = api.post(LIEUTENANTS, body)

    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{field}: "), refused.json()
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_valid_names_are_accepted(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/bin/true"
    for name in ("a", "0", "a.b_c-D", "a" * 64, "discover2"):
        assert api.post(LIEUTENANTS, {"name": f" {name}\n", "role": " r "}).status_code == 201
        got = api.get(f"{LIEUTENANTS}/{name}").json()
        assert (got["name"], got["role"]) == (name, "r")


@pytest.mark.django_db
def test_route_names_are_rejected_as_names(api: Api, settings: Any) -> None:
    """A lieutenant with the name of a route could not be reached."""
    settings.PI_PATH = "/bin/true"
    for name in ("destroy-all", "discover", "_panel"):
        refused = api.post(LIEUTENANTS, {"name": name, "role": "r"})
        assert refused.status_code == 400
        assert refused.json()["error"].startswith("name: ")


@pytest.mark.django_db
def test_missing_agent_is_a_503_with_a_remedy(api: Api, settings: Any) -> None:
    settings.PI_PATH = "/nowhere/pi"

    refused = api.post(LIEUTENANTS, {"name": "a", "role": "r"})

    assert refused.status_code == 503
    assert "/nowhere/pi" in refused.json()["error"]
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_large_messages_are_accepted_up_to_the_limit(api: Api) -> None:
    create_row("target")
    most = settings.MAX_MESSAGE_BYTES

    refused = send(api, "target", "é" * most)

    assert refused.status_code == 413
    assert refused.json() == {"error": f"message: has {2 * most} bytes, at most {most} are taken"}
    assert not Message.objects.exists()


@pytest.mark.django_db
def test_trailing_slash_is_ignored(api: Api) -> None:
    row = create_row("slash")
    gets = ["", "/slash", "/slash/read", "/slash/transcript", "/slash/messages", "/slash/usage"]
    for path in [*(f"{LIEUTENANTS}{each}" for each in gets), "/lieutenant/usage"]:
        plain, slashed = api.get(path), api.get(f"{path}/")
        assert plain.status_code == slashed.status_code == 200
        assert plain.json() == slashed.json()
    assert api.get("/lieutenant/_panel/").status_code == 200
    assert api.post(f"{LIEUTENANTS}/slash/send/", {"message": "x"}).status_code == 200
    assert api.post(f"{LIEUTENANTS}/discover/").status_code == 200
    assert api.delete(f"{LIEUTENANTS}/slash/").status_code == 200
    row.refresh_from_db()
    assert row.status == Status.DESTROYED


@pytest.mark.django_db
def test_head_is_supported_where_get_is(api: Api) -> None:
    create_row("head")
    for path in (LIEUTENANTS, f"{LIEUTENANTS}/head", f"{LIEUTENANTS}/head/read"):
        answer = api.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.django_db
def test_list_is_filtered_by_status(api: Api) -> None:
    for status in Status.values:
        create_row(f"is-{status}", status=status)

    def names(query: str) -> list[str]:
        found = api.get(f"{LIEUTENANTS}{query}").json()
        assert found["count"] == len(found["lieutenants"])
        return [each["name"] for each in found["lieutenants"]]

    living_ones = [f"is-{each}" for each in reversed(Status.values) if each != "destroyed"]
    assert names("") == names("?status=") == living_ones
    assert names("?status=idle") == ["is-idle"]
    assert names("?status=destroyed") == names("?status=IDLE") == names("?status=%00") == []


@pytest.mark.django_db
def test_panel_escapes_names(api: Api) -> None:
    create_row("panel", role="<script>alert(1)</script>" + "x" * 100)

    panel = api.get("/lieutenant/_panel")

    assert panel.headers["Content-Type"] == "text/html; charset=utf-8"
    html = panel.content.decode()
    assert "<table" in html
    assert "panel" in html
    assert "<script" not in html
    assert "x" * 60 not in html
