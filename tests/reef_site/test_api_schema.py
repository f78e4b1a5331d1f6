"""The schema of the API: it is that of the code, and its examples are valid."""

from __future__ import annotations

import functools
import io
from typing import Any

import jsonschema
import pytest
import yaml
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from reef_site.api.schema import plain_paths
from tests.conftest import Api
from tests.stack import ROOT
from tests.wire.test_request_names import METHODS, routes
from vmtree import tokens
from vmtree.models import Node

SCHEMA = ROOT / "reef_site" / "api" / "schema.yaml"
# API routes that the schema does not have: the schema itself, and the page that shows it.
OF_THE_SCHEMA = {"get /api/schema", "get /api/docs"}


@functools.cache
def committed() -> Any:
    return yaml.load(SCHEMA.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def operations() -> list[Any]:
    paths = committed()["paths"]
    return [
        pytest.param(operation, id=f"{method} {path}")
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def test_the_committed_schema_is_that_of_the_code() -> None:
    made, warnings = io.StringIO(), io.StringIO()
    call_command("spectacular", fail_on_warn=True, validate=True, stdout=made, stderr=warnings)
    assert made.getvalue().strip() == SCHEMA.read_text().strip(), (
        "write it again: manage.py spectacular --file reef_site/api/schema.yaml"
    )


def test_every_route_of_the_api_is_in_the_schema() -> None:
    paths, missing = committed()["paths"], set()
    for route, view, actions in routes():
        # It answers 404 to all paths that are no route.
        if view.__name__ == "UnknownPath":
            continue
        [(path, *_)] = plain_paths([("", route, "GET", None)])
        for method in METHODS:
            name = method if actions is None else actions.get(method)
            if name and hasattr(view, name) and method not in paths.get(path, {}):
                missing.add(f"{method} {path}")
    assert missing == OF_THE_SCHEMA


def check(schema: Any, value: object) -> None:
    whole = {**schema, "components": committed()["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.mark.parametrize("operation", operations())
def test_every_call_has_a_summary_and_valid_examples(operation: Any) -> None:
    assert operation["summary"]
    contents = [operation["requestBody"]] if "requestBody" in operation else []
    for content in contents + list(operation["responses"].values()):
        for kind in content.get("content", {}).values():
            for example in kind.get("examples", {}).values():
                check(kind["schema"], example["value"])
    errors = [each for status, each in operation["responses"].items() if status >= "400"]
    assert errors
    for error in errors:
        assert error["content"]["application/json"]["examples"]


@pytest.mark.django_db
def test_every_token_and_account_may_read_the_schema(api: Api) -> None:
    node = Node.objects.create(vm_id="vm", name="vm", category="agent_vm")
    token = tokens.issue(node, made_by="test")
    account = Client()
    account.force_login(get_user_model().objects.create_user("reader"))
    assert Client().get("/api/schema").status_code == 401
    for client in (api.client, Client(headers={"authorization": f"Bearer {token}"}), account):
        assert "openapi: 3.1.0" in client.get("/api/schema").content.decode()
    assert api.get("/api/schema?format=json").json()["openapi"] == "3.1.0"


@pytest.mark.django_db
def test_the_page_needs_a_session_and_has_no_script_of_its_own(client: Client) -> None:
    assert client.get("/api/docs").status_code == 302
    client.force_login(get_user_model().objects.create_user("reader"))
    page = client.get("/api/docs")
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert "<script>" not in page.content.decode()
    assert "<style>" not in page.content.decode()
    assert "cdn" not in page.content.decode()
    script = client.get("/api/docs?script=")
    assert script.headers["Content-Type"].startswith("application/javascript")
    assert "/api/schema" in script.content.decode()
