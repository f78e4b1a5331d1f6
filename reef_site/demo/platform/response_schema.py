"""Check responses against openapi.yaml, the API description that this emulator implements."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from reef_site.demo.platform.responses import Response

FILE = Path(__file__).with_name("openapi.yaml")
METHODS = frozenset({"get", "post", "put", "patch", "delete"})


@cache
def description() -> dict[str, Any]:
    """Return the content of openapi.yaml, which is read once."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def operations() -> set[tuple[str, str]]:
    """Return method and path of all described operations."""
    paths: dict[str, dict[str, Any]] = description()["paths"]
    return {
        (method.upper(), path)
        for path, item in paths.items()
        for method in item
        if method in METHODS
    }


def check(method: str, template: str, response: Response) -> str | None:
    """Return the problem with this response, or None."""
    label = f"{method} {template} {response.status}"
    operation = description()["paths"].get(template, {}).get(method.lower())
    if operation is None:
        return f"{label}: not described"
    if response.status == 429:  # the platform sends it without documenting it
        return None
    expected = operation["responses"].get(str(response.status))
    if expected is None:
        return f"{label}: this status is not described"
    content = _resolved(expected).get("content", {})
    if response.stream is not None:
        return None if response.kind in content else f"{label}: {response.kind} is not described"
    if not response.body:
        return f"{label}: a body is missing" if content and response.status < 300 else None
    if response.kind is None or response.kind.startswith("text/plain"):
        return None if "text/plain" in content else f"{label}: text is not described"
    if response.kind not in content:
        return f"{label}: {response.kind} is not described"
    return _body(label, content[response.kind]["schema"], response.body)


def check_schema(name: str, facts: object) -> list[str]:
    """Return the problems of a piece of JSON according to a named schema."""
    return _problems({"$ref": f"#/components/schemas/{name}"}, facts)


def _body(label: str, schema: dict[str, Any], body: bytes) -> str | None:
    errors = _problems(schema, json.loads(body))
    return f"{label}: {'; '.join(errors)}" if errors else None


def _problems(schema: dict[str, Any], facts: object) -> list[str]:
    whole = {**schema, "components": description()["components"]}
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(whole, format_checker=formats)
    return [error.message for error in validator.iter_errors(facts)]


def _resolved(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the target of a reference."""
    if "$ref" not in facts:
        return facts
    found: Any = description()
    for key in facts["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    resolved: dict[str, Any] = found
    return resolved
