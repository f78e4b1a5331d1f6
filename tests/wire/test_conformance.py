"""Generated requests to every call of the schema: responses are those that the schema declares.

schemathesis makes the requests: limits of each field, and a fixed number of random ones.
"""

from __future__ import annotations

import functools
import itertools
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks

from tests.wire.declared import SCHEMA, STREAM
from tests.wire.populated import Populated, reef, undone

pytestmark = pytest.mark.django_db
__all__ = ["reef"]

# Budget of an ordinary run, for each operation: random requests; of those at the limits of fields
# the first ones, and then one of some. The node sends one of some, too.
EXAMPLES, FIRST_CASES, ONE_OF, ONE_OF_NODE = 4, 24, 6, 4
# The examples of the schema are sent by test_hostile_requests.
MODES = [HypothesisTestMode.COVERAGE, HypothesisTestMode.FUZZING]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def application() -> Iterator[WSGIHandler]:
    """Return the web process's application; as with Django's client, connections stay open."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield get_wsgi_application()
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture(autouse=True)
def _same_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis would also try constants of our modules that happen to be loaded."""
    monkeypatch.setattr(providers, "_get_local_constants", Constants)


@functools.cache
def schema() -> BaseSchema:
    found = schemathesis.openapi.from_dict(SCHEMA)
    # The callers' credentials replace any others; test_hostile_requests has wrong ones.
    found.config.generation.update(with_security_parameters=False)
    return found


@pytest.mark.parametrize("path", SCHEMA["paths"])
def test_responses_are_declared(path: str, reef: Populated, application: WSGIHandler) -> None:
    numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def send(case: Case[Any]) -> None:
        number = next(numbers[case.operation.label])
        if number < FIRST_CASES or number % ONE_OF == 0:
            callers = ["root", "node"] if number % ONE_OF_NODE == 0 else ["root"]
            check(case, reef, application, callers)

    generate(path, send, EXAMPLES)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", SCHEMA["paths"])
def test_more_responses_are_declared(path: str, reef: Populated, application: WSGIHandler) -> None:
    generate(path, lambda case: check(case, reef, application, ["root", "node"]), 200)


def generate(path: str, send: Callable[[Case[Any]], None], examples: int) -> None:
    """Send cases for all operations of a path: always the same ones."""
    options = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    # Not `schema().parametrize()`: that makes all cases when tests are collected.
    for operation in schema()[path].values():

        def test(case: Case[Any]) -> None:
            send(case)

        config = HypothesisTestConfig(schema().config, MODES, explicit_settings=options)
        create_test(operation=operation, test_func=test, config=config)()


def check(case: Case[Any], reef: Populated, application: WSGIHandler, callers: list[str]) -> None:
    """Send it as these callers; fails if a response is not one that its operation declares."""
    use_known_values(case, reef)
    for caller in callers:
        with undone():
            headers = {**reef.callers[caller], "Accept-Encoding": "identity"}
            response = case.call(headers=headers, app=application)
        if response.status_code == 405:
            assert response.json() == {"error": "method not allowed"}
            assert is_other_route(case)
        # The edge streams in place of web's response.
        elif STREAM not in contents_of(case, response.status_code):
            case.validate_response(response, checks=CHECKS)


def is_other_route(case: Case[Any]) -> bool:
    """Return whether method or path may not be those of the operation."""
    declared = SCHEMA["paths"][case.path]
    parameters = declared[case.operation.method].get("parameters", [])
    words = {p["name"]: p["schema"]["enum"] for p in parameters if "enum" in p["schema"]}
    return case.method.lower() not in declared or any(
        case.path_parameters.get(name) not in words[name] for name in words
    )


def contents_of(case: Case[Any], status: int) -> dict[str, Any]:
    """Return the media types that the operation declares for this status."""
    declared = SCHEMA["paths"][case.path][case.operation.method]["responses"]
    found: dict[str, Any] = declared.get(str(status), {}).get("content", {})
    return found


def use_known_values(case: Case[Any], reef: Populated) -> None:
    """Replace three of four values by those that have rows, where such are known."""
    chance = random.Random(zlib.crc32(repr(case).encode("utf-8", "replace")))
    parts: list[Any] = [case.path_parameters, case.query, case.body]
    for part in parts:
        for name in list(part) if isinstance(part, dict) else ():
            values = reef.values_for(case.path, name)
            if values and chance.random() < 0.75:
                value = chance.choice(values)
                part[name] = [value] if isinstance(part[name], list) else value
