"""Start of an agent on a VM, in recorded steps."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError
from django.utils import timezone

from bootloader.inventory import machines
from bootloader.providers.base import MachineState
from lieutenants import membership
from lieutenants.agents import dialect_of
from lieutenants.agents.base import FoundProgram, RemoteMachine
from lieutenants.exceptions import NotConnected, TransportError
from lieutenants.isolation.homes import GIT_CONFIG, Home
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision.starts import (
    adopt_keeper,
    renew_start,
    resolve_lost_start,
    start_failed,
)
from lieutenants.supervision.transports import ssh_transport_of
from lieutenants.supervision.transports.base import READY, Launch
from lieutenants.supervision.transports.ssh import programs
from lieutenants.supervision.transports.ssh.session import RelaySession
from lieutenants.supervision.transports.ssh.transport import HomeFiles, SshTransport
from reef_site.common import events
from reef_site.common.errors import ReefError
from reef_site.common.text import clip_words
from versconfig import config
from vmtree.models import Node

logger = logging.getLogger(__name__)

FOLDER = "~/.reef-agents"
# A VM that was paused needs a moment until its SSH answers.
WAKE_SECONDS = 25.0
_RETRY_SECONDS = 0.5
# Variables of reef's environment that only make sense on its own host.
_OF_THIS_HOST = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "TERM"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
    )
)


class Steps:
    """The steps of one start, kept in the row of its process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Record a step with its time, and its problem if it fails."""
        began = time.monotonic()
        entry: dict[str, Any] = {"name": name, "at": timezone.now().isoformat()}
        self._process.steps = [*self._process.steps, entry]
        self._save()
        try:
            yield entry
        except Exception as error:
            entry["problem"] = clip_words(str(error), 500)
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 3)
            self._save()

    def _save(self) -> None:
        Process.objects.filter(pk=self._process.pk).update(steps=self._process.steps)
        events.publish_lieutenant(self._process.lieutenant_id)


def home_text(lieutenant_id: str) -> str:
    """Return the lieutenant's own folder on its machine, relative to the user's home."""
    return f"{FOLDER}/lieutenants/{lieutenant_id}"


def default_workspace(lieutenant_id: str) -> str:
    """Return the working folder of a remote lieutenant that was created without one."""
    return f"{home_text(lieutenant_id)}/workspace"


def launch(lieutenant: Lieutenant) -> None:
    """Start keeper and agent on the machine. The follower marks the process as ready later."""
    process = Process(lieutenant=lieutenant, host=lieutenant.host, transport="ssh", agent="")
    process.directory = f"{home_text(lieutenant.pk)}/runs/{process.pk}"
    try:
        # The row is saved first, so that a started process can always be found.
        process.save(force_insert=True)
    except IntegrityError:
        logger.info("%s has a process already", lieutenant)
        return
    steps, transport = Steps(process), ssh_transport_of(lieutenant)
    try:
        session = _reach(transport, steps)
        _bring_programs(transport, session, steps)
    except (ReefError, TransportError, OSError) as error:
        start_failed(process, _problem(lieutenant, error))
        return
    try:
        with steps.step("agent") as entry:
            _start(lieutenant, process, transport, session, entry)
    except (NotConnected, ReefError, OSError) as error:
        # Nothing was started.
        start_failed(process, _problem(lieutenant, error))
    except TransportError as error:
        logger.warning("%s: the start failed: %s", lieutenant, error)
        resolve_lost_start(process, _problem(lieutenant, error))


def remove_files(lieutenant: Lieutenant) -> None:
    """Remove what a destroyed lieutenant has left on its machine, if that can be reached."""
    try:
        if lieutenant.has_remote_files:
            ssh_transport_of(lieutenant).remove(lieutenant.pk)
    except TransportError as error:
        logger.info("%s has left files on %s: %s", lieutenant, lieutenant.host, error)
        return
    Lieutenant.objects.filter(pk=lieutenant.pk).update(has_remote_files=False, ssh_host=None)
    events.publish_lieutenant(lieutenant.pk)


def _problem(lieutenant: Lieutenant, error: Exception) -> str:
    return f"The agent could not be started on {lieutenant.host}: {error}"


def _reach(transport: SshTransport, steps: Steps) -> RelaySession:
    """Wake the machine and connect. Raises ReefError, NotConnected."""
    with steps.step("vm") as entry:
        was_paused = bool(transport.place.vm_id) and _wake(transport)
        if was_paused:
            entry["note"] = "it was paused, and wakes up"
    with steps.step("ssh") as entry:
        known = transport.link.session
        session = _connect(transport, WAKE_SECONDS if was_paused else 0.0)
        entry["note"] = (
            "the connection was open"
            if session is known
            else (f"login {session.login_seconds:.2f} s, relay {session.relay_seconds:.2f} s")
        )
    with steps.step("identity") as entry:
        facts = session.facts
        name = facts.get("vm_id") or facts.get("hostname")
        entry["note"] = f"{name}, Python {facts.get('version')}, user id {facts.get('uid')}"
    return session


def _wake(transport: SshTransport) -> bool:
    """Resume a paused VM of a provider; return whether it was paused."""
    machine = transport.place.machine()
    seen = machines.refresh(machine)
    if seen is None or seen.state is not MachineState.PAUSED:
        return False
    machines.resume(machine)
    return True


def _connect(transport: SshTransport, patience: float) -> RelaySession:
    end = time.monotonic() + patience
    while True:
        try:
            return transport.link.wait_until_open(force=True)
        except NotConnected:
            if time.monotonic() >= end:
                raise
            time.sleep(_RETRY_SECONDS)


def _bring_programs(transport: SshTransport, session: RelaySession, steps: Steps) -> None:
    with steps.step("keeper") as entry:
        there = programs.checksum() in session.facts.get("programs", ())
        entry["note"] = "it was there" if there else "copied"
        transport.link.install()


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
    process.save(update_fields=["agent", "state"])
    if not renew_start(process):
        logger.info("%s: its start took so long that it was given up meanwhile", lieutenant)
        return
    Lieutenant.objects.filter(pk=lieutenant.pk).update(has_remote_files=True)
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
    adopt_keeper(process, transport.start(spec, _files(lieutenant, dialect.remote_config())))


def _look(
    lieutenant: Lieutenant, transport: SshTransport, session: RelaySession, home: Home
) -> RemoteMachine:
    dialect = dialect_of(lieutenant)
    names, files = dialect.remote_programs(lieutenant), dialect.remote_files(lieutenant, home)
    found = transport.look(names, files)
    return RemoteMachine(
        python=str(session.facts["python"]),
        programs=str(Path(session.facts["root"], "programs", programs.checksum())),
        found={name: FoundProgram(**each) for name, each in found["programs"].items()},
        sizes=found["sizes"],
    )


def _files(lieutenant: Lieutenant, texts: Mapping[str, str]) -> HomeFiles:
    return HomeFiles(
        folders=("runs", "workspace", "session", "home"),
        emptied=("tmp", "agent"),
        files={
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
        node = Node.objects.active().filter(vm_id=membership.vm_id_of(lieutenant)).first()
        fleet["VERS_INFRA_URL"] = config.text("VERS_INFRA_URL", node) or settings.INFRA_URL
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
