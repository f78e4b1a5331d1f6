"""Unknown request fields are rejected by name, with the list of known ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from reef_site.common.json_format import AnyTypeJSONParser
from reef_site.common.request_names import OnlyKnownNames, nearest
from tests.conftest import Api
from tests.wire.api_client import LIEUTENANTS, create_row

pytestmark = pytest.mark.django_db

METHODS = ("get", "post", "put", "patch", "delete")
# Deployed agents send more fields than were ever read, or there is nothing to read.
PASSED_OVER = {
    ("post", "registry/vms/<id>/heartbeat"),
    ("post", "bootloader/token"),
    ("post", "bootloader/token/confirm"),
    ("get", "vers-config/<name>"),
    ("get", "health"),
    ("post", "tools/<name>"),
    ("post", "mcp"),
}
LENIENT = {
    ("get", "registry/vms"),
    ("post", "registry/vms"),
    ("patch", "registry/vms/<id>"),
    ("post", "vm-tree/vms"),
    ("post", "bootloader/join"),
}


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, type[APIView], Any]]:
    for each in patterns if patterns is not None else get_resolver().url_patterns:
        route = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from routes(each.url_patterns, route)
        elif isinstance(each, URLPattern) and hasattr(each.callback, "cls"):
            yield route, each.callback.cls, getattr(each.callback, "actions", None)


def handlers() -> list[Any]:
    found = []
    for route, view, actions in routes():
        for method in METHODS:
            name = (actions or {}).get(method) if actions is not None else method
            if name and hasattr(view, name) and view.__name__ != "UnknownPath":
                found.append(pytest.param(view, method, name, id=f"{method} {route}"))
    return found


def refusal(view: type[APIView], method: str, name: str, *, body: bool) -> str:
    """Return the error for an unknown name in the body or the query."""
    factory = APIRequestFactory()
    path, data = ("/", '{"zzzz": 1}') if body else ("/?zzzz=1", "")
    plain = factory.generic(method.upper(), path, data, content_type="application/json")
    one = view()
    if hasattr(view, "as_view") and name not in METHODS:
        one.action = name  # type: ignore[attr-defined]
    request = Request(plain, parsers=[AnyTypeJSONParser()])
    try:
        OnlyKnownNames().has_permission(request, one)
    except ParseError as error:
        return str(error.detail)
    return ""


@pytest.mark.parametrize(("view", "method", "name"), handlers())
def test_every_route_declares_its_names(view: type[APIView], method: str, name: str) -> None:
    names: Any = getattr(getattr(view, name), "takes", None)
    lenient = names is not None and (names.lenient or names.anything)
    for body in (False, True) if method != "get" else (False,):
        said = refusal(view, method, name, body=body)
        assert said.startswith("zzzz: not known; this route takes ") is not lenient


def test_only_these_routes_ignore_unknown_names() -> None:
    anything, lenient = 0, 0
    for _route, view, actions in routes():
        for method in METHODS:
            name = (actions or {}).get(method) if actions is not None else method
            names = getattr(getattr(view, name or "", None), "takes", None)
            if names is not None and view.__name__ != "UnknownPath":
                anything += names.anything
                lenient += names.lenient
    assert (anything, lenient) == (len(PASSED_OVER), len(LENIENT))


def test_misspelt_field_of_a_create_is_named(api: Api) -> None:
    body = {"name": "ada", "role": "tests"}
    for wrong, meant in (("restartpolicy", "restartPolicy"), ("stallLimitSecond", "stall")):
        answer = api.post(LIEUTENANTS, {**body, wrong: "x"})
        assert answer.status_code == 400
        said = answer.json()["error"]
        assert said.startswith(f"{wrong}: not known; did you mean {meant}")
        assert "name, role" in said
    assert api.get(LIEUTENANTS).json()["count"] == 0


def test_misspelt_field_of_an_update_is_named(api: Api) -> None:
    create_row("ada")
    answer = api.client.patch(
        f"{LIEUTENANTS}/ada", {"model": "a/b", "Restart": True}, content_type="application/json"
    )
    assert answer.status_code == 400
    assert "did you mean restart?" in answer.json()["error"]


def test_lenient_routes_compare_only_some_names(api: Api) -> None:
    """A body has room for a million, each of which would be compared."""
    fields = {"id": "a", "name": "a", "role": "worker", "address": "x", "registeredBy": "t"}
    many = {f"{number}": 1 for number in range(200)}
    assert api.post("/registry/vms", {**fields, **many}).status_code == 201
    answer = api.post("/registry/vms", {**fields, **many, "one more": 1})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "body: more than 200 names are not known",
    )


def test_lenient_routes_reject_only_near_misses(api: Api) -> None:
    vm = {"id": "a", "name": "a", "role": "worker", "address": "x", "registeredBy": "t"}

    assert api.post("/registry/vms", {**vm, "colour": "red"}).status_code == 201
    refused = api.post("/registry/vms", {**vm, "parentVMId": "b"})
    assert refused.status_code == 400
    assert "did you mean parentVmId?" in refused.json()["error"]
    assert api.get("/registry/vms?foo=1").status_code == 200
    assert api.get("/registry/vms?livenes=live").status_code == 400


def test_unread_body_need_not_be_json(api: Api) -> None:
    create_row("ada")
    path = f"{LIEUTENANTS}/ada/abort"
    answer = api.client.post(path, b"not JSON", content_type="text/plain")
    assert answer.json()["error"] == "Lieutenant 'ada' is not working (status: idle)"


def test_read_body_must_be_json(api: Api) -> None:
    answer = api.client.post(LIEUTENANTS, b"{", content_type="application/json")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("body: is not JSON")


def test_permission_is_checked_before_names(api: Api) -> None:
    answer = api.client.post("/vm-tree/snapshot?zzzz=1", headers={"authorization": "Bearer nope"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("given", "near"),
    [("memory_mib", "memoryMib"), ("DRYRUN", "dryRun"), ("modle", "model"), ("colour", "")],
)
def test_nearest_name_is_suggested(given: str, near: str) -> None:
    assert nearest(given, ("memoryMib", "dryRun", "model")) == near
