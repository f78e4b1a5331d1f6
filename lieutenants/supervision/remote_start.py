"""Start of an agent on a VM, in recorded steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from bootloader.inventory import machines
from lieutenants import membership
from lieutenants.agents import dialect_of
from lieutenants.agents.base import FoundProgram, RemoteMachine
from lieutenants.changes import starts as start_commits
from lieutenants.exceptions import NotConnected, NotNow, Overtaken, TransportError
from lieutenants.hosts import fences
from lieutenants.isolation.homes import GIT_CONFIG, Home
from lieutenants.models import Lieutenant, MadeVM, Process
from lieutenants.supervision import made_vms, older_agents, remote_notes, remote_pause
from lieutenants.supervision.remote_reach import Steps, reach
from lieutenants.supervision.starts import (
    adopt_keeper,
    fail,
    open_row,
    renew_start,
    resolve_lost_start,
    start_failed,
)
from lieutenants.supervision.transports import ssh_transport_of
from lieutenants.supervision.transports.base import READY, Launch
from lieutenants.supervision.transports.ssh import programs
from lieutenants.supervision.transports.ssh.places import place_of
from lieutenants.supervision.transports.ssh.session import RelaySession
from lieutenants.supervision.transports.ssh.transport import HomeFiles, SshTransport
from reef_site.common import events
from reef_site.common.errors import ReefError
from versconfig import config
from vmtree.models import Node

logger = logging.getLogger(__name__)

FOLDER = "~/.reef-agents"
# Variables of reef's environment that only make sense on its own host.
_OF_THIS_HOST = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "TERM"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
    )
)


def home_text(lieutenant_id: str) -> str:
    """Return the lieutenant's own folder on its machine, relative to the user's home."""
    return f"{FOLDER}/lieutenants/{lieutenant_id}"


def default_workspace(lieutenant_id: str) -> str:
    """Return the working folder of a remote lieutenant that was created without one."""
    return f"{home_text(lieutenant_id)}/workspace"


def launch(lieutenant: Lieutenant) -> None:
    """Start keeper and agent on the machine, or go on with an agent that waits in a paused VM.

    The follower marks the process as ready later. A VM that has to be made comes first. The caller
    holds the lieutenant's lease.
    """
    try:
        if not made_vms.bring_up(lieutenant):
            return
        if frozen := lieutenant.frozen_process():
            remote_pause.take_up(lieutenant, frozen)
            return
        process = Process(lieutenant=lieutenant, host=lieutenant.host, transport="ssh", agent="")
        process.directory = f"{home_text(lieutenant.pk)}/runs/{process.pk}"
        if open_row(process, lieutenant):
            _launch(lieutenant, process)
    except DatabaseError:
        # The rows say what is to be done; the next reconcile does it.
        raise
    except Exception as error:
        # Nobody knows better at the next try.
        logger.exception("%s: the start failed", lieutenant)
        fail(lieutenant, _unexpected(error))


def _launch(lieutenant: Lieutenant, process: Process) -> None:
    steps, transport = Steps(process), ssh_transport_of(lieutenant)
    try:
        session = reach(transport, steps)
        _bring_programs(transport, session, steps)
        _end_inherited(lieutenant, transport, steps)
    except (ReefError, TransportError, OSError) as error:
        start_failed(process, _problem(lieutenant, error))
        return
    except Exception as error:
        # Such as an answer of the machine in a form that nobody expects.
        logger.exception("%s: the start failed", lieutenant)
        start_failed(process, _unexpected(error))
        return
    try:
        with steps.step("agent") as entry:
            if older := older_agents.find(lieutenant, process, transport):
                entry["note"] = f"pid {older.pid}, {older_agents.LABEL}"
                older_agents.attach(lieutenant, process, older, transport, session)
            else:
                _start(lieutenant, process, transport, session, entry)
    except (NotConnected, ReefError, OSError) as error:
        # Nothing was started.
        start_failed(process, _problem(lieutenant, error))
    except TransportError as error:
        logger.warning("%s: the start failed: %s", lieutenant, error)
        resolve_lost_start(process, _problem(lieutenant, error))
    except Exception as error:
        logger.exception("%s: the start failed", lieutenant)
        resolve_lost_start(process, _unexpected(error))


def _unexpected(error: Exception) -> str:
    return f"The start failed ({type(error).__name__}); the worker's log has the details"


def remove_files(lieutenant: Lieutenant) -> None:
    """Remove what a destroyed lieutenant has left: its VM, or else its files on the machine.

    Does what can be done now; a reconcile comes back to the rest. A process that does not end
    keeps no VM from its deletion, by which it ends. The caller holds the lieutenant's lease.
    """
    made = made_vms.present_of(lieutenant)
    try:
        if made is not None and made_vms.begin_removal(made):
            _remove_vm(lieutenant, made)
        elif lieutenant.live_process() is None:
            _remove_folder(lieutenant)
    except Overtaken as error:
        fences.catch_up_newest(lieutenant, error.generation)
    except (TransportError, ReefError) as error:
        logger.info("%s has left something on %s: %s", lieutenant, lieutenant.host, error)


def _remove_vm(lieutenant: Lieutenant, made: MadeVM) -> None:
    if not made_vms.remove(made):
        return
    if frozen := lieutenant.frozen_process():
        # Its answers end when the follower finds it gone.
        remote_pause.thaw(lieutenant, frozen, stop=True)
    events.publish_lieutenant(lieutenant.pk)


def _remove_folder(lieutenant: Lieutenant) -> None:
    if frozen := lieutenant.frozen_process():
        remote_pause.wake_to_end(lieutenant, frozen)
        return
    if not lieutenant.has_remote_files and lieutenant.ssh_host_id is None:
        return
    if lieutenant.has_remote_files:
        newest = lieutenant.processes.order_by("-started_at", "-id").first()
        generation = newest.generation if newest else None
        # A start that had come so far would have marked its agent.
        unmarked = lieutenant.is_taken_over and not lieutenant.has_attached()
        SshTransport(place_of(lieutenant), generation).remove(lieutenant.pk, unmarked=unmarked)
    mine = Lieutenant.objects.here().filter(pk=lieutenant.pk, leased_by=lieutenant.leased_by)
    if not mine.update(has_remote_files=False, ssh_host=None):
        return
    remote_pause.pause_again(lieutenant)
    events.publish_lieutenant(lieutenant.pk)


def _problem(lieutenant: Lieutenant, error: Exception) -> str:
    return f"The agent could not be started on {lieutenant.host}: {error}"


def _bring_programs(transport: SshTransport, session: RelaySession, steps: Steps) -> None:
    with steps.step("keeper") as entry:
        there = programs.checksum() in session.facts.get("programs", ())
        entry["note"] = "it was there" if there else "copied"
        transport.link.install()


def _end_inherited(lieutenant: Lieutenant, transport: SshTransport, steps: Steps) -> None:
    """End what a VM has inherited from the one that it is a copy of, before its first start."""
    made = MadeVM.objects.present().filter(pk=lieutenant.pk, prepared_at__isnull=True).first()
    if made is None:
        return
    if made.provisioning.spec.get("commit"):
        with steps.step("inherited") as entry:
            known = Lieutenant.objects.active().filter(on_vm=lieutenant.on_vm)
            kept = list(known.values_list("pk", flat=True))
            ended = transport.evict(kept, once=made.provisioning_id)
            entry["note"] = f"{len(ended)} inherited agents and their sessions were removed"
            if not made.provisioning.profile:
                # Otherwise the boot script has replaced the identity.
                machines.end_identity(transport.place.machine())
    MadeVM.objects.filter(pk=made.pk).update(prepared_at=timezone.now())


def _start(
    lieutenant: Lieutenant,
    process: Process,
    transport: SshTransport,
    session: RelaySession,
    entry: dict[str, Any],
) -> None:
    dialect = dialect_of(lieutenant)
    dialect.check_config()
    root = str(session.facts["root"])
    home = Home(Path(root, "lieutenants", lieutenant.pk))
    machine = _look(lieutenant, transport, session, home)
    program = dialect.find_remote_program(lieutenant, machine)
    entry["note"] = program.label
    process.agent, process.state = program.label[:1024], dict(program.state)
    prepared = dialect.prepare_remote(lieutenant, home, machine)
    process.state = {**process.state, **prepared.state}
    facts = {"agent": process.agent, "state": process.state}
    if not renew_start(process, **facts):
        raise NotNow("its start was given up meanwhile")
    Lieutenant.objects.here().filter(pk=lieutenant.pk).update(has_remote_files=True)
    spec = Launch(
        run=process.pk,
        dir=process.directory,
        argv=[*program.argv, *prepared.arguments],
        env=_environment(lieutenant, home, session.facts, prepared.environment),
        cwd=_absolute(lieutenant.folder, session.facts),
        lock=str(home.root / "session.lock"),
        heal=list(prepared.heal),
        tag=f"REEF_LIEUTENANT={lieutenant.pk}",
        hello=[dialect.query_state(READY).line],
        stop_seconds=program.stop_seconds,
        warnings=list(dialect.warnings),
    )
    start_commits.note_start(lieutenant)
    texts = dialect.remote_config(_address_for(lieutenant))
    adopt_keeper(process, transport.start(spec, _files(lieutenant, texts)))


def _look(
    lieutenant: Lieutenant, transport: SshTransport, session: RelaySession, home: Home
) -> RemoteMachine:
    dialect = dialect_of(lieutenant)
    names, files = dialect.remote_programs(lieutenant), dialect.remote_files(lieutenant, home)
    found = transport.look(names, files)
    _check_memory(lieutenant, found.get("free_mib"))
    return RemoteMachine(
        python=str(session.facts["python"]),
        programs=str(Path(session.facts["root"], "programs", programs.checksum())),
        found={name: FoundProgram(**each) for name, each in found["programs"].items()},
        sizes=found["sizes"],
    )


def _check_memory(lieutenant: Lieutenant, free: int | None) -> None:
    """Raise NotNow if the machine has too little free memory for one more agent."""
    node = Node.objects.active().filter(vm_id=lieutenant.on_vm).first()
    needed = config.integer("REEF_VM_FREE_MIB", node)
    if free is not None and free < needed:
        raise NotNow(
            f"it has {free} MiB of free memory, and a start needs {needed} MiB (REEF_VM_FREE_MIB)"
        )


def _files(lieutenant: Lieutenant, texts: Mapping[str, str]) -> HomeFiles:
    return HomeFiles(
        folders=("runs", "workspace", "session", "home"),
        emptied=("tmp", "agent"),
        files={
            remote_notes.NAME: remote_notes.text_of(lieutenant),
            "system-prompt.md": lieutenant.system_prompt,
            **{f"agent/{name}": text for name, text in texts.items()},
        },
        once={"home/.gitconfig": GIT_CONFIG.format(name=lieutenant.name)},
    )


def _absolute(path: str, facts: Mapping[str, Any]) -> str:
    return f"{facts['home']}/{path[2:]}" if path.startswith("~/") else path


def _environment(
    lieutenant: Lieutenant, home: Home, facts: Mapping[str, Any], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the agent's whole environment: the machine's paths and proxies, our keys."""
    withheld = dialect_of(lieutenant).withheld | _OF_THIS_HOST
    ours = [name for name in settings.AGENT_ENV if name in os.environ and name not in withheld]
    fleet = membership.fleet_environment(lieutenant)
    if "VERS_INFRA_URL" in fleet:
        fleet["VERS_INFRA_URL"] = _address_for(lieutenant)
    return {
        "LANG": "C.UTF-8",
        **{str(name): str(value) for name, value in dict(facts["env"]).items()},
        **{name: os.environ[name] for name in ours},
        **own,
        "HOME": str(home.user),
        "TMPDIR": str(home.tmp),
        "USER": lieutenant.name,
        "LOGNAME": lieutenant.name,
        **fleet,
        "REEF_LIEUTENANT": lieutenant.pk,
    }


def _address_for(lieutenant: Lieutenant) -> str:
    """Return reef's address as the lieutenant's VM reaches it."""
    node = Node.objects.active().filter(vm_id=membership.vm_id_of(lieutenant)).first()
    return (config.text("VERS_INFRA_URL", node) or settings.INFRA_URL).rstrip("/")
