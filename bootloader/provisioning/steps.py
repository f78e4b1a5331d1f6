"""The steps of a provisioning.

Each step may run twice: it checks first and does only what is missing.

A step returns None when it is done and `CheckAgain` when it must be checked again, and raises a
ReefError when it fails for good. The caller retries when something is unreachable
(`ProviderUnavailable`, `ShellUnavailable`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction

from bootloader import providers
from bootloader.boot.on_vm import reasons
from bootloader.exceptions import (
    ProviderError,
    ProviderUnavailable,
    ShellBusy,
    ShellRefused,
    ShellUnavailable,
    StepFailed,
)
from bootloader.inventory import machines
from bootloader.models import BootStep, LogLine, Provisioning
from bootloader.models.machines import Machine
from bootloader.providers.ssh import pool
from bootloader.providers.ssh.protocol import Shell
from bootloader.provisioning import create_step, machine_spec, rendering, script_runner
from bootloader.provisioning.script_runner import ScriptState
from bootloader.states import StepName
from reef_site.common import clock
from reef_site.common.errors import LostRace, ReefError
from reef_site.common.text import clip_start, clip_words, to_storable
from registry.liveness import Liveness
from registry.models import VM, Status, Watch
from versconfig import config
from vmtree.models import Node

# Time limits for SSH login, and then for joining and for the first heartbeat.
SSH_TIMEOUT = timedelta(seconds=180)
JOIN_TIMEOUT = timedelta(seconds=60)
HEALTH_TIMEOUT = timedelta(seconds=120)
# A rejected key may still be on its way into the VM.
REFUSAL_TIMEOUT = timedelta(seconds=30)
# Maximum runs of a script that vanishes with its VM's processes.
MAX_RUNS = 4
# Maximum starts without any visible effect.
MAX_STARTS = 20
# Upper limits for steps that are retried again and again. Each step's own waiting ends earlier. The
# script's limit is in config.
STEP_LIMITS = {
    StepName.RESOLVE: timedelta(minutes=10),
    StepName.CREATE: timedelta(minutes=30),
    StepName.SSH: SSH_TIMEOUT * 2,
    StepName.IDENTITY: timedelta(minutes=10),
    StepName.UPLOAD: timedelta(minutes=20),
    StepName.JOIN: JOIN_TIMEOUT * 5,
    StepName.HEALTH: HEALTH_TIMEOUT * 3,
}
# Extra time before the script is abandoned even if it cannot be checked or ended.
LIMIT_SLACK = timedelta(seconds=60)
MAX_POLL_SECONDS = 3.0
POLLS_FOR_STATUS, POLLS_FOR_PID = 3, 15
MAX_LOG_LINE = 2000
# Output beyond this many bytes is skipped, except for its end.
MAX_OUTPUT_BYTES = 8 << 20
# Intervals for asking the provider whether a VM still exists: while waiting for it, and while it is
# unreachable.
CHECK_INTERVAL = timedelta(seconds=10)
UNREACHABLE_CHECK_INTERVAL = timedelta(seconds=3)


@dataclass(frozen=True)
class CheckAgain:
    """Check again after this many seconds; `why` is shown."""

    seconds: float
    why: str = ""


class Context:
    """A provisioning and the holder of its lease."""

    def __init__(self, row: Provisioning, holder: str) -> None:
        self.row = row
        self.holder = holder

    def fresh(self) -> Provisioning:
        """Reload the row."""
        self.row = Provisioning.objects.without_texts().get(pk=self.row.pk)
        return self.row

    def check_lease(self) -> None:
        """Raise LostRace if the lease was lost."""
        if not Provisioning.objects.is_held(self.row.pk, self.holder):
            raise LostRace("its lease was lost")

    def say(self, text: str, step: BootStep | None, kind: LogLine.Kind = LogLine.Kind.NOTE) -> None:
        """Write a line to the provisioning's log."""
        name = step.name if step else ""
        LogLine.objects.create(
            provisioning=self.row, step=name, kind=kind, text=clip_words(text, MAX_LOG_LINE)
        )

    def later(self, seconds: float, why: str = "") -> CheckAgain:
        """Return a request to check again after this many seconds."""
        return CheckAgain(seconds, why)

    @property
    def machine(self) -> Machine:
        """Return its VM. Raise StepFailed if it is gone."""
        machine = self.row.machine
        if machine is None or machine.is_gone:
            raise StepFailed("its VM is gone; a retry makes a new one")
        return machine


def _since(step: BootStep) -> timedelta:
    return clock.now() - step.started_at if step.started_at else timedelta(0)


# -- the steps -----------------------------------------------------------------------------------


def resolve(context: Context, step: BootStep) -> CheckAgain | None:
    """Resolve the machine's specification from request and config; missing values fail here."""
    spec, explanation = machine_spec.spec_of(context.row)
    providers.get(context.row.provider)
    Provisioning.objects.filter(pk=context.row.pk).update(spec=spec)
    context.row.spec = spec
    for line in explanation:
        context.say(line, step)
    return None


def ssh(context: Context, step: BootStep) -> CheckAgain | None:
    """Wait until SSH login works."""
    try:
        with pool.connection(context.machine) as shell:
            script_runner.run_script(shell, "true", "run a command")
    except ShellBusy as error:
        # The server limits connections: retry after a random pause.
        if _since(step) > SSH_TIMEOUT:
            raise StepFailed(f"{error}; waited {int(SSH_TIMEOUT.total_seconds())} s") from None
        return CheckAgain(random.uniform(1.0, 4.0), str(error))  # noqa: S311
    except (ShellUnavailable, ProviderUnavailable) as error:
        # Most platforms report nothing about a machine that is still booting.
        if _since(step) > SSH_TIMEOUT:
            raise StepFailed(f"{error}; waited {int(SSH_TIMEOUT.total_seconds())} s") from None
        return CheckAgain(1.0, str(error))
    except ShellRefused as error:
        if _since(step) > REFUSAL_TIMEOUT:
            raise
        return CheckAgain(2.0, str(error))
    return None


def identity(context: Context, step: BootStep) -> CheckAgain | None:
    """Identify the VM, and create a private folder for the upload."""
    row, machine = context.row, context.machine
    with pool.connection(machine) as shell:
        found = script_runner.inspect_vm(shell, row)
    if found.machine and found.machine != machine.machine_id:
        text = f"the VM that answers says it is '{found.machine}' (by its file /etc/vm_id)"
        if row.provider == "ssh":
            text += "; a VM of the platform cannot be an SSH host, unless that file is removed"
        raise StepFailed(text)
    if missing := {"bash"} - found.tools:
        raise StepFailed(f"the VM has no {', '.join(missing)}")
    if not {"curl", "python3"} & found.tools:
        raise StepFailed("the VM has neither curl nor python3 to talk to the roof with")
    context.say(f"{found.user}@{found.host}, has {', '.join(sorted(found.tools))}", step)
    if found.was and found.was != row.vm_id:
        context.say(f"it was '{found.was}' before, which is replaced", step)
    return None


def upload(context: Context, step: BootStep) -> CheckAgain | None:
    """Render the script with a fresh join token and upload it."""
    row = context.row
    context.check_lease()
    address = create_step.address_of(row)
    script = rendering.render_real(row, address)
    with pool.connection(context.machine) as shell:
        script_runner.upload(shell, row, script)
    shown = rendering.render_masked(row, address)
    with transaction.atomic():
        used = {"script": shown.script, "user_data": shown.user_data}
        Provisioning.objects.filter(pk=row.pk).update(**used)
        run_step = row.steps.get(name=StepName.RUN)
        run_step.keep(run=int(run_step.facts.get("run", 0)) + 1, offset=0, gone=0, lost=0, begins=0)
    size = len(script.encode())
    context.say(f"the script has {size} bytes", step)
    return None


def run(context: Context, step: BootStep) -> CheckAgain | None:
    """Start the script, and follow its output until it ends."""
    row, limit = context.row, _limit(context.row)
    with pool.connection(context.machine) as shell:
        number, offset = int(step.facts.get("run", 1)), int(step.facts.get("offset", 0))
        seen = script_runner.poll_script(shell, row, number, offset)
        _record_output(context, step, seen)
        if seen.status is None and limit and _since(step).total_seconds() > limit:
            script_runner.kill_script(shell, row)
            raise StepFailed(_too_long(limit))
        if not seen.there:
            return _start_script(context, step, shell, number)
        if len(seen.output) >= script_runner.CHUNK_BYTES:
            return CheckAgain(0.0, "")
        if seen.status is None and not seen.alive:
            return _restart_script(context, step, number, begun=seen.begun)
        if seen.status is None:
            quiet = 0 if seen.output else min(int(step.facts.get("quiet", 0)) + 1, 10)
            step.keep(quiet=quiet, gone=0)
            return CheckAgain(min(MAX_POLL_SECONDS, 0.7 + 0.3 * quiet), "")
        script_runner.remove_script(shell, row)
    if seen.status:
        raise StepFailed(_failure_reason(row, step, seen.status))
    return None


def join(context: Context, step: BootStep) -> CheckAgain | None:
    """Wait until the VM is in the tree and in the registry."""
    row = context.row
    node = Node.objects.active().filter(vm_id=row.vm_id).exists()
    registered = VM.objects.filter(pk=row.vm_id).exists()
    if node and registered:
        return None
    missing = "registry" if node else "tree"
    if _since(step) > JOIN_TIMEOUT:
        raise StepFailed(f"the VM did not join: it is not in the {missing}")
    return CheckAgain(1.0, f"not in the {missing} yet")


def health(context: Context, step: BootStep) -> CheckAgain | None:
    """Wait until the VM sends heartbeats and is live."""
    vm, now = VM.objects.filter(pk=context.row.vm_id).first(), clock.now()
    run_step = context.row.steps.get(name=StepName.RUN)
    since = run_step.started_at or now
    if vm is None:
        raise StepFailed("the VM is not registered any more")
    live = vm.liveness(now, grace=Watch.grace(now)) == Liveness.LIVE
    if vm.status == Status.RUNNING and live and vm.last_seen >= since:
        pool.disconnect(context.machine)
        # Otherwise the page shows "booting" until the next comparison.
        with suppress(ProviderError):
            machines.refresh(context.machine)
        context.say(f"VM {vm.pk} is live", step)
        return None
    if _since(step) > HEALTH_TIMEOUT:
        raise StepFailed(f"the VM sends no heartbeats: it is {vm.status}, last seen {vm.last_seen}")
    return CheckAgain(1.0, "waits for a heartbeat")


def is_gone(context: Context, step: BootStep, every: timedelta = CHECK_INTERVAL) -> bool:
    """Return whether the provider no longer has the VM. Asks at most once per `every` seconds."""
    machine, now = context.row.machine, clock.now()
    if machine is None or StepName(step.name) in (StepName.RESOLVE, StepName.CREATE):
        return False
    last = step.facts.get("asked_provider") or (step.started_at or now).isoformat()
    if now - clock.parse_iso(last) < every:
        return False
    step.keep(asked_provider=now.isoformat())
    try:
        return machine.is_gone or machines.refresh(machine) is None
    except ReefError:
        # Unknown; the step continues or fails by itself.
        return False


STEP_FUNCTIONS: dict[StepName, Callable[[Context, BootStep], CheckAgain | None]] = {
    StepName.RESOLVE: resolve,
    StepName.CREATE: create_step.create,
    StepName.SSH: ssh,
    StepName.IDENTITY: identity,
    StepName.UPLOAD: upload,
    StepName.RUN: run,
    StepName.JOIN: join,
    StepName.HEALTH: health,
}


# -- the script's output -------------------------------------------------------------------------


def _record_output(context: Context, step: BootStep, seen: ScriptState) -> None:
    """Log complete lines of output; the new offset is stored in the same transaction."""
    if not seen.output and seen.status is None:
        return
    kept = seen.output
    if seen.status is None and len(kept) < script_runner.CHUNK_BYTES:
        # An unfinished line is read again when it is complete.
        kept = kept[: kept.rfind(b"\n") + 1]
    if not kept:
        return
    before = int(step.facts.get("offset", 0))
    offset = before + len(kept)
    if offset > MAX_OUTPUT_BYTES:
        offset = max(offset, seen.size - script_runner.CHUNK_BYTES)
    if before > MAX_OUTPUT_BYTES and seen.status is None:
        step.keep(offset=offset)
        return
    text = to_storable(kept.decode("utf-8", "replace")).rstrip("\n")
    with transaction.atomic():
        step.keep(offset=offset)
        LogLine.objects.create(
            provisioning=context.row,
            step=step.name,
            kind=LogLine.Kind.OUTPUT,
            text=rendering.without_secrets(context.row, text),
        )
        if before <= MAX_OUTPUT_BYTES < offset:
            context.say("the script prints very much; only its end is kept from here on", step)


def _start_script(context: Context, step: BootStep, shell: Shell, number: int) -> CheckAgain:
    """Start this run of the script. Raise StepFailed if it was started too often without effect."""
    begins = int(step.facts.get("begins", 0)) + 1
    if begins > MAX_STARTS:
        raise StepFailed(f"the script was started {MAX_STARTS} times, and nothing came of it")
    step.keep(begins=begins)
    script_runner.start_script(shell, context.row, number)
    return CheckAgain(0.3 if begins < 4 else 2.0, "")


def _restart_script(context: Context, step: BootStep, number: int, *, begun: bool) -> CheckAgain:
    """Start another run after the script disappeared: the VM was restarted, or killed its
    processes.
    """
    gone = int(step.facts.get("gone", 0)) + 1
    if gone < (POLLS_FOR_STATUS if begun else POLLS_FOR_PID):
        # It may be about to write its status, or its pid on a busy machine.
        step.keep(gone=gone)
        return CheckAgain(0.7, "")
    runs = int(step.facts.get("lost", 0)) + 1
    if runs >= MAX_RUNS:
        raise StepFailed(f"the script vanished {runs} times without an end")
    step.keep(run=number + 1, offset=0, gone=0, lost=runs, begins=0)
    context.say("the script vanished without an end; it is started again", step)
    return CheckAgain(0.0, "")


def _failure_reason(row: Provisioning, step: BootStep, status: int) -> str:
    """Return the exit status with the cause from the script's last output."""
    newest = row.log.filter(step=step.name, kind=LogLine.Kind.OUTPUT).order_by("-id").first()
    cause = clip_start(reasons.cause(newest.text if newest else ""), 600)
    return f"the script ended with status {status}" + (f": {cause}" if cause else "")


def _too_long(limit: int) -> str:
    return f"the script did not end within {limit} s (REEF_BOOT_SECONDS)"


def overdue(context: Context, step: BootStep) -> str:
    """Return an error text if the step exceeded its time limit; otherwise empty."""
    since, name = _since(step), StepName(step.name)
    if name == StepName.RUN:
        limit = _limit(context.row)
        return _too_long(limit) if limit and since > timedelta(seconds=limit) + LIMIT_SLACK else ""
    longest = STEP_LIMITS[name]
    if since <= longest:
        return ""
    minutes = int(longest.total_seconds() // 60)
    return f"it did not end within {minutes} minutes" + (f": {step.reason}" if step.reason else "")


def _limit(row: Provisioning) -> int:
    """Return the time limit of the script in seconds; 0 is no limit."""
    return config.integer("REEF_BOOT_SECONDS", machine_spec.parent_of(row))
