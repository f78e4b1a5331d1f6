"""Replay of recorded exchanges: deployed agents must get the same responses from us.

Status, content type, keys and their order, types and values are compared. Ids must refer to the
same things, dates must have the same format, free texts must be present. `corrections.py` lists
every difference.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from lieutenants.models import Lieutenant, LifeSign, Message, Process
from tests.conftest import Fleet, let_ticks_have_run
from tests.waiting import PATIENCE, until
from tests.wire import (
    corrections,
    corrections_bootloader,
    corrections_config,
    corrections_registry,
    corrections_vmtree,
)
from tests.wire.corrections import ADDED, FIRST, Correction, HasValues
from versconfig import keys

EXCHANGES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden.json").read_text(encoding="utf-8")
)
CORRECTIONS: dict[str, dict[str, Correction]] = {
    "core": corrections.CORE,
    "registry": corrections_registry.CORRECTIONS,
    "vm-tree": corrections_vmtree.CORRECTIONS,
    "vers-config": corrections_config.CORRECTIONS,
    "bootloader": corrections_bootloader.CORRECTIONS,
    "lieutenant": corrections.LIEUTENANT,
}
AFTERWARDS = {
    **{("registry", case): send for case, send in corrections_registry.AFTERWARDS.items()},
    **{("vm-tree", case): send for case, send in corrections_vmtree.AFTERWARDS.items()},
}
TOKEN = "test-token-123"
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FREE = re.compile(r"<<.*>>", re.DOTALL)
STEP_SECONDS = 15.0


class Replay:
    """A replay of the recording. It maps recorded ids to ours."""

    def __init__(self) -> None:
        self.client = Client()
        self.ids: dict[str, str] = {}

    def send(self, exchange: dict[str, Any]) -> Any:
        """Send a recorded request and return our response."""
        raw = exchange.get("request_raw")
        if raw is None and exchange["request"] is not None:
            raw = json.dumps(exchange["request"], ensure_ascii=False)
        token = exchange.get("authorization", f"Bearer {TOKEN}")
        return self.client.generic(
            exchange["method"],
            exchange["path"],
            (raw or "").encode(),
            content_type="application/json",
            headers={"authorization": token} if token is not None else {},
        )

    def repair(self, exchange: dict[str, Any]) -> None:
        """Undo a change that only our server made."""
        if request := AFTERWARDS.get((exchange["service"], exchange["case"])):
            assert self.send(request).status_code == 200

    def problems(self, exchange: dict[str, Any], ours: Correction | None, answer: Any) -> list[str]:
        """Return the differences between a response and the record, corrected by `ours`."""
        status, expected = exchange["status"], exchange["response"]
        if ours:
            status = status if ours.status is None else ours.status
            expected = ours.response if ours.is_whole else _changed(expected, ours.changes)
        found: list[str] = []
        if answer.status_code != status:
            found.append(f"status {answer.status_code}, not {status}: {answer.content[:200]!r}")
        actual = _value_of(answer)
        if isinstance(actual, dict) and exchange["method"] != "HEAD":
            found += [] if _is_compact(answer.content) else [f"not compact: {answer.content!r}"]
        if expected != "":
            json_now = isinstance(actual, dict)
            kind = "application/json" if json_now else exchange["content_type"]
            if not json_now and isinstance(exchange["response"], dict):
                kind = "text/html; charset=utf-8"
            if answer.headers.get("Content-Type", "").lower() != kind.lower():
                found.append(f"content type {answer.headers.get('Content-Type')}, not {kind}")
        return found + list(self.differences(expected, actual, "$"))

    def differences(self, expected: Any, actual: Any, at: str) -> list[str]:
        """Return where `got` does not match `wanted`."""
        if isinstance(expected, HasValues):
            if not isinstance(actual, dict):
                return [f"{at}: {actual!r} is no object"]
            return [
                problem
                for key, value in expected.values.items()
                for problem in self.differences(value, actual.get(key, "<absent>"), f"{at}.{key}")
            ]
        if isinstance(expected, dict) and isinstance(actual, dict):
            return self._objects(expected, actual, at)
        if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
            pairs = enumerate(zip(expected, actual, strict=True))
            return [
                problem
                for number, (one, other) in pairs
                for problem in self.differences(one, other, f"{at}[{number}]")
            ]
        return [] if self._same(expected, actual) else [f"{at}: {actual!r}, not {expected!r}"]

    def _objects(self, expected: dict[str, Any], actual: dict[str, Any], at: str) -> list[str]:
        allowed = next((ADDED[key] for key in ADDED if key in expected), set())
        known = [key for key in actual if key in expected]
        found = []
        if known != list(expected):
            found.append(f"{at}: keys {known}, not {list(expected)}")
        if unknown := actual.keys() - expected.keys() - allowed:
            found.append(f"{at}: unknown keys: {sorted(unknown)}")
        for key in known:
            found += self.differences(expected[key], actual[key], f"{at}.{key}")
        return found

    def _same(self, expected: Any, actual: Any) -> bool:
        if isinstance(expected, re.Pattern):
            return isinstance(actual, str) and expected.fullmatch(actual) is not None
        if type(expected) is not type(actual):
            return False
        if isinstance(expected, float):
            return bool(actual >= 0)
        if isinstance(expected, str):
            if FREE.search(expected):
                return bool(actual)
            if DATE.fullmatch(expected):
                return DATE.fullmatch(actual) is not None
            if ULID.fullmatch(expected):
                return (
                    ULID.fullmatch(actual) is not None
                    and self.ids.setdefault(expected, actual) == actual
                )
        return bool(expected == actual)


def _is_compact(body: bytes) -> bool:
    """Return whether the JSON has no blanks between values and no escaped characters."""
    text = body.decode()
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    return not re.search(r"\s", bare) and not re.search(r"(?<!\\)(?:\\\\)*\\u(?!00[01])", text)


def _value_of(answer: Any) -> Any:
    if answer.headers.get("Content-Type") == "application/json" and answer.content:
        return json.loads(answer.content)
    return answer.content.decode()


def _of(*services: str) -> list[dict[str, Any]]:
    """Return the exchanges of these services in order."""
    return [exchange for exchange in EXCHANGES if exchange["service"] in services]


def _correction(exchange: dict[str, Any]) -> Correction | None:
    return CORRECTIONS[exchange["service"]].get(exchange["case"])


def _changed(response: Any, changes: dict[str, Any]) -> Any:
    if not changes:
        return response
    return {key: changes.get(key, value) for key, value in response.items()}


def _wait_first(case: str) -> None:
    """Wait until no lieutenant is starting and the conditions of this exchange hold."""
    wish = FIRST.get(case)
    busy = {"starting", "working"} if wish == "idle" else {"starting"}
    waited = Lieutenant.objects.filter(status__in=busy)
    try:
        until(lambda: not waited.exists())
        if wish == "all ended":
            until(lambda: not Process.objects.live().exists())
    except AssertionError:
        moves = [(str(each), [str(move) for move in each.moves.all()]) for each in waited]
        processes = list(Process.objects.values())
        messages = list(Message.objects.values())
        raise AssertionError(f"before {case}: {moves} {processes} {messages}") from None


@pytest.mark.rotated
def test_exchanges(fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROOT_TOKEN = TOKEN
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    monkeypatch.setenv("STANDIN_MODE", "golden")
    LifeSign.give("worker@here")
    let_ticks_have_run()
    until(lambda: LifeSign.latest("follower"))
    replay = Replay()
    report: list[str] = []

    for exchange in _of("core", "registry", "lieutenant"):
        case = exchange["case"]
        ours = _correction(exchange)
        if exchange["service"] == "lieutenant":
            _wait_first(case)

        found = replay.problems(exchange, ours, replay.send(exchange))
        replay.repair(exchange)
        if "wait_before_s" in exchange and exchange["service"] == "lieutenant":
            # The recorder slept here; wait for its condition instead.
            end = time.monotonic() + STEP_SECONDS * PATIENCE
            while found and time.monotonic() < end:
                time.sleep(0.05)
                found = replay.problems(exchange, ours, replay.send(exchange))
        report += [f"{exchange['service']}: {case}: {problem}" for problem in found]

    assert not report, "\n" + "\n".join(report)


def test_exchanges_of_the_tree(settings: Any, db: None) -> None:
    settings.ROOT_TOKEN = TOKEN
    replay = Replay()
    report: list[str] = []

    for exchange in _of("vm-tree"):
        found = replay.problems(exchange, _correction(exchange), replay.send(exchange))
        report += [f"{exchange['case']}: {problem}" for problem in found]
        replay.repair(exchange)

    assert not report, "\n" + "\n".join(report)


def test_exchanges_of_the_config(
    settings: Any, db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings.ROOT_TOKEN = TOKEN
    for key in keys.ALL:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VERS_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("VERS_INFRA_URL", "http://127.0.0.1:4310")
    replay = Replay()
    report: list[str] = []

    for exchange in _of("vers-config"):
        found = replay.problems(exchange, _correction(exchange), replay.send(exchange))
        report += [f"{exchange['case']}: {problem}" for problem in found]

    assert not report, "\n" + "\n".join(report)


def test_exchanges_of_the_bootloader(settings: Any, db: None) -> None:
    settings.ROOT_TOKEN = TOKEN
    replay = Replay()
    report: list[str] = []

    for exchange in _of("bootloader"):
        found = replay.problems(exchange, _correction(exchange), replay.send(exchange))
        report += [f"{exchange['case']}: {problem}" for problem in found]

    assert not report, "\n" + "\n".join(report)


def test_every_correction_belongs_to_a_difference() -> None:
    by_case = {(each["service"], each["case"]): each for each in EXCHANGES}
    assert len(by_case) == len(EXCHANGES)
    for service, cases in CORRECTIONS.items():
        for case, ours in cases.items():
            _differs(by_case[service, case], ours)


def _differs(exchange: dict[str, Any], ours: Correction) -> None:
    case, response = exchange["case"], exchange["response"]
    same_status = ours.status in (None, exchange["status"])
    same = (not ours.is_whole or ours.response == response) and all(
        response[key] == value for key, value in ours.changes.items()
    )
    assert ours.why
    assert not (same_status and same), f"{case} does not differ"
    equal = [key for key, value in ours.changes.items() if response[key] == value]
    assert not equal, f"{case} does not change {equal}"
