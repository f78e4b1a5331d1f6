"""Calls of all tools of the contract by an agent, in an order in which each succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tests.stub_llm import StubLLM
from tests.waiting import until

_CHILD: dict[str, Any] = {"name": "pup"}
_VM: dict[str, Any] = {"vmId": "box-z", "name": "z"}
_ENTRY: dict[str, Any] = {"id": "box-z", "name": "z", "role": "worker", "address": "a"}
_WAIT = "reef_wait"
_IDLE: tuple[str, dict[str, Any], str] = (_WAIT, {"lieutenants": ["pup"]}, "Done: pup is idle.")
# Tool, arguments, and the beginning of the result's text. `reef_lt_discover` is missing: it acts on
# the whole fleet, so lieutenants may not use it.
CALLS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("reef_lt_create", {**_CHILD, "role": "helps"}, 'Lieutenant "pup" is ready [local].'),
    _IDLE,
    ("reef_lt_send", {**_CHILD, "message": "hi"}, 'Sent to pup (prompt): "hi"'),
    _IDLE,
    ("reef_lt_read", _CHILD, "[pup] (idle, 1 tasks):\n\necho: hi"),
    ("reef_lt_status", {}, ""),
    ("reef_lt_pause", _CHILD, 'Lieutenant "pup" paused. Use reef_lt_resume to wake it.'),
    ("reef_lt_resume", _CHILD, 'Lieutenant "pup" resumed. Ready for tasks.'),
    ("reef_lt_destroy", _CHILD, "pup: destroyed (local, 1 tasks completed)"),
    ("reef_boot_profiles", {}, "full:\n"),
    ("reef_boot_generate", {**_VM, "type": "swarm"}, 'Boot script generated for "z" (swarm)'),
    ("vm_tree_register", {**_VM, "category": "swarm_vm"}, 'Registered "z" (swarm_vm) in tree.'),
    ("vm_tree_view", {"vmId": "box-z"}, "{\n"),
    ("vm_tree_find", {"type": "organ", "name": "none"}, 'No VMs found with organ "none".'),
    ("registry_register", _ENTRY, "{\n"),
    ("registry_heartbeat", {"id": "box-z"}, "{\n"),
    ("registry_list", {}, "{\n"),
    ("registry_discover", {"role": "worker"}, "{\n"),
    ("registry_lineage", {"id": "box-z"}, "{\n"),
    ("vers_config_set", {"key": "REEF_AGENT_MODEL", "value": "a/b"}, "Set REEF_AGENT_MODEL "),
    ("vers_config_get", {}, "API Key: "),
)
PROMPT = "use all tools"
_SECONDS = 200.0


def call_all(
    stub: StubLLM,
    send: Callable[[str], object],
    child: Callable[[], dict[str, Any]],
    texts: Callable[[str], list[str]],
    *,
    prefix: str = "",
    first: Iterable[dict[str, Any]] = (),
) -> None:
    """Have an agent call all tools, after the calls `first`, and check the texts of the results.

    `send` sends it a prompt, `child` returns the facts of its child, `texts` its entries of a
    kind. The model calls `reef_wait` only when that need not wait, however slow the machine is.
    """
    match, first = {"contains": PROMPT}, list(first)
    for each in first:
        stub.script({"tool": each, "match": match})
    for number, (name, arguments, _) in enumerate(CALLS):
        gate = [{"gate": _gate(number)}] if name == _WAIT else []
        tool = {"name": prefix + name, "arguments": arguments}
        stub.script({"steps": [*gate, {"tool": tool}], "match": match})
    stub.script({"text": "all used", "match": match})
    send(PROMPT)
    waits = [number for number, (name, *_) in enumerate(CALLS) if name == _WAIT]
    for tasks, number in enumerate(waits):
        until(partial(_is_idle, child, tasks), _SECONDS)
        stub.open_gate(_gate(number))
    until(lambda: "all used" in texts("text"), _SECONDS)
    results = texts("tool_result")[len(first) :]
    for (name, _, start), text in zip(CALLS, results, strict=True):
        assert text.startswith(start), (name, text)


def _gate(number: int) -> str:
    return f"contract-{number}"


def _is_idle(child: Callable[[], dict[str, Any]], tasks: int) -> bool:
    facts = child()
    return (facts.get("status"), facts.get("taskCount")) == ("idle", tasks)
