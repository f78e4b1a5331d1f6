"""Clients for joining VMs: issue a join token, and send requests with a token."""

from __future__ import annotations

from typing import Any

from django.test import Client

from bootloader.join import tokens as join_tokens

DNA = {"organs": ["store", "cron"], "capabilities": ["vers-vm"]}


def issue_join_token(vm_id: str = "vm-1", **other: Any) -> str:
    """Issue a join token for a VM that has not joined yet."""
    values: dict[str, Any] = {
        "vm_id": vm_id,
        "name": f"name of {vm_id}",
        "profile": "swarm",
        "category": "swarm_vm",
        "role": "worker",
        "parent_vm_id": None,
        "by": "tests",
        "dna": DNA,
        **other,
    }
    return join_tokens.issue(**values)


class BearerClient:
    """Sends requests with one bearer token, or without one."""

    def __init__(self, token: str | None) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.client = Client(headers=headers)

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, body: object = None) -> Any:
        data = {} if body is None else body
        return self.client.post(path, data=data, content_type="application/json")

    def join(self, **body: object) -> Any:
        return self.post("/bootloader/join", {"hostname": "box", **body})

    def report(self, **body: object) -> Any:
        body_sent = {"run": "r1", "step": "dns", "status": "ok", **body}
        return self.post("/bootloader/report", body_sent)
