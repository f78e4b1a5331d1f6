"""Calls to providers and hosts that a worker makes at an operator's request.

Each function takes and returns only JSON values; see `reef_site.common.outside`.
"""

from __future__ import annotations

import math
from typing import Any

from bootloader import checkpoints, providers
from bootloader.commands import running
from bootloader.exceptions import NoSuchMachine
from bootloader.inventory import reconcile
from bootloader.models import Finding, Machine, SshHost
from bootloader.providers.base import Login
from bootloader.providers.ssh import hosts as ssh_hosts
from bootloader.providers.ssh.connection_test import ConnectionTest
from bootloader.states import Proposal
from reef_site.common import outside
from reef_site.common.models import OutsideCall
from reef_site.common.outside import Kind, Line, Result

COMPARE, ACT, ACT_ON_MANY = "bootloader.compare", "bootloader.act", "bootloader.act-on-many"
LOG_IN, TEST = "bootloader.log-in", "bootloader.test-connection"
_ACT_SECONDS, _MANY_SECONDS = 60.0, 150.0
_TEST_SECONDS = 60.0
_MAX_SHOWN = 5


def register() -> None:
    """Register the call kinds of this app."""
    checkpoints.register()
    outside.call_kinds.register(Kind(_compare, _compared), key=COMPARE)
    outside.call_kinds.register(Kind(_act, _acted), key=ACT)
    outside.call_kinds.register(Kind(_act_on_many, _acted_on_many), key=ACT_ON_MANY)
    outside.call_kinds.register(Kind(_log_in, _logged_in), key=LOG_IN)
    outside.call_kinds.register(Kind(_test, _tested), key=TEST)
    outside.call_kinds.register(Kind(running.run, running.lines), key=running.RUN)


def compare(*, by: object) -> OutsideCall:
    """Compare providers, tree and registry now."""
    return outside.make(COMPARE, {}, by=by, limit=_MANY_SECONDS)


def act(finding_id: int, proposal: Proposal | None, *, by: object) -> OutsideCall:
    """Carry out a finding's proposal, or the given one if it is allowed for this finding."""
    arguments = {"finding_id": finding_id, "proposal": proposal, "by": str(by)}
    return outside.make(ACT, arguments, by=by, limit=_ACT_SECONDS)


def act_on_many(rows: list[Finding], proposal: Proposal | None, *, by: object) -> OutsideCall:
    """Carry out the proposals of several findings."""
    arguments = {"ids": [row.pk for row in rows], "proposal": proposal, "by": str(by)}
    return outside.make(ACT_ON_MANY, arguments, by=by, limit=_MANY_SECONDS)


def log_in(rows: list[SshHost], *, by: object) -> OutsideCall:
    """Log in on hosts. The time limit is ten seconds for each batch of concurrent logins."""
    limit = outside.LIMIT_SECONDS * max(1, math.ceil(len(rows) / ssh_hosts.MAX_CONCURRENT))
    return outside.make(LOG_IN, {"ids": [str(row.pk) for row in rows]}, by=by, limit=limit)


def check_connection(subject: Machine | SshHost, *, by: object) -> OutsideCall:
    """Go the way to a machine step by step."""
    kind = "host" if isinstance(subject, SshHost) else "machine"
    return outside.make(TEST, {kind: str(subject.pk)}, by=by, limit=_TEST_SECONDS)


def _compare() -> Result:
    return {"open": reconcile.compare_all(), "skipped": reconcile.too_new().count()}


def _compared(result: Result) -> list[Line]:
    count, skipped = result["open"], result["skipped"]
    text = f"Compared: {count or 'no'} open finding{'' if count == 1 else 's'}."
    if skipped:
        text += f" Left out: {skipped} ({reconcile.SKIPPED_NOTE})."
    return [(True, text)]


def _proposal(value: str | None) -> Proposal | None:
    return Proposal(value) if value else None


def _act(finding_id: int, proposal: str | None, by: str) -> Result:
    row = reconcile.act(finding_id, by=by, proposal=_proposal(proposal))
    return {"id": row.pk, "text": f"{row}: {row.outcome}."}


def _acted(result: Result) -> list[Line]:
    return [(True, result["text"])]


def _act_on_many(ids: list[int], proposal: str | None, by: str) -> Result:
    rows = list(Finding.objects.filter(pk__in=ids).order_by("id"))
    done, failed = reconcile.act_on(rows, by=by, proposal=_proposal(proposal))
    return {
        "done": [row.pk for row in done],
        "outcome": done[0].outcome if done else "",
        "failed": [[row.pk, str(row), why] for row, why in failed],
    }


def _acted_on_many(result: Result) -> list[Line]:
    done, failed = result["done"], result["failed"]
    lines: list[Line] = []
    if done:
        lines.append((True, f"{len(done)} of {len(done) + len(failed)}: {result['outcome']}."))
    return [*lines, *((False, f"{name}: {why}.") for _, name, why in failed[:_MAX_SHOWN])]


def _log_in(ids: list[str]) -> Result:
    rows = list(SshHost.objects.filter(pk__in=ids))
    found = zip(rows, ssh_hosts.try_logins(rows), strict=True)
    return {"hosts": [[str(row), wrong] for row, wrong in found]}


def _logged_in(result: Result) -> list[Line]:
    found: list[Any] = result["hosts"]
    return [(not wrong, f"{name}: {wrong or 'lets us in'}") for name, wrong in found]


def _test(host: str = "", machine: str = "") -> Result:
    name, login = _way_to(host, machine)
    steps = ConnectionTest(login).run()
    return {"name": name, "good": not any(each["problem"] for each in steps), "steps": steps}


def _way_to(host: str, machine: str) -> tuple[str, Login]:
    """Return name and login of an SSH host or of a provider's machine. Raise NoSuchMachine."""
    if host:
        row = SshHost.objects.filter(pk=host).first()
        if row is None:
            raise NoSuchMachine("The SSH host is not registered any more")
        return str(row), ssh_hosts.login(row)
    found = Machine.objects.active().filter(pk=machine).first()
    if found is None:
        raise NoSuchMachine("The machine is gone")
    return str(found), providers.get(found.provider).login(found.machine_id)


def _tested(result: Result) -> list[Line]:
    lines: list[Line] = []
    for step in result["steps"]:
        text = f"{result['name']}, {step['name']}: {step['problem'] or step['note']}"
        lines.append((not step["problem"], f"{text} ({step['seconds']:.2f} s)"))
    return lines
