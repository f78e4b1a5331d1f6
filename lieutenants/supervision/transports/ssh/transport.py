"""Keepers on VMs, reached over one SSH connection a VM."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lieutenants.agents.base import Outgoing
from lieutenants.exceptions import TransportError
from lieutenants.supervision.transports.base import Handle, Launch
from lieutenants.supervision.transports.ssh.link import START_SECONDS, Link
from lieutenants.supervision.transports.ssh.older import OlderAgent, parse_older
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.pump import Pump

_FINAL_COMMAND_SECONDS = 3
# Processes get time to end, one after another if all on a machine are to end.
END_SECONDS, EVICT_SECONDS = 30.0, 120.0
_KEYS = (
    *("keeper_pid", "keeper_started", "agent_pid", "agent_started", "boot_id"),
    *("isolation", "own_user"),
)


@dataclass(frozen=True)
class HomeFiles:
    """Folders and files that a lieutenant's folder needs before a start, by paths below it."""

    folders: Sequence[str] = ()
    # Folders that are empty at each start.
    emptied: Sequence[str] = ()
    # Texts of files, for the agent's user only. They may hold secrets.
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    # The same, for files that are kept if they exist.
    once: Mapping[str, str] = field(default_factory=dict)


class Links:
    """The connections of this process, by place."""

    def __init__(self) -> None:
        self._links: dict[Place, Link] = {}
        self._lock = threading.Lock()
        self._pump = Pump()

    def get(self, place: Place) -> Link:
        """Return the connection to a place; it opens when it is needed."""
        with self._lock:
            found = self._links.get(place)
            if found is None or not found.touch():
                found = self._links[place] = Link(place, self._pump, self._forget)
            return found

    def _forget(self, link: Link) -> None:
        """Forget a connection that nobody has needed for a while."""
        with self._lock:
            if not link.retire():
                return
            if self._links.get(link.place) is link:
                del self._links[link.place]
        self._pump.remove(link)

    def find(self, place: Place) -> Link | None:
        """Return the connection to a place, if it was used before."""
        with self._lock:
            return self._links.get(place)

    def drop(self, place: Place) -> None:
        """Close the connection to a place, if there is one; the next use opens another."""
        with self._lock:
            link = self._links.pop(place, None)
        if link is not None:
            link.close()
            self._pump.remove(link)

    def close_all(self) -> None:
        """Close all connections, as at the end of a worker. Keepers and agents go on."""
        with self._lock:
            links, self._links = list(self._links.values()), {}
        for link in links:
            link.close()
            self._pump.remove(link)


links = Links()


class SshTransport:
    """See `base.Transport`. Journals are pushed; `read` takes what has arrived."""

    is_remote = True

    def __init__(self, place: Place, generation: int | None = None) -> None:
        """`generation` is that of the follower; keepers refuse commands of an older one."""
        self.place = place
        self._generation = generation

    @property
    def link(self) -> Link:
        """Return the connection to the machine."""
        return links.get(self.place)

    def start(self, launch: Launch, home: HomeFiles | None = None) -> Handle:
        """Start the keeper; the agent's environment goes through the channel, never argv."""
        home = home or HomeFiles()
        request = {
            "op": "start",
            "spec": launch.spec(),
            "folders": list(home.folders),
            "emptied": list(home.emptied),
            "files": dict(home.files),
            "once": dict(home.once),
        }
        return _handle(self.link.ask(request, seconds=START_SECONDS)["handle"])

    def look(self, names: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
        """Return `programs` that were found, by these names, and `sizes` of these files."""
        return self.link.ask({"op": "look", "names": list(names), "files": list(files)})

    def find(self, directory: str) -> Handle | None:
        """Ask for the keeper's own file."""
        found = self.link.ask({"op": "find", "dir": directory})["handle"]
        return _handle(found) if found else None

    def send(self, directory: str, commands: Sequence[Outgoing]) -> None:
        """Pass commands on, if there is a connection.

        Without any, the keeper learns which follower it has to obey. Raises Overtaken if that is
        a newer one than this.
        """
        lines = [{"id": each.id, "line": each.line} for each in commands]
        request = {"op": "send", "dir": directory, "commands": lines}
        self.link.ask({**request, "generation": self._generation}, connect=False)

    def can_read(self, directory: str, begin: int, end: int) -> bool:
        """Ask for the journal from `begin` on, and return whether all before `end` is here.

        If the machine is gone, it never will be, so that nothing must wait for it.
        """
        return self.link.follow(directory, begin).holds(end) or self.link.is_lost

    def read(self, directory: str, offset: int, limit: int) -> bytes:
        """Return what has arrived of the journal."""
        return self.link.follow(directory, offset).read(offset, limit) or b""

    def shorten(self, directory: str, offset: int) -> None:
        """Ask the machine to release the space, now or when it can be reached."""
        self.link.post({"op": "shorten", "dir": directory, "at": offset})

    def skip_gap(self, directory: str, offset: int) -> int:
        """Return the end of the released part, as the relay has found it."""
        follow = self.link.followed(directory)
        end = follow.skip_gap() if follow else None
        if end is None:
            raise TransportError("The journal has no gap there")
        return end

    def alive(self, handle: Handle, directory: str = "") -> bool:
        """Return whether the keeper runs, as far as is known. Never waits for the machine.

        A keeper has ended only when the whole rest of its journal has arrived.
        """
        link = self.link
        follow = link.followed(directory) if directory else None
        return not (link.is_lost or (follow is not None and follow.is_over))

    def unreachable(self, handle: Handle, directory: str) -> str:
        """Return why machine or keeper cannot be reached."""
        if trouble := self.link.trouble():
            return trouble
        follow = self.link.followed(directory)
        return follow.out if follow else ""

    def silent_seconds(self) -> float | None:
        """Return for how long nothing came through the connection."""
        return self.link.silent_seconds()

    def withdraw(self, directory: str) -> Handle | None:
        """Leave a file on the machine that makes later keepers refuse."""
        if self.link.is_lost:
            return None
        found = self.link.ask({"op": "withdraw", "dir": directory})["handle"]
        return _handle(found) if found else None

    def stop(self, directory: str, handle: Handle, final_command: Outgoing | None) -> None:
        """Ask the keeper to stop; if it is gone, end the processes that it left."""
        if self.link.is_lost:
            return
        farewell = final_command.line if final_command else None
        request: dict[str, Any] = {"op": "stop", "dir": directory, "generation": self._generation}
        request["farewell"] = farewell
        self.link.ask({**request, "farewell_wait": _FINAL_COMMAND_SECONDS})

    def end(self, directory: str, handle: Handle, *, keeper: bool) -> None:
        """End the agent's processes, and the keeper."""
        if not self.link.is_lost:
            request = {"op": "end", "dir": directory, "handle": handle, "keeper": keeper}
            self.link.ask({**request, "generation": self._generation}, seconds=END_SECONDS)

    def release(self, directory: str) -> None:
        """Stop following."""
        if link := links.find(self.place):
            link.unfollow(directory)

    def clean(self, directory: str) -> None:
        """Stop following, and ask the machine to remove the run's folder."""
        self.link.unfollow(directory)
        if not self.link.is_lost:
            request = {"op": "clean", "dir": directory, "generation": self._generation}
            self.link.post(request)

    def remove(self, lieutenant_id: str, *, unmarked: bool = False) -> None:
        """Remove all that a destroyed lieutenant has left on the machine.

        With `unmarked`, an older server's agent there that bears no mark is its own. Raises
        TransportError while something of it still runs.
        """
        if not self.link.is_lost:
            request = {"op": "remove", "lieutenant": lieutenant_id, "unmarked": unmarked}
            self.link.ask({**request, "generation": self._generation}, seconds=END_SECONDS)

    def evict(self, kept: Sequence[str], *, once: str) -> list[str]:
        """End all agents but those of these lieutenants, and remove their files; return whose.

        A machine does that once for each text `once`.
        """
        request = {"op": "evict", "kept": list(kept), "once": once}
        found: list[str] = self.link.ask(request, seconds=EVICT_SECONDS)["ended"]
        return found

    def list_runs(self) -> list[dict[str, Any]]:
        """Return all runs on the machine: lieutenant, run, handle, alive."""
        found: list[dict[str, Any]] = self.list_agents()["runs"]
        return found

    def list_agents(self) -> dict[str, Any]:
        """Return as `runs` all runs on the machine, and as `older` an older server's agent."""
        return self.link.ask({"op": "list"})

    def describe(self, directories: Sequence[str], *, note: str) -> list[dict[str, Any]]:
        """Return for each of these runs: note (the object in that file of its lieutenant),
        session (the newest file of its session), generation (of its newest follower).
        """
        found: list[dict[str, Any]] = self.link.ask(
            {"op": "describe", "dirs": list(directories), "note": note}
        )["runs"]
        return found

    def end_found(self, directory: str, handle: Handle) -> bool:
        """End exactly the keeper and agent that were found; return whether they have ended."""
        request = {"op": "end_found", "dir": directory, "handle": handle}
        return self.link.ask(request, seconds=END_SECONDS)["gone"] is True

    def end_older_found(self, pid: int, started: int) -> bool:
        """End exactly that agent of an older server; return whether it has ended."""
        request = {"op": "end_older_found", "pid": pid, "started": started}
        return self.link.ask(request, seconds=END_SECONDS)["gone"] is True

    def find_older(self) -> OlderAgent | None:
        """Return the agent on the machine that an older server has started, if there is one."""
        try:
            return parse_older(self.link.ask({"op": "older"})["older"])
        except (KeyError, TypeError, ValueError) as error:
            raise TransportError(f"The machine's answer is damaged: {error}") from None

    def read_changes(self, question: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Return what `keeper.changes` answers to this question there."""
        request = {"op": "changes", "question": dict(question)}
        found: dict[str, Any] = self.link.ask(request, seconds=seconds)["answer"]
        return found

    def own_older(self, lieutenant_id: str, older: OlderAgent) -> None:
        """Mark that agent as this lieutenant's. Raises TransportError if it has ended."""
        facts = {"pid": older.pid, "started": older.started}
        self.link.ask({"op": "own", "lieutenant": lieutenant_id, **facts})


def _handle(answer: dict[str, Any]) -> Handle:
    return {key: answer.get(key) for key in _KEYS}
