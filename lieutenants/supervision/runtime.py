"""Reconcile this host's processes with their rows: launch, halt, settle.

Every function here may run twice, late or never: it rereads the rows, holds a lease while it acts,
and does nothing when nothing is wanted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from lieutenants import membership, vm_lookup
from lieutenants.agents import dialect_of
from lieutenants.agents.base import Program
from lieutenants.changes import starts as start_commits
from lieutenants.exceptions import (
    AgentMissing,
    IsolationUnavailable,
    Overtaken,
    SessionDamaged,
    TransportError,
)
from lieutenants.hosts import fences
from lieutenants.isolation import folders, homes, plan
from lieutenants.isolation.modes import Isolation
from lieutenants.models import Lieutenant, LieutenantQuerySet, Process
from lieutenants.states import END_AGENT_SECONDS, END_KEEPER_SECONDS, RUNNING, Status
from lieutenants.supervision import made_vms, remote_pause, remote_start, remote_work
from lieutenants.supervision.claims import claimed
from lieutenants.supervision.keeper import processes
from lieutenants.supervision.starts import (
    adopt_keeper,
    fail,
    open_row,
    renew_start,
    resolve_lost_start,
    start_failed,
)
from lieutenants.supervision.transports import transport_of
from lieutenants.supervision.transports.base import READY, Launch
from reef_site.common import events
from reef_site.common.errors import ReefError

logger = logging.getLogger(__name__)

FINAL_ABORT = "~farewell"


def converge(lieutenant_id: str) -> None:
    """Start or stop one lieutenant's process, as its row wants.

    For a remote lieutenant this happens later, in another thread.
    """
    if Lieutenant.objects.here().filter(pk=lieutenant_id).exclude(transport="local").exists():
        remote_work.submit(lieutenant_id, partial(_converge, lieutenant_id))
    else:
        _converge(lieutenant_id)


def _converge(lieutenant_id: str) -> None:
    with claimed(lieutenant_id) as lieutenant:
        if lieutenant is None:
            return
        process = lieutenant.live_process()
        if process and (process.stop_asked_at or not lieutenant.should_run):
            if lieutenant.is_local or not remote_pause.freeze(lieutenant, process):
                halt(process, working=lieutenant.status == Status.WORKING)
        elif lieutenant.status == Status.STARTING and process is None:
            if not lieutenant.is_local or _may_start():
                launch(lieutenant)
            else:
                _store_wait_reason(lieutenant)


def reconcile() -> None:
    """Settle every lieutenant whose process is not as its row wants, also after lost events."""
    # First, since a lieutenant that waits for the end of its former VM wants to start, too.
    _reconcile_machines()
    live = Process.objects.live().here()
    unwanted = live.filter(~Q(lieutenant__status__in=RUNNING) | Q(stop_asked_at__isnull=False))
    # The longest waiting starts first.
    for pk in [
        *unwanted.values_list("lieutenant_id", flat=True),
        *_waiting().order_by("status_since").values_list("pk", flat=True),
    ]:
        converge(pk)


def _reconcile_machines() -> None:
    """Go on with what lieutenants that do not run have begun with their VMs."""
    here = Lieutenant.objects.here()
    pausing = here.filter(
        status=Status.PAUSED, processes__is_frozen=True, processes__vm_paused_at__isnull=True
    )
    for pk in pausing.values_list("pk", flat=True):
        _submit(pk, remote_pause.finish_freeze)
    for pk in made_vms.to_clean_up():
        _submit(pk, made_vms.clean_up_failed)
    for pk in here.with_leftovers().without_lasting_process().values_list("pk", flat=True):
        _submit(pk, remote_start.remove_files)


def _submit(lieutenant_id: str, work: Callable[[Lieutenant], object]) -> None:
    """Run work that waits for a machine later, while it holds the lieutenant's lease."""

    def run() -> None:
        with claimed(lieutenant_id) as lieutenant:
            # A process may have been opened meanwhile, which has to end first.
            if lieutenant is not None and not lieutenant.has_lasting_process():
                work(lieutenant)

    remote_work.submit(lieutenant_id, run)


def resolve_start(process: Process, reason: str) -> None:
    """Determine the outcome of a start that seems to be lost; see `starts`.

    Nothing happens while the worker that began it still works on it.
    """
    if process.transport == "local":
        resolve_lost_start(process, reason)
        return
    with claimed(process.lieutenant_id) as lieutenant:
        if lieutenant is not None:
            resolve_lost_start(process, reason)


def may_start_another() -> bool:
    """Return whether a lieutenant waits for a start and a start slot is free."""
    return _waiting().exists() and _may_start()


def _waiting() -> LieutenantQuerySet:
    """Return lieutenants that should be starting and have no process yet."""
    return Lieutenant.objects.here().without_process().filter(status=Status.STARTING)


def orphaned() -> list[Lieutenant]:
    """Return lieutenants that should be running and have no process: lost between two commits."""
    at_work = Lieutenant.objects.here().filter(status__in=[Status.IDLE, Status.WORKING])
    return list(at_work.without_process())


def launch(lieutenant: Lieutenant) -> None:
    """Start keeper and agent. The follower marks the process as ready later."""
    if not lieutenant.is_local:
        remote_start.launch(lieutenant)
        return
    dialect = dialect_of(lieutenant)
    try:
        program = dialect.find_program(lieutenant)
    except AgentMissing as error:
        fail(lieutenant, str(error))
        return
    if problem := dialect.problem_of(program):
        fail(lieutenant, f"The agent could not be started: {problem}")
        return
    process = Process(
        lieutenant=lieutenant,
        host=settings.HOST,
        transport="local",
        agent=program.label,
        state=dict(program.state),
    )
    process.directory = str(home_of(lieutenant) / "runs" / process.pk)
    if not open_row(process, lieutenant):
        return
    try:
        spec = _launch_spec(lieutenant, process, program)
        # Saved before the agent can print anything.
        process.save(update_fields=["state"])
    except (ReefError, OSError) as error:
        if isinstance(error, SessionDamaged):
            Lieutenant.objects.filter(pk=lieutenant.pk).update(session_problem=str(error))
        start_failed(process, f"The agent could not be started: {error}")
        return
    if not renew_start(process):
        logger.info("%s: its start took so long that it was given up meanwhile", lieutenant)
        return
    start_commits.note_start(lieutenant)
    try:
        handle = transport_of(process).start(spec)
    except (TransportError, OSError) as error:
        logger.warning("%s: the start failed: %s", lieutenant, error)
        resolve_lost_start(process, f"The agent could not be started: {error}")
    else:
        adopt_keeper(process, handle)


def halt(process: Process, *, working: bool) -> None:
    """Begin an orderly stop of a process; the follower completes it."""
    if process.stop_asked_at is None:
        process.stop_asked_at = timezone.now()
        mine = Process.objects.held_by(process).live()
        if not mine.update(stop_asked_at=process.stop_asked_at):
            logger.info("%s has ended, or another follower has it", process)
            return
    transport = transport_of(process)
    elapsed = (timezone.now() - process.stop_asked_at).total_seconds()
    is_busy = working or _is_running_now(process)
    final_command = dialect_of(process.lieutenant).abort(FINAL_ABORT) if is_busy else None
    try:
        if elapsed > END_AGENT_SECONDS and process.handle:
            logger.warning("%s does not end; insisting", process)
            transport.end(process.directory, process.handle, keeper=elapsed > END_KEEPER_SECONDS)
        else:
            transport.stop(process.directory, process.handle, final_command)
    except Overtaken as error:
        fences.catch_up(process, error.generation)
    except TransportError as error:
        logger.info("cannot stop %s yet: %s", process, error)
    events.wake_follower(process.lieutenant_id)


def home_of(lieutenant: Lieutenant) -> Path:
    """Return the lieutenant's own folder. It is named by id, so a name never becomes a path."""
    return homes.home_of(lieutenant.pk).root


def default_workspace(lieutenant_id: str) -> str:
    """Return the working folder of a lieutenant that was created without one."""
    return str(homes.home_of(lieutenant_id).workspace)


def _is_running_now(process: Process) -> bool:
    return bool(process.state.get("running"))


def _may_start() -> bool:
    """Return whether a start slot is free. Many concurrent starts would slow down each of them."""
    return _starting().count() < settings.STARTS_AT_ONCE


def _starting() -> QuerySet[Process]:
    """Return the processes that take a start slot of this host."""
    here = Process.objects.live().here()
    return here.filter(ready_at__isnull=True, transport="local")


def _store_wait_reason(lieutenant: Lieutenant) -> None:
    """Store which other starts this one waits for."""
    names = _starting().order_by("started_at").values_list("lieutenant__name", flat=True)
    text = f"a free start slot, taken by {', '.join(names[:3])}"[:200]
    mine = Lieutenant.objects.filter(pk=lieutenant.pk, status=Status.STARTING)
    if mine.exclude(waiting_for=text).update(waiting_for=text):
        events.publish_lieutenant(lieutenant.pk)


def _launch_spec(lieutenant: Lieutenant, process: Process, program: Program) -> Launch:
    """Prepare the agent's folders and return its launch parameters. Raises FleetError, OSError."""
    dialect = dialect_of(lieutenant)
    dialect.check_config()
    home = homes.home_of(lieutenant.pk)
    home.workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    isolation_plan = plan.make_plan(home, folders.check_at_start(lieutenant), program)
    _check_isolation(lieutenant, isolation_plan.mode)
    tag = f"REEF_LIEUTENANT={lieutenant.pk}"
    # No process of an earlier run may exist while its folders are created as root.
    own_user = isolation_plan.uid if isolation_plan.rules.get("own_user") else None
    processes.sweep(tag, 0, own_user or 0, lieutenants=str(settings.LIEUTENANTS_DIR))
    homes.prepare(
        home,
        name=lieutenant.name,
        prompt=lieutenant.system_prompt,
        owner=isolation_plan.uid,
        shared=isolation_plan.uid is not None and "view" not in isolation_plan.rules,
        dialect=dialect,
    )
    # The steps so far, and the check of a large file, may each take many seconds.
    renew_start(process)
    prepared = dialect.prepare(lieutenant, home)
    process.state = {**process.state, **prepared.state}
    return Launch(
        run=process.pk,
        dir=process.directory,
        argv=[*isolation_plan.argv, *program.argv, *prepared.arguments],
        env=_environment(lieutenant, home, isolation_plan.path, prepared.environment),
        cwd=lieutenant.folder,
        lock=str(home.root / "session.lock"),
        heal=list(prepared.heal),
        tag=tag,
        hello=[dialect.query_state(READY).line],
        stop_seconds=program.stop_seconds,
        warnings=list(dialect.warnings),
        isolation=isolation_plan.rules,
    )


def _check_isolation(lieutenant: Lieutenant, mode: Isolation) -> None:
    """Require an agent's isolation to be at least as strong as that of its parent."""
    parent = vm_lookup.parent_lieutenant(lieutenant)
    known = parent.isolation if parent and parent.data_folder == settings.DATA_FOLDER_ID else ""
    if known in Isolation.values and Isolation(known).rank > mode.rank:
        raise IsolationUnavailable(
            f"its isolation would be {mode.value}, weaker than that of "
            f"{parent}, below which it stands ({known})"
        )


def _environment(
    lieutenant: Lieutenant, home: homes.Home, path: str, own: Mapping[str, str]
) -> dict[str, str]:
    """Return the agent's whole environment: an explicit list, never the server's own."""
    names = [name for name in settings.AGENT_ENV if name in os.environ]
    withheld = dialect_of(lieutenant).withheld
    return {
        **{name: os.environ[name] for name in names if name not in withheld},
        **own,
        "PATH": path,
        "HOME": str(home.user),
        "TMPDIR": str(home.tmp),
        "USER": lieutenant.name,
        "LOGNAME": lieutenant.name,
        **membership.fleet_environment(lieutenant),
        "REEF_LIEUTENANT": lieutenant.pk,
    }
