"""Agents that an older server has started on a machine: followed where they run.

The keeper starts a helper beside such an agent (`Dialect.attendant`), which has the pipes of an
agent and passes on what goes through them. All else is as with other agents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lieutenants.agents import dialect_of
from lieutenants.exceptions import NotNow
from lieutenants.models import Lieutenant, Process
from lieutenants.supervision import remote_notes
from lieutenants.supervision.starts import adopt_keeper, renew_start
from lieutenants.supervision.transports.base import READY, Launch
from lieutenants.supervision.transports.ssh import programs
from lieutenants.supervision.transports.ssh.older import OlderAgent
from lieutenants.supervision.transports.ssh.session import RelaySession
from lieutenants.supervision.transports.ssh.transport import HomeFiles, SshTransport

_SESSION = Lieutenant._meta.get_field("session_name").default
LABEL = "started by an older server"
# The helper gives the agent four seconds, and copies its last output.
_STOP_SECONDS = 12.0


def find(lieutenant: Lieutenant, process: Process, transport: SshTransport) -> OlderAgent | None:
    """Return the agent that this lieutenant has taken over, if it still runs there.

    From now on that agent bears its mark, also if the start fails. If the lieutenant is to begin a
    new session, the agent is ended. Raises TransportError, NotNow.
    """
    if not lieutenant.is_taken_over:
        return None
    older = transport.find_older()
    if older is None:
        return None
    if older.owner not in ("", lieutenant.pk):
        if not lieutenant.has_attached():
            raise NotNow("another lieutenant has taken its agent over")
        return None
    transport.own_older(lieutenant.pk, older)
    if lieutenant.session_name == _SESSION:
        return older
    transport.end(process.directory, {}, keeper=False)
    if transport.find_older() is not None:
        raise NotNow("the agent that an older server has started cannot be ended")
    return None


def attach(
    lieutenant: Lieutenant,
    process: Process,
    older: OlderAgent,
    transport: SshTransport,
    session: RelaySession,
) -> None:
    """Start keeper and helper beside the agent. Raises TransportError, NotNow."""
    facts: dict[str, Any] = session.facts
    dialect, root = dialect_of(lieutenant), Path(facts["root"])
    home = root / "lieutenants" / lieutenant.pk
    helper = root / "programs" / programs.checksum() / dialect.attendant
    process.agent = f"{dialect.name}, {LABEL}"
    if not renew_start(process, agent=process.agent):
        raise NotNow("its start was given up meanwhile")
    Lieutenant.objects.here().filter(pk=lieutenant.pk).update(has_remote_files=True)
    words = ["attach", older.folder, str(older.pid), str(older.started), str(home)]
    spec = Launch(
        run=process.pk,
        dir=process.directory,
        argv=[str(facts["python"]), "-I", "-S", str(helper), *words],
        env={
            "PATH": str(facts["env"]["PATH"]),
            "HOME": str(facts["home"]),
            "REEF_LIEUTENANT": lieutenant.pk,
        },
        cwd="/",
        lock=str(home / "session.lock"),
        heal=[],
        tag=f"REEF_LIEUTENANT={lieutenant.pk}",
        hello=[dialect.query_state(READY).line],
        stop_seconds=_STOP_SECONDS,
        warnings=list(dialect.warnings),
    )
    files = HomeFiles(
        folders=("runs", "workspace", "session", "home"),
        files={remote_notes.NAME: remote_notes.text_of(lieutenant)},
    )
    adopt_keeper(process, transport.start(spec, files))
