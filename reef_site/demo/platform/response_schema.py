"""Check responses against openapi.yaml, the API description that this emulator implements."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from reef_site.demo.platform.responses import Answer

FILE = Path(__file__).with_name("openapi.yaml")
METHODS = frozenset({"get", "post", "put", "patch", "delete"})


@cache
def description() -> dict[str, Any]:
    """The file, read once."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def operations() -> set[tuple[str, str]]:
    """Method and path of everything that is described."""
    paths: dict[str, dict[str, Any]] = description()["paths"]
    return {
        (method.upper(), path)
        for path, item in paths.items()
        for method in item
        if method in METHODS
    }


def check(method: str, template: str, answer: Answer) -> str | None:
    """Return the problem with this response, or None."""
    where = f"{method} {template} {answer.status}"
    operation = description()["paths"].get(template, {}).get(method.lower())
    if operation is None:
        return f"{where}: not described"
    if answer.status == 429:  # not documented by the platform, and given all the same
        return None
    expected = operation["responses"].get(str(answer.status))
    if expected is None:
        return f"{where}: this status is not described"
    content = _resolved(expected).get("content", {})
    if answer.stream is not None:
        return None if answer.kind in content else f"{where}: {answer.kind} is not described"
    if not answer.body:
        return f"{where}: a body is missing" if content and answer.status < 300 else None
    if answer.kind is None or answer.kind.startswith("text/plain"):
        return None if "text/plain" in content else f"{where}: text is not described"
    if answer.kind not in content:
        return f"{where}: {answer.kind} is not described"
    return _body(where, content[answer.kind]["schema"], answer.body)


def check_schema(name: str, facts: object) -> list[str]:
    """Return the problem with a piece of JSON according to a named schema, or None."""
    return _problems({"$ref": f"#/components/schemas/{name}"}, facts)


def _body(where: str, schema: dict[str, Any], body: bytes) -> str | None:
    errors = _problems(schema, json.loads(body))
    return f"{where}: {'; '.join(errors)}" if errors else None


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
    for word in facts["$ref"].removeprefix("#/").split("/"):
        found = found[word]
    resolved: dict[str, Any] = found
    return resolved
