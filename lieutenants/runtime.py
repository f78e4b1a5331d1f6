"""What the rows want against what really runs, on this host: launch, halt, settle, reconcile.

Everything here may run twice, late or never: it re-reads, holds a lease while it acts, and does
nothing when nothing is wanted.
"""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from lieutenants import (
    agent_check,
    configured,
    folders,
    keeper,
    presence,
    rpc,
    session_files,
    vm_lookup,
)
from lieutenants.agents import Agent, find_agent
from lieutenants.exceptions import (
    AgentMissing,
    IsolationUnavailable,
    SessionDamaged,
    TransportError,
)
from lieutenants.isolation import homes, plan
from lieutenants.isolation.modes import Isolation
from lieutenants.models import Lieutenant, LieutenantQuerySet, Process
from lieutenants.states import RUNNING, Status
from lieutenants.transports import get_transport
from lieutenants.transports.base import Handle, Launch
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace, ReefError

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=35)
# After the wish to stop it, an agent is ended without its keeper's help; and then the keeper, who
# may be busy with its last records for a minute.
INSIST_SECONDS, KILL_SECONDS = 20.0, 80.0
READY = "~ready"
FAREWELL = "~farewell"


def settle(lieutenant_id: str) -> None:
    """Bring one lieutenant's process to where its row wants it."""
    here = Lieutenant.objects.here()
    lieutenant = here.claim(lieutenant_id, LEASE)
    if lieutenant is None:
        return
    try:
        process = lieutenant.live_process()
        if process and (process.stop_asked_at or not lieutenant.should_run):
            halt(process, working=lieutenant.status == Status.WORKING)
        elif lieutenant.status == Status.STARTING and process is None:
            if _may_start():
                launch(lieutenant)
            else:
                _say_it_waits(lieutenant)
    finally:
        here.release(lieutenant.pk, lieutenant.leased_until)


def reconcile() -> None:
    """Settle whatever is not as it should be; finds what a lost ring left behind."""
    live = Process.objects.live().here()
    unwanted = live.filter(~Q(lieutenant__status__in=RUNNING) | Q(stop_asked_at__isnull=False))
    # Whoever waits longest starts first.
    for pk in [
        *unwanted.values_list("lieutenant_id", flat=True),
        *_waiting().order_by("status_since").values_list("pk", flat=True),
    ]:
        settle(pk)


def may_start_another() -> bool:
    """Whether somebody waits for a start and there is room for one."""
    return _waiting().exists() and _may_start()


def _waiting() -> LieutenantQuerySet:
    """Those that should be starting and have no process yet."""
    return Lieutenant.objects.here().without_process().filter(status=Status.STARTING)


def stranded() -> list[Lieutenant]:
    """Those that should be at work and have no process: lost between two commits."""
    at_work = Lieutenant.objects.here().filter(status__in=[Status.IDLE, Status.WORKING])
    return list(at_work.without_process())


def launch(lieutenant: Lieutenant) -> None:
    """Start keeper and agent; the follower says when the agent is ready."""
    try:
        agent = find_agent()
    except AgentMissing as error:
        fail(lieutenant, str(error))
        return
    if problem := agent_check.problem_of(agent):
        fail(lieutenant, f"The agent could not be started: {problem}")
        return
    process = Process(
        lieutenant=lieutenant,
        host=settings.HOST,
        transport=lieutenant.transport,
        agent=str(agent),
        # An agent of an unknown version is asked; the worst is that it does not know the command.
        state={
            "clears_queue": agent.clears_queue or not agent.version,
            "settles": agent.settles,
        },
    )
    process.directory = str(home_of(lieutenant) / "runs" / process.pk)
    try:
        # The row comes first: whatever happens next, somebody can find what was started.
        process.save(force_insert=True)
    except IntegrityError:
        logger.info("%s has a process already", lieutenant)
        return
    try:
        spec = _launch_spec(lieutenant, process, agent)
        # Before the agent can print anything.
        process.save(update_fields=["state"])
    except (ReefError, OSError) as error:
        if isinstance(error, SessionDamaged):
            Lieutenant.objects.filter(pk=lieutenant.pk).update(session_problem=str(error))
        _start_failed(process, f"The agent could not be started: {error}")
        return
    if not _renew_start(process):
        logger.info("%s: its start took so long that it was given up meanwhile", lieutenant)
        return
    try:
        handle = get_transport(lieutenant.transport).start(spec)
    except (TransportError, OSError) as error:
        logger.warning("%s: the start failed: %s", lieutenant, error)
        settle_lost_start(process, f"The agent could not be started: {error}")
    else:
        _take(process, handle)


def _renew_start(process: Process) -> bool:
    """Let the time in which its keeper must come up begin now, unless the start was given up."""
    process.started_at = timezone.now()
    mine = Process.objects.filter(pk=process.pk, handle={}, ended_at__isnull=True)
    return bool(mine.update(started_at=process.started_at))


def settle_lost_start(process: Process, reason: str) -> None:
    """Find out what came of a start that nobody knows the end of.

    A keeper that came up all the same is taken; where there is none, none comes up later. While
    one is on its way the row stays open, so that the follower looks again: there is no agent
    without a row. `reason` is why the lieutenant has failed, empty to start it again.
    """
    try:
        handle = get_transport(process.transport).withdraw(process.directory)
    except (TransportError, OSError) as error:
        logger.warning("%s: cannot tell yet what came of its start: %s", process, error)
        if reason:
            Process.objects.filter(pk=process.pk).update(end_reason=reason)
        return
    if handle:
        _take(process, handle)
    else:
        _start_failed(process, reason)


def _take(process: Process, handle: Handle) -> None:
    """Note the keeper that was started; the follower goes on with it."""
    process.handle = handle
    with transaction.atomic():
        Process.objects.filter(pk=process.pk).update(handle=handle, end_reason="")
        isolation = str(handle.get("isolation") or "")
        Lieutenant.objects.filter(pk=process.lieutenant_id).update(isolation=isolation)
    events.wake_follower(process.lieutenant_id)


def _start_failed(process: Process, reason: str) -> None:
    """Close the row of a process that never came up."""
    words = reason or "Its start was cut off."
    mine = Process.objects.filter(pk=process.pk, handle={}, ended_at__isnull=True)
    if mine.update(ended_at=timezone.now(), end_reason=words) and reason:
        fail(Lieutenant.objects.get(pk=process.lieutenant_id), reason)


def halt(process: Process, *, working: bool) -> None:
    """Begin the orderly end of a process; the follower sees it through."""
    if process.stop_asked_at is None:
        process.stop_asked_at = timezone.now()
        process.save(update_fields=["stop_asked_at"])
    transport = get_transport(process.transport)
    asked = (timezone.now() - process.stop_asked_at).total_seconds()
    if asked > INSIST_SECONDS and process.handle:
        logger.warning("%s does not end; insisting", process)
        transport.end(process.directory, process.handle, keeper=asked > KILL_SECONDS)
        events.wake_follower(process.lieutenant_id)
        return
    farewell = rpc.simple("abort", FAREWELL) if working or _is_running_now(process) else None
    try:
        transport.stop(process.directory, process.handle, farewell)
    except TransportError as error:
        logger.info("cannot stop %s yet: %s", process, error)
    events.wake_follower(process.lieutenant_id)


def fail(lieutenant: Lieutenant, reason: str) -> None:
    """Say that a start came to nothing, unless somebody changed their mind meanwhile."""
    try:
        lieutenant.move(Status.ERROR, reason=reason, error=reason)
    except (LostRace, IllegalMove):
        logger.info("%s moved on while its start failed: %s", lieutenant, reason)


def home_of(lieutenant: Lieutenant) -> Path:
    """The lieutenant's own folder. Its name is the id: a name is never a path."""
    return homes.home_of(lieutenant.pk).root


def default_workspace(lieutenant_id: str) -> str:
    """Where a lieutenant works that was given no folder."""
    return str(homes.home_of(lieutenant_id).workspace)


def _is_running_now(process: Process) -> bool:
    return bool(process.state.get("running"))


def _may_start() -> bool:
    """A storm of starts would make each of them slow."""
    starting = Process.objects.live().here().filter(ready_at__isnull=True)
    return starting.count() < settings.STARTS_AT_ONCE


def _say_it_waits(lieutenant: Lieutenant) -> None:
    """Say what keeps a start from beginning: others that have not come up yet."""
    starting = Process.objects.live().here().filter(ready_at__isnull=True)
    names = starting.order_by("started_at").values_list("lieutenant__name", flat=True)
    text = f"a free place to start, taken by {', '.join(names[:3])}"[:200]
    mine = Lieutenant.objects.filter(pk=lieutenant.pk, status=Status.STARTING)
    if mine.exclude(waiting_for=text).update(waiting_for=text):
        events.publish_lieutenant(lieutenant.pk)


def _launch_spec(lieutenant: Lieutenant, process: Process, agent: Agent) -> Launch:
    """Prepare the agent's folders and say how it is started. Raises FleetError, OSError."""
    homes.check_config()
    home = homes.home_of(lieutenant.pk)
    home.workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    way = plan.make_plan(home, folders.check_at_start(lieutenant), agent)
    _check_isolation(lieutenant, way.mode)
    tag = f"REEF_LIEUTENANT={lieutenant.pk}"
    # Nothing of an earlier run may be there while its folders are made as root.
    keeper.sweep(
        *(tag, 0, way.uid if way.rules.get("own_user") and way.uid else 0),
        lieutenants=str(settings.LIEUTENANTS_DIR),
    )
    homes.prepare(
        home,
        name=lieutenant.name,
        prompt=lieutenant.system_prompt,
        owner=way.uid,
        shared=way.uid is not None and "view" not in way.rules,
    )
    session_file = home.session / lieutenant.session_name
    # What is done until here, and the look at a large file, may each take many seconds.
    _renew_start(process)
    # An agent skips what it cannot read, so it is looked at first.
    process.state = {**process.state, "notes": session_files.check(lieutenant, session_file)}
    session = str(session_file)
    arguments = ["--mode", "rpc", "--session", session, "--session-dir", str(home.session)]
    arguments += ["--append-system-prompt", str(home.prompt)]
    given = configured.given(lieutenant)
    process.state = {**process.state, "secret_versions": given.versions}
    model = configured.model_of(lieutenant)
    Lieutenant.objects.filter(pk=lieutenant.pk).update(
        model_wanted=model, model_problem="", session_problem=""
    )
    if model:
        arguments += ["--model", model]
    return Launch(
        run=process.pk,
        dir=process.directory,
        argv=[*way.argv, *agent.argv(), *arguments],
        env=_environment(lieutenant, home, way.path, given.environment),
        cwd=lieutenant.folder,
        lock=str(home.root / "session.lock"),
        heal=[session],
        tag=tag,
        hello=[{"id": READY, "type": "get_state"}],
        isolation=way.rules,
    )


def _check_isolation(lieutenant: Lieutenant, mode: Isolation) -> None:
    """An agent that was started by another one is isolated at least as well as that one."""
    parent = vm_lookup.parent_lieutenant(lieutenant)
    known = parent.isolation if parent and parent.data_folder == settings.DATA_FOLDER_ID else ""
    if known in Isolation.values and Isolation(known).rank > mode.rank:
        raise IsolationUnavailable(
            f"its isolation would be {mode.value}, weaker than that of "
            f"{parent}, below which it stands ({known})"
        )


def _environment(
    lieutenant: Lieutenant, home: homes.Home, path: str, stored: dict[str, str]
) -> dict[str, str]:
    """All that the agent gets to see: an explicit list, never the server's own environment."""
    passed = {name: os.environ[name] for name in settings.AGENT_ENV if name in os.environ}
    return {
        **passed,
        **stored,
        "PATH": path,
        "HOME": str(home.user),
        "TMPDIR": str(home.tmp),
        "USER": lieutenant.name,
        "LOGNAME": lieutenant.name,
        "PI_CODING_AGENT_DIR": str(home.config),
        "PI_OFFLINE": "1",
        "PI_SKIP_VERSION_CHECK": "1",
        "PI_TELEMETRY": "0",
        **presence.environment(lieutenant),
        "REEF_LIEUTENANT": lieutenant.pk,
    }
