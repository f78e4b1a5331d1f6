"""Requests with a withheld body are refused by every view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admindocs.views import simplify_regex
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from lieutenants.models import Lieutenant
from reef_site.edge.credentials import OPEN_ROUTES
from reef_site.edge.gateway import WITHHELD, BodyWithheld, Gateway, WithheldBody
from tests.conftest import Api
from vmtree.models import Node


def paths(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    """Return one path for each route, with `1` for its parameters."""
    for each in patterns:
        regex = before + each.pattern.regex.pattern.removeprefix("^")
        if isinstance(each, URLResolver):
            yield from paths(each.url_patterns, regex.replace("(?:/|$)", "/"))
        else:
            yield _sample(regex)


def _sample(regex: str) -> str:
    path = simplify_regex(regex.replace(r"\Z", "").replace("(?:/.*)?", "").replace("/?$", "$"))
    parts = path.split("/")
    return "/".join("1" if "<" in part else part for part in parts).replace("\\", "")


def send_withheld(client: Client, method: str, path: str, **more: Any) -> Any:
    """Send what web gets from the edge in place of a body."""
    environ = {WITHHELD: True, "wsgi.input": WithheldBody(), "CONTENT_LENGTH": "1", **more}
    content_type = "application/x-www-form-urlencoded"
    return client.generic(method, path, b"x", content_type=content_type, **environ)


@pytest.mark.django_db
def test_no_route_reads_anonymous_bodies() -> None:
    client = Client(enforce_csrf_checks=True)
    found = set(paths(get_resolver().url_patterns))
    assert len(found) > 200
    assert {"/bootloader/join", "/lieutenant/lieutenants/1/send", "/config/"} <= found
    wrong = []
    for path in sorted(found):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = send_withheld(client, method, path)
            to_signin = answer.status_code == 302 and (
                answer["Location"].startswith(("/signin/", "/admin/"))
            )
            refused = answer.status_code in (401, 403, 404, 405) or to_signin
            if not refused and not OPEN_ROUTES.fullmatch(path):
                wrong.append((method, path, answer.status_code))

    assert wrong == []


@pytest.mark.django_db
def test_credentials_valid_too_late_get_503(api: Api) -> None:
    for path in ("/lieutenant/lieutenants", "/vm-tree/vms", "/registry/vms"):
        answer = send_withheld(api.client, "POST", path)
        assert answer.status_code == 503, answer.content
        assert answer["Retry-After"] == "1"
        assert "try again" in json.loads(answer.content)["error"]
    assert not Node.objects.exists()
    assert not Lieutenant.objects.exists()


@pytest.mark.django_db
def test_late_session_does_not_skip_csrf_check(admin_client: Client) -> None:
    for path in ("/signout/", "/lieutenants/", "/admin/auth/user/add/"):
        assert send_withheld(admin_client, "POST", path).status_code == 503
    assert admin_client.get("/").status_code == 200


# -- the middleware alone ------------------------------------------------------------------------


class Input:
    """A body that counts the bytes read from it."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int) -> bytes:
        taken = min(size, self.left)
        self.left -= taken
        return b"x" * taken


def ask(key: str, body: Input, application: Any, **headers: str) -> tuple[str, bytes]:
    said: list[str] = []

    def start(status: str, _headers: object) -> None:
        said.append(status)

    environ = {"wsgi.input": body, "HTTP_REEF_EDGE_KEY": key, **headers}
    answer = b"".join(Gateway(application, "the-key")(environ, start))
    return said[0], answer


def test_every_body_is_read_to_its_end() -> None:
    def ignore_body(environ: dict[str, Any], start: Any) -> list[bytes]:
        assert not [key for key in environ if key.startswith("HTTP_REEF")]
        start("204 No Content", [])
        return []

    def broken(environ: dict[str, Any], start: Any) -> list[bytes]:
        raise ZeroDivisionError

    body = Input(1_000_000)
    assert ask("the-key", body, ignore_body) == ("204 No Content", b"")
    assert body.left == 0
    body = Input(1_000_000)
    assert ask("another", body, ignore_body)[0] == "403 Forbidden"
    assert body.left == 0
    body = Input(10)
    with pytest.raises(ZeroDivisionError):
        ask("the-key", body, broken)
    assert body.left == 0


def test_withheld_body_cannot_be_read() -> None:
    def reader(environ: dict[str, Any], start: Any) -> list[bytes]:
        assert environ["CONTENT_LENGTH"] == "1"
        environ["wsgi.input"].read(1)
        return []

    with pytest.raises(BodyWithheld):
        ask("the-key", Input(0), reader, HTTP_REEF_BODY_WITHHELD="yes")
