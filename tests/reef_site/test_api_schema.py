"""The schema of the API: it is that of the code, and its examples are valid."""

from __future__ import annotations

import io
from typing import Any

import jsonschema
import pytest
import yaml
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from tests.conftest import Api
from tests.stack import ROOT
from vmtree import tokens
from vmtree.models import Node

SCHEMA = ROOT / "reef_site" / "api" / "schema.yaml"
METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> list[Any]:
    paths = yaml.safe_load(SCHEMA.read_text())["paths"]
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


def check(schema: Any, value: object) -> None:
    components = yaml.safe_load(SCHEMA.read_text())["components"]
    jsonschema.validate(value, {**schema, "components": components})


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
