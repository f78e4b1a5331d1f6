"""The tools of deployed agents keep working: requests, and the texts built from responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from tests.conftest import Fleet
from tests.wire.api_client import DATE, FOLLOW_UP_NOTE


class OldClient:
    """Requests of the old extension's tools, and the texts they build from the responses."""

    def __init__(self) -> None:
        token = f"Bearer {settings.ROOT_TOKEN}"
        self.client = Client(headers={"authorization": token})

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON of a response, or raise with the text of the old client."""
        answer: Any = self.client.generic(
            method,
            f"/lieutenant{path}",
            b"" if body is None else json.dumps(body).encode(),
            content_type="application/json",
        )
        if not 200 <= answer.status_code < 300:
            error = answer.json()["error"]
            raise RuntimeError(f"{method} /lieutenant{path} ({answer.status_code}): {error}")
        return answer.json()

    def create(self, name: str, role: str, **more: object) -> str:
        made = self.call(
            "POST", "/lieutenants", {"name": name, "role": role, "local": True, **more}
        )
        where = "[local]" if made["isLocal"] else f"[VM: {made['vmId']}]"
        head = f'Lieutenant "{made["name"]}" is ready {where}.'
        return f"{head}\n  Role: {made['role']}\n  Status: {made['status']}"

    def send(self, name: str, message: str, **more: object) -> str:
        said = self.call("POST", f"/lieutenants/{name}/send", {"message": message, **more})
        note = f" ({said['note']})" if said.get("note") else ""
        shown = message[:120] + ("..." if len(message) > 120 else "")
        return f'Sent to {name} ({said["mode"]}){note}: "{shown}"'

    def read(self, name: str, query: str = "") -> str:
        got = self.call("GET", f"/lieutenants/{name}/read{query}")
        head = f"[{got['name']}] ({got['status']}, {got['taskCount']} tasks):"
        return f"{head}\n\n{got['output']}"

    def status(self) -> str:
        found = self.call("GET", "/lieutenants")
        if not found["count"]:
            return "No lieutenants active."
        icons = {"working": "~", "idle": "*", "paused": "||", "error": "X"}
        return "\n\n".join(
            "\n".join(
                (
                    f"{icons.get(each['status'], 'o')} {each['name']} [{each['status']}]",
                    f"  Role: {each['role']}",
                    "  local" if each["isLocal"] else f"  VM: {each['vmId'][:12]}",
                    f"  Tasks: {each['taskCount']}",
                    f"  Last active: {each['lastActivityAt']}",
                )
            )
            for each in found["lieutenants"]
        )

    def destroy(self, name: str) -> str:
        if name == "*":
            results = self.call("POST", "/lieutenants/destroy-all")["results"]
            return "\n".join(results) or "No lieutenants to destroy."
        return str(self.call("DELETE", f"/lieutenants/{name}")["detail"])

    def widget(self) -> str:
        """Return the status line that the extension shows in the agent's terminal."""
        found = self.call("GET", "/lieutenants")
        if not found["count"]:
            return ""
        line = f"Lieutenants: {found['count']} LT"
        for status in ("working", "idle", "paused"):
            count = sum(each["status"] == status for each in found["lieutenants"])
            line += f", {count} {status}" if count else ""
        return line


def test_old_client_works_unchanged(fleet: Fleet) -> None:
    old = OldClient()
    assert old.status() == "No lieutenants active."
    assert old.widget() == ""
    assert old.destroy("*") == "No lieutenants to destroy."

    made = old.create("scout", "looks around")
    assert made == 'Lieutenant "scout" is ready [local].\n  Role: looks around\n  Status: starting'
    fleet.wait("scout", "idle")
    assert old.read("scout") == "[scout] (idle, 0 tasks):\n\n(no output yet)"

    long = "x" * 130
    assert old.send("scout", long) == f'Sent to scout (prompt): "{"x" * 120}..."'
    fleet.wait("scout", "idle")
    assert old.read("scout") == f"[scout] (idle, 1 tasks):\n\necho: {long}"
    assert old.read("scout", "?tail=5") == "[scout] (idle, 1 tasks):\n\n...xxxxx"

    old.send("scout", "SILENT")
    assert old.send("scout", "more") == f'Sent to scout (followUp) ({FOLLOW_UP_NOTE}): "more"'
    assert old.send("scout", "now", mode="steer") == 'Sent to scout (steer): "now"'
    assert old.widget() == "Lieutenants: 1 LT, 1 working"
    lines = old.status().split("\n")
    assert lines[:4] == ["~ scout [working]", "  Role: looks around", "  local", "  Tasks: 2"]
    assert DATE.fullmatch(lines[4].removeprefix("  Last active: "))

    detail = "scout: destroyed (local, 2 tasks completed)"
    assert old.destroy("scout") == detail
    assert old.destroy("scout") == detail
    assert old.status() == "No lieutenants active."


def test_old_client_pauses_and_gets_errors(fleet: Fleet) -> None:
    old = OldClient()
    old.create("sleeper", "sleeps")
    fleet.wait("sleeper", "idle")

    assert old.call("POST", "/lieutenants/sleeper/pause") == {"paused": True}
    assert old.widget() == "Lieutenants: 1 LT, 1 paused"
    assert old.status().startswith("|| sleeper [paused]")
    with pytest.raises(RuntimeError, match=r"^POST /lieutenant/lieutenants/sleeper/send \(400\): "):
        old.send("sleeper", "x")
    with pytest.raises(RuntimeError, match=r"\(409\): Lieutenant 'sleeper' already exists\. Destr"):
        old.create("sleeper", "x")
    assert old.call("POST", "/lieutenants/sleeper/resume") == {"resumed": True}
    with pytest.raises(RuntimeError, match=r"\(400\): Lieutenant 'sleeper' is not paused \(status"):
        old.call("POST", "/lieutenants/sleeper/resume")
    results = old.call("POST", "/lieutenants/discover")["results"]
    assert all(isinstance(each, str) for each in results)
    fleet.wait("sleeper", "idle")
    assert old.destroy("*") == "sleeper: destroyed (local, 0 tasks completed)"
